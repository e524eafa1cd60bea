"""The commands that read the audit log: `audit show`, `audit verify`, `audit export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rich.table import Table
from rich.text import Text

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.json_value import JsonValue
from retinue.actors.domain.values.rfc3339 import to_rfc3339
from retinue.actors.durable.audit import AuditEntry, Report
from retinue.cluster.cli.common import connected
from retinue.cluster.terminal import render
from retinue.cluster.terminal.outcome import FAILED, OK, print_json
from retinue.cluster.terminal.render import say

if TYPE_CHECKING:
    from retinue.cluster.client.client import Retinue
    from retinue.cluster.client.workspace import Workspace

_LONGEST_DETAIL = 100


async def show(directory: Path | None, last: int, as_json: bool) -> int:
    """The newest entries, oldest first."""
    async with connected() as retinue:
        workspace = await find_workspace(retinue, directory)
        reports = await workspace.audit()
        entries = sorted(_entries(reports), key=lambda one: (one.at, one.chain, one.row))
        newest = entries[-last:] if last else []
        if as_json:
            print_json({"workspace": workspace.path, "entries": [_json(one) for one in newest]})
        else:
            render.show(_table(newest))
            if len(entries) > last:
                say(f"retinue: the newest {last} of {len(entries)}; --last N shows more")
        return _judge(reports)


async def verify(directory: Path | None, as_json: bool) -> int:
    """Check every chain, and name the first wrong entry of each."""
    async with connected() as retinue:
        workspace = await find_workspace(retinue, directory)
        reports = await workspace.audit()
        problems: list[JsonValue] = [one.problem for one in reports if one.problem]
        count = sum(len(one.entries) for one in reports)
        if as_json:
            print_json(
                {
                    "workspace": workspace.path,
                    "chains": len(reports),
                    "entries": count,
                    "problems": problems,
                }
            )
        elif not problems:
            print(f"{count} entries in {len(reports)} chains of {workspace.path}: all in order")
        return _judge(reports)


async def export(directory: Path | None, output: Path | None) -> int:
    """Write the log as a signed document."""
    async with connected() as retinue:
        workspace = await find_workspace(retinue, directory)
        text = await workspace.export_audit()
    if output is None:
        print(text, flush=True)
        return OK
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidValue(f"{output}: can't be written: {error.strerror}") from error
    say(f"retinue: the audit log of {workspace.path} is in {output}")
    return OK


async def find_workspace(retinue: Retinue, directory: Path | None) -> Workspace:
    """The registered workspace of a directory (this one unless given)."""
    wanted = (directory or Path()).expanduser().resolve()
    for workspace in await retinue.workspaces():
        if Path(workspace.path) == wanted:
            return workspace
    raise InvalidValue(
        f"workspace: {wanted} has no sessions yet; name one with --workspace DIR", field="workspace"
    )


def _entries(reports: list[Report]) -> list[AuditEntry]:
    return [entry for report in reports for entry in report.entries]


def _judge(reports: list[Report]) -> int:
    problems = [one.problem for one in reports if one.problem]
    for problem in problems:
        say(f"retinue: audit: {problem}")
    return FAILED if problems else OK


def _table(entries: list[AuditEntry]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("time", "chain", "what", "detail"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        told = _told(entry)[:_LONGEST_DETAIL]
        table.add_row(to_rfc3339(entry.at), entry.chain, entry.kind, Text(told))
    return table


def _told(entry: AuditEntry) -> str:
    """The parts of an entry that matter most to a person."""
    detail = entry.detail
    decision = detail.get("decision")
    if entry.kind == "authorized" and isinstance(decision, dict):
        ground = decision.get("proof") or decision.get("reason") or ""
        return f"{detail.get('action')}: {decision.get('kind')}, {ground}"
    if entry.kind == "spawned" and isinstance(children := detail.get("children"), list):
        return f"{len(children)} sub-agents: {detail.get('label')}"
    who = detail.get("by") or (decision.get("decided_by") if isinstance(decision, dict) else "")
    text = json.dumps(detail, default=str, ensure_ascii=False)
    return f"by {who}: {text}" if who else text


def _json(entry: AuditEntry) -> JsonValue:
    return {
        "at": to_rfc3339(entry.at),
        "chain": entry.chain,
        "entry": entry.row,
        "kind": entry.kind,
        "detail": cast(JsonValue, json.loads(json.dumps(entry.detail, default=str))),
    }
