"""What a fault is, and how faults are made to happen on a stage.

A fault finds something to hit, hits it, and puts back what it took away. It looks for its target
among the processes of the run and in the ledger, not by asking the system, so that it works
whatever state that is in. Each of the other files here has a table, `FAULTS`: what is hit, and how.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from retinue.cluster.settings import ClusterSettings
from tests.chaos.client.drivers import Drivers
from tests.chaos.ledger import Ledger, Line, Reader
from tests.chaos.plan import Fault
from tests.kit.processes import Sign


class Ground(Protocol):
    """What faults happen to: a cluster that is up, until `close`."""

    @property
    def home(self) -> Path:
        """Where everything of this run is."""

    @property
    def sign(self) -> Sign:
        """What all its processes carry."""

    @property
    def address(self) -> str | None:
        """Where clients join; None if they find it by themselves."""

    @property
    def settings(self) -> ClusterSettings:
        """As clients and actors have them."""

    @property
    def dead_raylets(self) -> list[int]:
        """Those that were killed: nothing of theirs may stay."""

    @property
    def complaints(self) -> list[str]:
        """What the cluster did not do for itself."""

    def direct_settings(self) -> ClusterSettings:
        """As `settings`, with nothing between the reader and Redis."""

    async def mend(self) -> None:
        """Put back, after a round, what it has lost for good."""

    def close(self) -> list[str]:
        """Take everything down; what had to be killed for that, for people."""


G_co = TypeVar("G_co", bound=Ground, covariant=True)
G_contra = TypeVar("G_contra", bound=Ground, contravariant=True)


@dataclass(frozen=True)
class Field(Generic[G_co]):
    """What a fault has at hand."""

    ground: G_co
    drivers: Drivers
    reader: Reader
    ledger: Ledger


@dataclass(frozen=True)
class FaultKind(Generic[G_contra]):
    """A kind of fault on a stage.

    ``hit`` makes one happen, and answers when it is over: with a few words about it, or '' if
    there was nothing to hit.

    ``holds`` is what it takes hold of (its name, unless another is given): two that hold the same
    come one after the other. An ``outage`` is one that others are aimed into, and ``during`` how
    much this kind is wanted for that.
    """

    name: str
    hit: Callable[[Field[G_contra], Fault], Awaitable[str]]
    holds: str = ""
    outage: bool = False
    during: int = 0


class Faults(Generic[G_contra]):
    """Makes faults happen on a field, and counts those that hit something."""

    def __init__(self, kinds: Sequence[FaultKind[G_contra]], field: Field[G_contra]) -> None:
        self.hits: dict[str, int] = {}
        self._kinds = {kind.name: kind for kind in kinds}
        self._field = field
        self._only_one: dict[str, asyncio.Lock] = {}

    async def make(self, fault: Fault) -> str:
        """Let a fault happen; returns when it is over, with a few words about it."""
        kind = self._kinds[fault.kind]
        async with self._only_one.setdefault(kind.holds or kind.name, asyncio.Lock()):
            text = await kind.hit(self._field, fault)
        if text:
            self.hits[fault.kind] = self.hits.get(fault.kind, 0) + 1
        self._field.ledger.note(Line("fault", fault.kind, value=text))
        return f"{fault.kind}: {text or 'nothing there'}"
