"""Messages: what an agent adds to its history."""

from __future__ import annotations

from retinue import Message
from tests.chaos.workloads.life import Life, Workload


async def say(life: Life) -> None:
    """A message."""
    op = life.op()
    life.ledger.note(life.line("tried", "say", op, value=op))
    await life.turn.add_message(Message.assistant(op))
    life.ledger.note(life.line("told", "say", op, value=op))


WORKLOADS = (Workload("messages", say, weight=4),)
