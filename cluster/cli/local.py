"""The commands about this machine: `up`, `down`, `doctor`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

import msgspec
from rich.table import Table
from rich.text import Text

from retinue.actors.domain.values.json_value import JsonValue
from retinue.cluster.doctor import machine as doctor
from retinue.cluster.doctor import nodes as cluster_doctor
from retinue.cluster.doctor.node_report import NodeReport
from retinue.cluster.local.running import alive, trouble
from retinue.cluster.local.state import state_directory
from retinue.cluster.terminal.display import waiting
from retinue.cluster.terminal.outcome import OK, UNAVAILABLE, print_json
from retinue.cluster.terminal.render import say, show
from retinue.cluster.up import daemon

_GIB = 1 << 30
_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("problem", "bold red")}


def up(as_json: bool) -> int:
    """Start a cluster that outlives the command."""
    with waiting("starting Ray and Redis"):
        found, started = daemon.start()
    if as_json:
        document: dict[str, JsonValue] = {
            "started": started,
            "pid": found.pid,
            "state": found.state,
            "address": found.address,
            "state_directory": str(state_directory()),
            "log": str(daemon.log_file()),
        }
        print_json(document)
    elif started:
        say(f"retinue: up (process {found.pid}, log {daemon.log_file()}); `retinue down` stops it")
    elif problem := trouble(found, alive, time.time()):
        say(f"retinue: {problem}")
    else:
        say(f"retinue: is up already (process {found.pid})")
    return OK


def down(as_json: bool) -> int:
    """Stop the cluster that `up` has started."""
    with waiting("stopping Ray and Redis"):
        pid = daemon.stop()
    if as_json:
        print_json({"stopped": pid is not None, "pid": pid})
    else:
        say(
            "retinue: nothing was up" if pid is None else f"retinue: down (process {pid} has ended)"
        )
    return OK


def examine(as_json: bool) -> int:
    """Report the parts that are there, those that are missing, and the remedies."""
    with waiting("looking around"):
        checks = doctor.examine()
    fine = all(one.verdict != "problem" for one in checks)
    if as_json:
        listed: list[JsonValue] = [msgspec.to_builtins(one) for one in checks]
        print_json({"ok": fine, "checks": listed})
    else:
        show(_findings(checks))
        return _conclude(fine)
    return OK if fine else UNAVAILABLE


async def examine_cluster(as_json: bool) -> int:
    """Report the state of each node, and its fit with the others."""
    # Ray's import takes a second, which others need not wait
    from retinue.cluster.doctor.collect import examine

    with waiting("asking every node"):
        found = await examine()
    findings = cluster_doctor.judge(found)
    if as_json:
        print_json(cast("dict[str, JsonValue]", cluster_doctor.as_json(found, findings)))
        return OK if findings.fine else UNAVAILABLE
    show(_nodes(found))
    for node in found.nodes:
        if findings.nodes[node.id]:
            show(Text(f"\n{node.address}", style="bold"), _findings(findings.nodes[node.id]))
    if findings.cluster:
        show("", _findings(findings.cluster))
    for kind, counts in found.stored.items():
        listed = ", ".join(f"{count} in form {form}" for form, count in counts.items())
        say(f"retinue: stored: {kind}: {listed}")
    return _conclude(findings.fine)


def _conclude(fine: bool) -> int:
    say("retinue: all is well" if fine else "retinue: not all is well: do what is said above")
    return OK if fine else UNAVAILABLE


def _nodes(found: cluster_doctor.Cluster) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("node", "Retinue", "Ray", "Python", "Redis ms", "clock ms", "GiB free"):
        table.add_column(name, no_wrap=True)
    table.add_column("hosts", justify="right")
    table.add_column("agents", justify="right")
    for node in found.nodes:
        table.add_row(node.address, *_node_cells(node.report), str(node.hosts), str(node.agents))
    return table


def _node_cells(report: NodeReport | None) -> tuple[str, ...]:
    if report is None:
        return ("?",) * 6
    runs, redis, free = report.software, report.redis, report.memory_free
    return (
        runs.retinue or "?",
        runs.ray,
        runs.python,
        "-" if redis.error else f"{redis.round_trip_ms:.1f}",
        "-" if redis.error else f"{redis.skew_ms:+.0f}",
        "?" if free is None else f"{free / _GIB:.1f}",
    )


def _findings(checks: Sequence[doctor.Check]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in checks:
        mark, style = _MARKS[one.verdict]
        remedy = f"\n→ {one.remedy}" if one.remedy else ""
        table.add_row(Text(mark, style=style), one.name, Text(one.found + remedy))
    return table
