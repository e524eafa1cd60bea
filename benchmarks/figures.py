"""What is measured: the keys of the table, how far each has to reach, and what a row comes to."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Series: TypeAlias = "dict[str, list[tuple[float, float]]]"
"""Lines of a plot: for each name its points."""


@dataclass(frozen=True)
class Key:
    """One figure of the table: its name in `latest.json`, what it says, and where it must be."""

    name: str
    what: str
    unit: str = "x"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def reach(self) -> str:
        """The target in words; "report" where there is none."""
        if self.at_least is not None:
            return f"≥ {self.at_least:,g}"
        return "report" if self.at_most is None else f"≤ {self.at_most:,g}"

    def met(self, value: float) -> bool:
        """Whether ``value`` is where it must be."""
        high_enough = self.at_least is None or value >= self.at_least
        return high_enough and (self.at_most is None or value <= self.at_most)


KEYS = (
    Key(
        "spawn_process_vs_ray_actor",
        "start of a plain Ray actor and its first reply ÷ spawn of a process child and its reply",
        at_least=150,
    ),
    Key(
        "fanout_shared_vs_autogen_inprocess",
        "shared sub-agents/s at fan-out 1,000 ÷ AutoGen Core in-process, create and call",
        at_least=1.0,
    ),
    Key(
        "fanout_shared_vs_autogen_grpc",
        "shared sub-agents/s at fan-out 1,000 ÷ AutoGen Core's gRPC runtime, create and call",
        at_least=4,
    ),
    Key(
        "authorize_vs_ray_call",
        "authorisations/s of 64 sessions ÷ calls/s into one plain async Ray actor",
        at_least=8,
    ),
    Key(
        "authorize_p50_vs_redis_lua",
        "p50 of one turn.authorize ÷ p50 of a Redis Lua budget script, same Redis",
        at_most=2.0,
    ),
    Key(
        "add_message_vs_openai_redis_session",
        "p50 of turn.add_message ÷ p50 of the OpenAI Agents SDK's Redis session, same Redis",
        at_most=0.5,
    ),
    Key(
        "turn_cost_10k_vs_10",
        "cost of a turn at 10,000 stored messages ÷ at 10",
        at_most=1.2,
    ),
    Key("activation_p50_ms", "first reply of a hibernated session", "ms"),
    Key(
        "recovered_per_s",
        "sessions revived a second after all hosts were killed",
        "/s",
        at_least=300,
    ),
    Key(
        "live_session_kib",
        "memory of the hosts per live idle shared session",
        "KiB",
        at_most=64,
    ),
    Key(
        "hibernated_session_bytes",
        "Redis memory per hibernated session with 10 short messages",
        "B",
        at_most=3000,
    ),
    Key("leased_overspend", "64 sessions race to one cap: nano-USD over it", "nano", at_most=0),
    Key("leased_stranded", "the same: nano-USD that nobody could spend", "nano", at_most=0),
)


@dataclass(frozen=True)
class Figure:
    """One measured figure: the median of its rounds, and the lowest and the highest of them."""

    key: str
    value: float
    low: float
    high: float
    absolute: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    series: Series = field(default_factory=dict)


def figure(
    key: str,
    rounds: Sequence[float],
    absolute: Mapping[str, float],
    notes: Sequence[str] = (),
    series: Series | None = None,
) -> Figure:
    """The figure that ``rounds`` come to; ``absolute`` names plain numbers with their units."""
    return Figure(
        key,
        statistics.median(rounds),
        min(rounds),
        max(rounds),
        absolute,
        notes,
        series or {},
    )
