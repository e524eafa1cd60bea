"""Ray's fake node provider, made to start nodes of types that say how much memory they have."""

from __future__ import annotations

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class Provider(FakeMultiNodeProvider):
    """Each node is a raylet on this machine, started by the autoscaler's process."""

    def _create_node_with_resources_and_labels(
        self,
        node_config: dict[str, object],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        """Leaves the memory to be found out: Ray's own passes it where Ray refuses it."""
        named = {name: amount for name, amount in resources.items() if name != "memory"}
        super()._create_node_with_resources_and_labels(  # type: ignore[no-untyped-call]
            node_config, tags, count, named, labels
        )
