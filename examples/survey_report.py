"""What `survey.py` has to tell, for people and for machines. The agents don't need this file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from retinue import BudgetStatus, Result, SessionTree

if TYPE_CHECKING:
    from survey import Findings, Survey


@dataclass(frozen=True)
class Report:
    """What there is to tell. ``answers`` is what this program was asked, and what it said."""

    result: Result
    tree: SessionTree
    said: list[str]
    answers: dict[str, str]
    waiting: list[str]
    session: BudgetStatus
    workspace: BudgetStatus

    @property
    def complete(self) -> bool:
        """Whether the root and all below it did what they should."""
        return all(node.summary.status == "completed" for node in self.tree.walk())

    @property
    def levels(self) -> list[int]:
        """How many sub-agents there were on each level below the root."""
        depths = Counter(node.summary.depth for node in self.tree.walk())
        return [depths[depth] for depth in sorted(depths) if depth]


def show(report: Report, console: Console) -> None:
    """Print a report for people."""
    found, tree = cast("Survey", report.result.value), report.tree
    total, root = found["total"], f"{found['directory']}/"
    costs = {child.summary.label: f"{child.total_usd:.9f}" for child in tree.children}
    packages = [
        (name, *_counts(one), costs.get(name, "-"))
        for name, one in sorted(found["packages"].items())
    ]
    longest = [
        (one["name"], one["where"].removeprefix(root), f"{one['lines']:,}")
        for one in total["longest"]
    ]
    imports = [(name, f"{n:,}") for name, n in Counter(total["imports"]).most_common(10)]
    asked = [line.partition(": ")[::2] for line in report.said]
    parts: list[RenderableType] = [
        _table(
            ("package",),
            ("files", "functions", "classes", "lines", "TODO", "cost in USD"),
            [*packages, ("all", *_counts(total), f"{tree.total_usd:.9f}")],
        ),
        _table(("longest functions", "where"), ("lines",), longest),
        _table(("most imported",), ("by files",), imports),
        _table(
            ("asked for", "decision", "this program said"),
            (),
            [(what, decision, report.answers.get(what, "-")) for what, decision in asked],
        ),
        _costs(tree),
        *(Text(f"left out: {one}", style="red") for one in total["skipped"]),
    ]
    for part in parts:
        console.print(part, "")


def totals(report: Report, seconds: float) -> str:
    """Sub-agents, spend against the caps, and time, in two lines."""
    levels = report.levels
    session, workspace = report.session, report.workspace
    return (
        f"{sum(levels):,} sub-agents on {len(levels)} levels ({', '.join(map(str, levels))}): "
        f"{report.result.duration_s:.1f} s, with the cluster's start {seconds:.1f} s\n"
        f"spent {session.spent_usd:f} of {session.max_usd} USD; "
        f"the workspace so far {workspace.spent_usd:f} of {workspace.max_usd} USD; "
        f"waiting for an answer: {', '.join(report.waiting) or 'nothing'}"
    )


def as_json(report: Report, seconds: float) -> str:
    """The report for machines."""
    return json.dumps(
        {
            "session": report.tree.id,
            "success": report.complete,
            "survey": report.result.value,
            "error": report.result.error,
            "sub_agents": sum(report.levels),
            "cost_usd": str(report.result.cost_usd),
            "decisions": report.said,
            "answers": report.answers,
            "waiting": report.waiting,
            "run_s": report.result.duration_s,
            "total_s": round(seconds, 3),
        },
        indent=2,
    )


def _counts(one: Findings) -> list[str]:
    counts = (one["files"], one["functions"], one["classes"], one["lines"], one["todos"])
    return [f"{count:,}" for count in counts]


def _table(left: Sequence[str], right: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _costs(node: SessionTree) -> Tree:
    """What each branch has cost, files and all; the files themselves are only counted."""
    tree = Tree(Text(f"{node.summary.label}  {node.total_usd:.9f} USD"))
    files = 0
    for child in node.children:
        if child.children or child.summary.depth == 1:
            tree.children.append(_costs(child))
        else:
            files += 1
    if files:
        tree.label = Text(f"{tree.label}  {files} file{'s' * (files > 1)}")
    return tree
