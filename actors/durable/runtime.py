"""The base of every actor of a process: journal, key, clock and source of ids."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from retinue.actors.domain.values.ids import uuid7
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.brakes import Brakes
from retinue.actors.durable.committer import Committer
from retinue.actors.durable.entity import Clock
from retinue.actors.durable.journal import Journal
from retinue.actors.ports import Registry


def system_clock() -> int:
    """The time in microseconds since the epoch, UTC."""
    return time.time_ns() // 1000


@dataclass
class Runtime:
    """The runtime of a process; its entities share the committer, and so the group commit.

    ``on_fenced`` is called when a store of this process finds that another actor has taken over:
    the process should end, and be restarted if it is the one that should be there.
    """

    journal: Journal
    registry: Registry
    keyring: Keyring
    clock: Clock = system_clock
    on_fenced: Callable[[], None] = lambda: None
    brakes: Brakes = field(init=False)
    committer: Committer = field(init=False)

    def __post_init__(self) -> None:
        self.brakes = Brakes(self.journal, self.keyring)
        self.committer = Committer(self.journal, self.brakes.learn)

    def new_id(self) -> str:
        """A fresh UUID v7."""
        return uuid7(self.clock(), os.urandom(10))
