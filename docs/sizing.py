"""``python -m docs.sizing [--write]``: the tables of figures in `operations.md`.

They are computed from the last runs of `make bench` and `python -m benchmarks.operations`, and from
the limits in the code; with ``--write`` they replace those in the document.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

from retinue.cluster.directory.pool import PROCESSES_PER_HOST, SHARED_PER_HOST
from retinue.cluster.settings import ClusterSettings

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE / "operations.md"
RESULTS = HERE.parent / "benchmarks" / "results"

SESSIONS = (1_000, 100_000, 1_000_000)
NODES = ((2, 4), (4, 16), (8, 64))
"""Processors and GiB: the workers of `k8s/base`, and those of `k8s/overlays/production`."""

HOSTS_PER_PROCESSOR = 4
USABLE = 0.7
"""The share of a node's memory for hosts and agents; the rest is for Ray and the agents' work."""

ACTION_EVERY_S = 10
COMMITS_PER_ACTION = 2
_DAY_S = 86_400
_KIB, _MIB, _GIB = 2**10, 2**20, 2**30


class Figure(NamedTuple):
    """A measured figure: its place in a file of results, and its meaning."""

    name: str
    what: str
    unit: str
    row: str = ""

    def value(self, results: Results) -> float | None:
        """The figure as it was measured; None if that failed."""
        if self.row:
            value = _of_row(results, self.row, self.name)
            return None if math.isnan(value) else value
        found = results.get(self.name)
        return float(found) if isinstance(found, int | float) else None


Results = dict[str, object]

BENCH = (
    Figure("live_session_kib", "a live idle shared session, in its host", "KiB"),
    Figure(
        "directory_and_stores_kib_per_session",
        "the same, in directory and stores",
        "KiB",
        "live_session_kib",
    ),
    Figure("hibernated_session_bytes", "a stored session with 10 short messages, in Redis", "B"),
    Figure("activation_p50_ms", "first reply of a stored session", "ms"),
    Figure("recovered_per_s", "sessions at work again after all hosts died", "/s"),
    Figure("retinue_p50_ms", "one authorisation, alone (p50)", "ms", "authorize_p50_vs_redis_lua"),
    Figure("retinue_per_s", "authorisations of 64 sessions", "/s", "authorize_vs_ray_call"),
    Figure("retinue_per_s", "shared sub-agents", "/s", "fanout_shared_vs_autogen_inprocess"),
    Figure(
        "retinue_p50_ms",
        "a process sub-agent, to its result (p50)",
        "ms",
        "spawn_process_vs_ray_actor",
    ),
)
OPERATIONS = (
    Figure("host_mib", "a host, before its first session (imports only)", "MiB"),
    Figure("fork_server_mib", "a host's fork server", "MiB"),
    Figure("agent_process_mib", "an agent's process, on top of the fork server", "MiB"),
    Figure("commit_p50_ms", "one commit, alone (p50)", "ms"),
    Figure("commits_per_s", "commits of one process, in groups of up to 256", "/s"),
    Figure("redis_cpu_us_per_commit_alone", "Redis's processor for a commit alone", "µs"),
    Figure("redis_cpu_us_per_commit", "Redis's processor for a commit in a group", "µs"),
    Figure("redis_bytes_per_commit", "Redis memory of a commit, until the next snapshot", "B"),
    Figure("log_bytes_per_commit", "append-only file of a commit, until it is rewritten", "B"),
    Figure("kept_bytes_per_action", "Redis memory of an authorised action, for good", "B"),
)


class Measured(NamedTuple):
    """The results from which the tables are computed."""

    bench: Results
    operations: Results

    def of(self, name: str) -> float:
        """A figure by its name; NaN if it was not measured."""
        for figures, results in ((BENCH, self.bench), (OPERATIONS, self.operations)):
            for one in figures:
                if one.name == name:
                    value = one.value(results)
                    return math.nan if value is None else value
        raise KeyError(name)


def measured() -> Measured:
    """The results of the last runs."""
    bench, operations = (
        json.loads((RESULTS / f"{name}.json").read_text()) for name in ("latest", "operations")
    )
    return Measured(bench, operations)


def figures(found: Measured) -> str:
    """The table of all figures measured, and the machine they were measured on."""
    lines = ["| figure | | value | run |", "| --- | --- | ---: | --- |"]
    run, machine = (cast("Results", found.bench[name]) for name in ("run", "machine"))
    command = "make bench-quick" if run["quick"] else "make bench"
    for group, results, name in (
        (BENCH, found.bench, command),
        (OPERATIONS, found.operations, "python -m benchmarks.operations"),
    ):
        for one in group:
            value = one.value(results)
            shown = "not measured" if value is None else f"{_number(value, 4)} {one.unit}"
            key = f"`{one.row}`: `{one.name}`" if one.row else f"`{one.name}`"
            lines.append(f"| {one.what} | {key} | {shown} | `{name}` |")
    live, stored, revived = (
        _number(_of_row(found.bench, row, "sessions"))
        for row in ("live_session_kib", "hibernated_session_bytes", "recovered_per_s")
    )
    lines += [
        "",
        f"Measured on {machine['processors']} x {machine['processor']}, {machine['memory_gib']} "
        f"GiB ({run['date']} and {found.operations['date']}), Ray, Redis and clients on the same "
        f"machine, with {live} live, {stored} stored and {revived} recovering sessions. What "
        "follows for more of them is arithmetic.",
    ]
    return "\n".join(lines)


def sizes(found: Measured) -> str:
    """The table of resources for given numbers of sessions."""
    of = found.of
    per_s = COMMITS_PER_ACTION / ACTION_EVERY_S
    rows: Sequence[tuple[str, Callable[[int], str]]] = (
        ("Redis memory, all stored", lambda n: _bytes(n * of("hibernated_session_bytes"))),
        ("hosts' memory, all live and shared", lambda n: _bytes(_shared(found, n))),
        (
            "directory and stores, all live",
            lambda n: _bytes(n * of("directory_and_stores_kib_per_session") * _KIB),
        ),
        (
            "hosts, all live and shared",
            lambda n: f"{math.ceil(n / SHARED_PER_HOST):,}",
        ),
        ("memory, all at work in processes", lambda n: _bytes(_processes(found, n))),
        (
            "hosts, all at work in processes",
            lambda n: f"{math.ceil(n / PROCESSES_PER_HOST):,}",
        ),
        ("all at work again after all hosts died", lambda n: _time(n / of("recovered_per_s"))),
        (
            f"commits/s, an action each {ACTION_EVERY_S} s",
            lambda n: f"{n * per_s:,.0f}",
        ),
        (
            "processors of Redis for that, in groups - alone",
            lambda n: " - ".join(
                _number(n * per_s * of(name) / 1e6)
                for name in ("redis_cpu_us_per_commit", "redis_cpu_us_per_commit_alone")
            ),
        ),
        (
            "Redis memory for that, for good, a day",
            lambda n: _bytes(n * of("kept_bytes_per_action") * _DAY_S / ACTION_EVERY_S),
        ),
    )
    head = ["| sessions | " + " | ".join(f"{n:,}" for n in SESSIONS) + " |"]
    head.append("| --- |" + " ---: |" * len(SESSIONS))
    return "\n".join(head + [f"| {what} | {' | '.join(map(of, SESSIONS))} |" for what, of in rows])


def nodes(found: Measured) -> str:
    """The table of sessions that fit on a node, and the limit of the pool."""
    lines = [
        "| node | hosts | live shared sessions | agents at work in processes |",
        "| --- | ---: | ---: | ---: |",
    ]
    for processors, gib in NODES:
        hosts = HOSTS_PER_PROCESSOR * processors
        usable = USABLE * gib * _GIB - hosts * found.of("host_mib") * _MIB
        forks = usable - hosts * found.of("fork_server_mib") * _MIB
        shared = usable / (found.of("live_session_kib") * _KIB)
        agents = forks / (found.of("agent_process_mib") * _MIB)
        lines.append(
            f"| {processors} processors, {gib} GiB | {hosts} "
            f"| {_lower(shared, processors * SHARED_PER_HOST)} "
            f"| {_lower(agents, hosts * PROCESSES_PER_HOST)} |"
        )
    most = ClusterSettings("").max_hosts
    lines += [
        "",
        f"However many nodes there are, the pool of a cluster that clients join is made for {most} "
        f"hosts (`max_hosts`): {most * SHARED_PER_HOST:,} live shared sessions, if there are as "
        f"many processors, and {most * PROCESSES_PER_HOST:,} sub-agents at work in processes.",
    ]
    return "\n".join(lines)


TABLES = {"figures": figures, "sizes": sizes, "nodes": nodes}


def written(document: str, found: Measured) -> str:
    """The document with all tables as they are now."""
    for name, table in TABLES.items():
        part = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = table(found)
        document, count = part.subn(partial(_filled, text), document)
        if count != 1:
            raise ValueError(f"{count} places for the table of {name}")
    return document


def _of_row(results: Results, row: str, name: str) -> float:
    """A further figure in a row of the benchmarks; NaN if it was not measured."""
    absolute = cast("dict[str, dict[str, float]]", results["absolute"])
    return absolute.get(row, {}).get(name, math.nan)


def _filled(text: str, place: re.Match[str]) -> str:
    return f"{place[1]}{text}\n{place[2]}"


def main() -> None:
    """Print the tables, or put them into the document."""
    parser = argparse.ArgumentParser(prog="python -m docs.sizing", description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace those in operations.md")
    found = measured()
    if parser.parse_args().write:
        DOCUMENT.write_text(written(DOCUMENT.read_text(), found))
    else:
        print("\n\n".join(table(found) for table in TABLES.values()))


def _shared(found: Measured, sessions: int) -> float:
    """The bytes that a number of live shared sessions take, with their hosts."""
    hosts = math.ceil(sessions / SHARED_PER_HOST)
    return sessions * found.of("live_session_kib") * _KIB + hosts * found.of("host_mib") * _MIB


def _processes(found: Measured, agents: int) -> float:
    """The bytes that a number of agents at work take, with their hosts and fork servers."""
    hosts = math.ceil(agents / PROCESSES_PER_HOST)
    each = found.of("host_mib") + found.of("fork_server_mib")
    return (agents * found.of("agent_process_mib") + hosts * each) * _MIB


def _lower(by_memory: float, by_slots: int) -> str:
    if math.isnan(by_memory):
        return "not measured"
    if by_memory < by_slots:
        return f"{int(float(f'{by_memory:.2g}')):,} (memory)"
    return f"{by_slots:,} (slots)"


def _number(value: float, digits: int = 3) -> str:
    if math.isnan(value):
        return "not measured"
    short = float(f"{value:.{digits}g}")
    return f"{short:,.0f}" if short >= 100 else f"{short:g}"


def _bytes(value: float) -> str:
    if math.isnan(value):
        return "not measured"
    unit, name = next(
        (one for one in ((2**40, "TiB"), (_GIB, "GiB")) if value >= one[0]), (_MIB, "MiB")
    )
    return f"{_number(value / unit)} {name}"


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "not measured"
    if seconds < 120:
        return f"{_number(seconds)} s"
    return f"{_number(seconds / 60)} min" if seconds < 7200 else f"{_number(seconds / 3600)} h"


if __name__ == "__main__":
    main()
