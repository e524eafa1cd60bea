"""The stages: what is up on each, and what can be hit there. All that is composed is composed here.

The same driver with the same kind of work, the same ledger and the same checks go over each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tests.chaos import hits, local_hits, node_hits
from tests.chaos.cluster import ChaosCluster
from tests.chaos.faults import FaultKind, Ground
from tests.chaos.local import LocalCluster
from tests.chaos.plan import Menu

G = TypeVar("G", bound=Ground)


@dataclass(frozen=True)
class Stage(Generic[G]):
    """``share`` is that of all rounds; ``open`` brings the ground up in a directory, by a seed."""

    name: str
    share: float
    open: Callable[[Path, int], AbstractContextManager[G]]
    kinds: tuple[FaultKind[G], ...]

    @property
    def menu(self) -> Menu:
        """What the plan needs to know."""
        return Menu(
            self.name,
            self.share,
            kinds=[kind.name for kind in self.kinds],
            outages=[kind.name for kind in self.kinds if kind.outage],
            during=[kind.name for kind in self.kinds for _ in range(kind.during)],
        )


_EVERYWHERE: tuple[FaultKind[Ground], ...] = (
    FaultKind("session_host", hits.host_at_work(own_process=True), during=1),
    FaultKind("shared_host", hits.host_at_work(own_process=False), during=2),
    FaultKind("agent_process", hits.agent_process, during=1),
    FaultKind("budget", hits.actor("Budget"), during=1),
    FaultKind("allowances", hits.actor("Allowances"), during=1),
    FaultKind("capabilities", hits.actor("Capabilities")),
    FaultKind("directory", hits.actor("DirectoryActor")),
    FaultKind("driver", hits.driver),
)

_NODES: tuple[FaultKind[ChaosCluster], ...] = (
    FaultKind("node", node_hits.node, holds="ray"),
    FaultKind("raylet", node_hits.raylet, holds="ray"),
    FaultKind("gcs", node_hits.gcs, holds="ray"),
    FaultKind("redis", node_hits.redis, outage=True),
    FaultKind("cut_before", node_hits.cut("before"), holds="line", outage=True),
    FaultKind("cut_after", node_hits.cut("after"), holds="line", outage=True),
    FaultKind("slow_redis", node_hits.slow, holds="line", outage=True),
    FaultKind("paused_host", node_hits.paused_host),
)

_LOCAL: tuple[FaultKind[LocalCluster], ...] = (
    FaultKind("daemon", local_hits.daemon, holds="ray"),
    FaultKind("raylet", local_hits.part("raylet", LocalCluster.raylets), holds="ray"),
    FaultKind("gcs", local_hits.part("gcs", LocalCluster.control_services), holds="ray"),
    FaultKind("redis", local_hits.redis, outage=True),
)

STAGES: tuple[Stage[Any], ...] = (
    Stage("nodes", 0.7, ChaosCluster, (*_EVERYWHERE, *_NODES)),
    Stage("local", 0.3, LocalCluster, (*_EVERYWHERE, *_LOCAL)),
)
