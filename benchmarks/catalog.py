"""The rows, in the order in which they are measured, and which keys each one brings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.bench import Bench
from benchmarks.figures import Figure
from benchmarks.rows import (
    activation,
    authorize,
    fanout,
    history,
    leases,
    memory,
    messages,
    recovery,
    spawn,
)

Measure = Callable[[Bench], Awaitable[list[Figure]]]


@dataclass(frozen=True)
class Row:
    """One module's measurement."""

    measure: Measure
    keys: tuple[str, ...]


# The last two kill hosts and fill them up, so they come last.
ROWS = (
    Row(spawn.measure, ("spawn_process_vs_ray_actor",)),
    Row(
        fanout.measure,
        ("fanout_shared_vs_autogen_inprocess", "fanout_shared_vs_autogen_grpc"),
    ),
    Row(authorize.measure_throughput, ("authorize_vs_ray_call",)),
    Row(authorize.measure_latency, ("authorize_p50_vs_redis_lua",)),
    Row(messages.measure, ("add_message_vs_openai_redis_session",)),
    Row(history.measure, ("turn_cost_10k_vs_10",)),
    Row(activation.measure_activation, ("activation_p50_ms",)),
    Row(activation.measure_hibernated, ("hibernated_session_bytes",)),
    Row(leases.measure, ("leased_overspend", "leased_stranded")),
    Row(recovery.measure, ("recovered_per_s",)),
    Row(memory.measure, ("live_session_kib",)),
)


def rows(only: str | None) -> list[Row]:
    """All rows, or the one that brings the key ``only``; KeyError if none does."""
    found = [row for row in ROWS if only is None or only in row.keys]
    if not found:
        raise KeyError(only)
    return found
