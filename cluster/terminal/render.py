"""The command line's look: tables, trees and amounts, as rich renderables. Its only I/O: printing.

Labels, prompts and reasons come from agents: they are shown as plain text, without the control
characters that would let an agent draw on the terminal of the person who decides.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from retinue.actors.domain.session.messages import Message
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.values.money import usd_text
from retinue.actors.views import SessionView
from retinue.cluster.client.tree import SessionTree
from retinue.cluster.terminal.overview import HELD, INTERRUPTED, Overview, status_of

if TYPE_CHECKING:
    from retinue.cluster.client.budgets import BudgetStatus
    from retinue.cluster.client.inbox import InboxRequest

_ENDLESS = 100_000  # columns where there is no terminal: lines are the reader's to break
_SHORT = 60
_ID = 36  # characters
_FOLDED = frozenset({"budget", "output"})
_NUMBERS = frozenset({"agents", "cost", "spent", "reserved", "cap", "used"})
_STYLES = {
    "running": "cyan",
    "initialising": "cyan",
    "completed": "green",
    "failed": "red",
    "timed_out": "red",
    "cancelled": "yellow",
    "ended": "dim",
    INTERRUPTED: "bold yellow",
    HELD: "bold yellow",
}


def stdout() -> Console:
    """The console for results."""
    return _console(stderr=False)


def stderr() -> Console:
    """The console for progress, hints and errors."""
    return _console(stderr=True)


def show(*renderables: RenderableType) -> None:
    """Print results, without padding unless they go to a terminal."""
    console = stdout()
    if console.is_terminal:
        console.print(*renderables, sep="\n")
        return
    with console.capture() as captured:
        console.print(*renderables, sep="\n")
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)


def say(text: str) -> None:
    """Prints a line for the person at the terminal."""
    print(clean(text), file=sys.stderr, flush=True)


def usd(nano: int) -> str:
    """An amount, as in ``0.0015 USD``."""
    return f"{usd_text(nano)} USD"


def clean(text: str) -> str:
    """``text`` with control characters made visible, newlines and tabs kept."""
    if text.isprintable():
        return text
    return "".join(one if one in "\n\t" or one.isprintable() else "\ufffd" for one in text)


def one_line(text: str, most: int = _SHORT) -> str:
    """The beginning of ``text`` on one line."""
    words = " ".join(clean(text).split())
    return words if len(words) <= most else f"{words[: most - 1]}…"


def lasting(seconds: float) -> str:
    """A duration for people: 0.42 s, 7 s, 3:05, 2:03:05."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(int(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def ago(micros: int) -> str:
    """The rough age of a time."""
    seconds = max(time.time() - micros / 1_000_000, 0)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def sessions_table(listed: Iterable[Overview], width: int) -> Table:
    """A row for each session; a narrow terminal omits the least important columns."""
    optional = [name for name, needed in (("age", 92), ("workspace", 120)) if width >= needed]
    table = _table("session", "what", "status", "agents", "cost", *optional)
    for one in listed:
        further = {
            "age": Text(ago(one.summary.created_at)),
            "workspace": Text(clean(one.summary.workspace_path or "-")),
        }
        table.add_row(
            one.summary.id,
            Text(one_line(one.summary.label, min(max(width - 74, 8), 40))),
            _status(one.status),
            str(one.agents or ""),
            usd(one.total),
            *(further[name] for name in optional),
        )
    return table


@dataclass(frozen=True)
class Folding:
    """The part of a tree that is shown: levels below the root, and siblings (None: all)."""

    depth: int | None = None
    siblings: int | None = None


def tree_view(tree: SessionTree, live: bool, folding: Folding) -> Tree:
    """A line for each session with its own cost, and its branch's if it has one."""
    view = Tree(_node(tree, live))
    _grow(view, tree, live, folding, 0)
    return view


def session_details(
    view: SessionView, status: str, budget: BudgetStatus, agents: int, total: int
) -> Table:
    """All about one session."""
    profile = view.profile
    rows: dict[str, str | Text] = {
        "session": profile.id,
        "what": Text(clean(view.summary.label)),
        "status": _status(status),
        "cost": f"{usd(total)}, {usd(view.summary.spent)} of it its own",
        "budget": budget_text(budget),
        "sub-agents": str(agents),
        "created": ago(profile.created_at),
        "agent": Text(profile.agent.name if profile.agent else "none: it can be read, not run"),
        "isolation": profile.isolation,
        "model": Text(profile.model or "-"),
        "workspace": Text(profile.workspace_path or "-"),
        "user": profile.user_id,
        "parent": profile.parent_id or "-",
        "turns": f"{view.turn_count}, {view.tool_call_count} tool calls, "
        f"{view.approval_count} approvals",
        "messages": f"{view.summary.messages}, about {view.token_count} tokens",
        "tags": Text(", ".join(map(clean, view.tags)) or "-"),
        "queued": f"{len(view.queued)} runs" if view.queued else "-",
    }
    return _pairs(rows)


