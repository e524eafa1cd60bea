"""The table of stores: everything started, called, audited and compared follows from it.

Another store is one more entry here, with the port that `retinue.actors.ports.Stores` has of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from retinue.actors.durable import machines
from retinue.actors.durable.journal import Key
from retinue.actors.durable.machines import AnyMachine
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import BudgetPort, CapabilitiesPort, PermissionsPort, Stores
from retinue.actors.stores.budget import BudgetActor
from retinue.actors.stores.capabilities import CapabilitiesActor
from retinue.actors.stores.permissions import PermissionsActor

THE_CLUSTER = "cluster"
"""The workspace of everything that belongs to no workspace."""

P = TypeVar("P")
P_co = TypeVar("P_co", covariant=True)


@dataclass(frozen=True)
class StoreSpec(Generic[P_co]):
    """A kind of store: its name, its calls, its actor, and the entities that it keeps.

    The actor is made with a runtime, a workspace's id, and the ports of the stores in ``calls``. A
    ``shared`` store is there once; of the others each workspace has its own.
    """

    name: str
    port: type[P_co]
    actor: Callable[..., P_co]
    machines: tuple[AnyMachine, ...]
    shared: bool = False
    calls: tuple[StoreSpec[object], ...] = ()

    def actor_name(self, workspace_id: str) -> str:
        """The name of the actor that serves a workspace."""
        return self.name if self.shared else f"{self.name}/{workspace_id}"

    def owner(self, workspace_id: str) -> str:
        """The workspace under which the store of a workspace is kept."""
        return THE_CLUSTER if self.shared else workspace_id

    def make(self, runtime: Runtime, workspace_id: str, find: Find) -> P_co:
        """The actor that serves a workspace; ``find`` gives the ports of other stores."""
        called = (find(spec) for spec in self.calls)
        return self.actor(runtime, self.owner(workspace_id), *called)

    def keys(self, workspace_id: str) -> list[Key]:
        """The entities that the store of a workspace keeps."""
        return [Key(self.owner(workspace_id), one.kind, one.kind) for one in self.machines]


BUDGET: StoreSpec[BudgetPort] = StoreSpec("budget", BudgetPort, BudgetActor, (machines.BUDGET,))
CAPABILITIES: StoreSpec[CapabilitiesPort] = StoreSpec(
    "capabilities", CapabilitiesPort, CapabilitiesActor, (machines.CAPABILITIES,), shared=True
)
PERMISSIONS: StoreSpec[PermissionsPort] = StoreSpec(
    "allowances",
    PermissionsPort,
    PermissionsActor,
    (machines.ALLOWANCES, machines.APPROVALS),
    calls=(CAPABILITIES,),
)

STORES: tuple[StoreSpec[object], ...] = (BUDGET, PERMISSIONS, CAPABILITIES)

MACHINES: dict[str, AnyMachine] = {
    one.kind: one for one in (machines.SESSION, *(one for spec in STORES for one in spec.machines))
}
"""The machines of everything stored, by kind."""


class Find(Protocol):
    """Returns the port through which a store is called."""

    def __call__(self, spec: StoreSpec[P], /) -> P: ...


def handles(find: Find) -> Stores:
    """The stores of a workspace, each as ``find`` has it."""
    return Stores(find(BUDGET), find(PERMISSIONS), find(CAPABILITIES))
