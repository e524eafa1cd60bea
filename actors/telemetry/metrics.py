"""The counts and measurements of this process. Counting costs an addition, so hot paths may.

The figures stay here until somebody exports them; `retinue.cluster.ray.metrics` does so for Ray's
endpoint. Times are in seconds. Names and labels are those of Prometheus.
"""

from __future__ import annotations

import time
from bisect import bisect_left

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 256)


class Counter:
    """A number that only grows, for each value of its label."""

    def __init__(self, name: str, text: str, label: str = "") -> None:
        self.name: str = name
        self.text: str = text
        self.label: str = label
        self.values: dict[str, float] = {}

    def add(self, amount: float = 1, label: str = "") -> None:
        self.values[label] = self.values.get(label, 0) + amount


class Gauge:
    """A number as it is now, for each value of its label."""

    def __init__(self, name: str, text: str, label: str = "") -> None:
        self.name: str = name
        self.text: str = text
        self.label: str = label
        self.values: dict[str, float] = {}

    def set(self, value: float, label: str = "") -> None:
        self.values[label] = value


class Histogram:
    """Counts values up to each of ``bounds``, and above the last."""

    def __init__(self, name: str, text: str, bounds: tuple[float, ...] = _SECONDS) -> None:
        self.name: str = name
        self.text: str = text
        self.bounds: tuple[float, ...] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.total: float = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def timed(self) -> Timed:
        """Measures the time of a block that ends without an error."""
        return Timed(self)


class Timed:
    """The block that a histogram times; one made by ``contextlib`` costs three times as much."""

    __slots__ = ("_begin", "_histogram")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._histogram.observe(time.perf_counter() - self._begin)


ACTIVATIONS = Counter("retinue_activations", "Stored sessions that were made live")
ACTIVATION_SECONDS = Histogram("retinue_activation_seconds", "From a call to a live session")
LIVE_SESSIONS = Gauge("retinue_live_sessions", "Sessions that are live in this host")
SPAWNED = Counter("retinue_spawned", "Sub-agents that were asked for")
SPAWN_SECONDS = Histogram("retinue_spawn_seconds", "From a spawn to its first sub-agents' start")
SPAWNS_WAITING = Gauge("retinue_spawns_waiting", "Sub-agents that wait for a slot")
RUNS = Counter("retinue_runs", "Runs that have ended, by their status", "status")
DEATHS = Counter("retinue_agent_deaths", "Agents' processes that ended without a result")
AUTHORIZATIONS = Counter("retinue_authorizations", "Actions decided, by the answer", "answer")
AUTHORIZE_SECONDS = Histogram("retinue_authorize_seconds", "From the question to a durable answer")
BUDGET_HOLDS = Counter("retinue_budget_holds", "Money set aside: lent already, or asked for", "by")
PERMISSIONS = Counter("retinue_permissions", "Permissions found: kept here, or asked for", "by")
COMMIT_SECONDS = Histogram("retinue_commit_seconds", "One group commit")
COMMIT_SIZE = Histogram("retinue_commit_entities", "Entities in one group commit", _SIZES)
FENCED = Counter("retinue_fenced", "Activations that a newer one has taken over")
SPENT_USD = Gauge(
    "retinue_spent_usd", "What a workspace has spent, as its budget knows", "workspace"
)
CAP_USD = Gauge("retinue_cap_usd", "The cap of a workspace; +Inf for none", "workspace")

COUNTERS = (ACTIVATIONS, SPAWNED, RUNS, DEATHS, AUTHORIZATIONS, BUDGET_HOLDS, PERMISSIONS, FENCED)
GAUGES = (LIVE_SESSIONS, SPAWNS_WAITING, SPENT_USD, CAP_USD)
HISTOGRAMS = (ACTIVATION_SECONDS, SPAWN_SECONDS, AUTHORIZE_SECONDS, COMMIT_SECONDS, COMMIT_SIZE)