def messages_view(messages: Iterable[Message]) -> Table:
    """Messages, each with its number and role."""
    rows: dict[str, str | Text] = {}
    for at, one in enumerate(messages, 1):
        rows[f"{at} {one.role}"] = _clip(one.text)
    return _pairs(rows)


def results_view(results: Iterable[Result]) -> Table:
    """Results, a line each."""
    table = _table("run", "status", "cost", "took", "output")
    for one in results:
        table.add_row(
            one.run_id,
            _status(one.status),
            usd(one.cost),
            lasting(one.duration_s),
            Text(one_line(one.error or one.output)),
        )
    return table


def budgets_table(budgets: Iterable[tuple[str, BudgetStatus]]) -> Table:
    """Budgets by name, a line each."""
    table = _table("budget", "spent", "reserved", "cap", "used")
    for name, one in budgets:
        cap = "none" if one.max is None else usd(one.max)
        used = f"{100 * (one.spent + one.reserved) / one.max:.1f} %" if one.max else "-"
        table.add_row(Text(clean(name)), usd(one.spent), usd(one.reserved), cap, used)
    return table


def budget_text(status: BudgetStatus) -> str:
    """A budget in a few words."""
    cap = "no cap" if status.max is None else f"of {usd(status.max)}"
    reserved = f", {usd(status.reserved)} reserved" if status.reserved else ""
    return f"{usd(status.spent)} {cap}{reserved}"


def requests_view(requests: Iterable[InboxRequest]) -> Text:
    """Two lines for each request, with ids first for copying."""
    view = Text()
    for one in requests:
        state = "deferred" if one.deferred else "its agent waits"
        view.append(one.id, style="bold")
        view.append(f"  {clean(one.description)}\n")
        view.append(f"  {one.priority} priority, {one.risk} risk, {state}, ", style="dim")
        view.append(f"{ago(one.created_at)}, session {one.session_id}\n", style="dim")
        if one.context:
            view.append(f"  why: {one_line(one.context, 200)}\n")
    view.rstrip()
    return view


def _console(stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = _ENDLESS
    return console


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(
            name,
            min_width=_ID if name in ("session", "run") else None,
            no_wrap=name not in _FOLDED,
            overflow="fold" if name in _FOLDED else "ellipsis",
            justify="right" if name in _NUMBERS else "left",
        )
    return table


def _pairs(rows: dict[str, str | Text]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value if isinstance(value, Text) else Text(value))
    return table


def _clip(text: str) -> Text:
    lines = clean(text).strip().splitlines()
    more = f"\n… {len(lines) - 10} more lines" if len(lines) > 10 else ""
    return Text("\n".join(lines[:10]) + more)


def _status(status: str) -> Text:
    return Text(status, style=_STYLES.get(status, ""))


def _node(tree: SessionTree, live: bool) -> Text:
    summary = tree.summary
    line = Text(no_wrap=True, overflow="ignore")
    line.append(one_line(summary.label), style="bold" if tree.children else "")
    line.append("  ")
    line.append_text(_status(status_of(summary, live)))
    line.append(f"  {usd(summary.spent)}")
    if tree.children:
        line.append(f"  branch {usd(tree.total)}", style="bold")
    line.append(f"  {summary.id}", style="dim")
    if summary.error:
        line.append(f"  {one_line(summary.error)}", style="red")
    return line


def _grow(view: Tree, tree: SessionTree, live: bool, folding: Folding, depth: int) -> None:
    children = tree.children
    shown = children if folding.siblings is None else children[: folding.siblings]
    if folding.depth is not None and depth >= folding.depth:
        shown = []
    for child in shown:
        _grow(view.add(_node(child, live)), child, live, folding, depth + 1)
    if hidden := children[len(shown) :]:
        view.add(Text(_hidden_line(hidden, bool(shown)), style="dim", no_wrap=True))


def _hidden_line(hidden: Sequence[SessionTree], among_others: bool) -> str:
    count = sum(1 for one in hidden for _ in one.walk())
    cost = usd(sum(one.total for one in hidden))
    below = "" if len(hidden) == count else f" with {count - len(hidden)} below them"
    return f"… {'and ' if among_others else ''}{len(hidden)} more{below}, {cost}"
