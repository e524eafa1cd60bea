"""The commands about this machine: `up`, `down`, `doctor`."""

from __future__ import annotations

import msgspec
from rich.table import Table
from rich.text import Text

from actors.domain.json_value import JsonValue
from cluster import daemon, doctor
from cluster.cli_common import OK, UNAVAILABLE, print_json
from cluster.console import say, show
from cluster.display import waiting
from cluster.settings import state_directory

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "problem": ("problem", "bold red")}


def up(as_json: bool) -> int:
    """Start a cluster that outlives the command."""
    with waiting("starting Ray and Redis"):
        found, started = daemon.start()
    if as_json:
        document: dict[str, JsonValue] = {
            "started": started,
            "pid": found.pid,
            "address": found.address,
            "state_directory": str(state_directory()),
            "log": str(daemon.log_file()),
        }
        print_json(document)
    elif started:
        say(f"troupe: up (process {found.pid}, log {daemon.log_file()}); `troupe down` stops it")
    else:
        say(f"troupe: is up already (process {found.pid})")
    return OK


def down(as_json: bool) -> int:
    """Stop it."""
    with waiting("stopping Ray and Redis"):
        pid = daemon.stop()
    if as_json:
        print_json({"stopped": pid is not None, "pid": pid})
    else:
        say("troupe: nothing was up" if pid is None else f"troupe: down (process {pid} has ended)")
    return OK


def examine(as_json: bool) -> int:
    """Say what is there, what is missing, and what to do."""
    with waiting("looking around"):
        checks = doctor.examine()
    fine = all(one.verdict != "problem" for one in checks)
    if as_json:
        listed: list[JsonValue] = [msgspec.to_builtins(one) for one in checks]
        print_json({"ok": fine, "checks": listed})
    else:
        show(_findings(checks))
        say("troupe: all is well" if fine else "troupe: not all is well: do what is said above")
    return OK if fine else UNAVAILABLE


def _findings(checks: list[doctor.Check]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for one in checks:
        mark, style = _MARKS[one.verdict]
        remedy = f"\n→ {one.remedy}" if one.remedy else ""
        table.add_row(Text(mark, style=style), one.name, Text(one.found + remedy))
    return table
