"""What an agent does: the same steps on every replay, each in the ledger before and after.

An errand is followed by its seed alone, so two lives of one run do the same.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import msgspec

from retinue import Turn
from tests.chaos import helpers
from tests.chaos.ledger import Ledger
from tests.chaos.workloads import leftovers, messages, money, permissions, steps, trees
from tests.chaos.workloads.life import HAS_PROCESS, Errand, Life, Workload

WORKLOADS: tuple[Workload, ...] = (
    *money.WORKLOADS,
    *permissions.WORKLOADS,
    *messages.WORKLOADS,
    *steps.WORKLOADS,
    *trees.WORKLOADS,
    *leftovers.WORKLOADS,
)
NAMES = [one.name for one in WORKLOADS]

_PEER = struct.Struct("3i")  # process, user and group id
_ledgers: dict[str, Ledger] = {}


async def run_errand(turn: Turn, prompt: str) -> str:
    """Run the errand that ``prompt`` holds."""
    errand = msgspec.json.decode(prompt, type=Errand)
    ledger = _ledgers.get(errand.ledger)
    if ledger is None:
        ledger = _ledgers[errand.ledger] = Ledger(errand.ledger)
    workloads = [one for one in WORKLOADS if one.name in (errand.work or NAMES)]
    life = Life(turn, errand, ledger, os.urandom(8).hex(), workloads)
    start = helpers.start_of(os.getpid())
    ledger.note(life.line("began", value=errand.label, amount=_host(), proof=start))
    try:
        await _all(life)
    finally:
        ledger.note(life.line("ended", value=errand.label))
    return f"{errand.label} is done"


async def _all(life: Life) -> None:
    """The steps, a spawn among them if there are levels left."""
    steps = life.rng.randint(4, 8)
    spawns_at = life.rng.randrange(1, steps) if life.errand.levels else steps
    for number in range(steps):
        if number == spawns_at:
            await trees.spawn(life)
        await life.step()


def _host() -> int:
    """The process id of the session host: this process, or the one that made its socket to it."""
    if not HAS_PROCESS:
        return os.getpid()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as line:
            if line.family is socket.AF_UNIX:
                credentials = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
                if (pid := int(_PEER.unpack(credentials)[0])) != os.getpid():
                    return pid
    return 0
