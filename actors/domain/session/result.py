"""The result of a run or a task. A failure is a result, never an exception that kills siblings."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal, TypeAlias

import msgspec

from retinue.actors.domain.values.money import to_usd
from retinue.actors.domain.values.record import Record

Status: TypeAlias = Literal[
    "initialising", "running", "completed", "failed", "cancelled", "timed_out"
]


class Result(Record, frozen=True):
    """The outcome of a run: final, and set once.

    ``output`` is the agent's return value (as text; JSON if it is not a string) or, if it returned
    nothing, failed or ran out of time, its last assistant message.
    ``cost`` is in nano-USD and includes the sub-agents; ``duration`` is in microseconds.
    """

    session_id: str
    status: Status
    output: str = ""
    error: str | None = None
    cost: int = 0
    duration: int = 0
    tool_calls: int = 0
    run_id: str = ""
    structured: bool = False

    @property
    def success(self) -> bool:
        """True if the agent returned normally."""
        return self.status == "completed"

    @property
    def value(self) -> object:
        """The agent's return value: the text, or the JSON value that it was sent as."""
        return msgspec.json.decode(self.output) if self.structured else self.output

    @property
    def cost_usd(self) -> Decimal:
        """The amount that the run and its sub-agents have spent, in USD."""
        return to_usd(self.cost)

    @property
    def duration_s(self) -> float:
        """The time from acceptance to the end, in seconds."""
        return self.duration / 1_000_000
