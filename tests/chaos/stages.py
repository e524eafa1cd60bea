"""The stages: what is up on each, and what can be hit there. All that is composed is composed here.

The same driver with the same kind of work, the same ledger and the same checks go over each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from tests.chaos.faults import everywhere, local, nodes
from tests.chaos.faults.kinds import FaultKind, Ground
from tests.chaos.grounds.local import LocalCluster
from tests.chaos.grounds.nodes import ChaosCluster
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


STAGES: tuple[Stage[Any], ...] = (
    Stage("nodes", 0.7, ChaosCluster, (*everywhere.FAULTS, *nodes.FAULTS)),
    Stage("local", 0.3, LocalCluster, (*everywhere.FAULTS, *local.FAULTS)),
)
