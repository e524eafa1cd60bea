"""Money: none lost, none charged twice, no cap passed."""

from __future__ import annotations

from collections import Counter

from retinue.actors.domain.budget.state import WORKSPACE
from retinue.actors.domain.budget.totals import level_of
from tests.chaos.checks.books import Books
from tests.chaos.checks.findings import Findings
from tests.chaos.checks.records import Op, Records
from tests.chaos.workloads.life import CENT


def _decisions(records: Records, books: Books, findings: Findings) -> None:
    """Two lives hear the same of an operation."""
    for op in records.of("authorize"):
        answers = {(line.id, line.value, line.proof, line.amount) for _, line in op.told}
        if len(answers) > 1:
            findings.add("double", f"{op.op} was decided in {len(answers)} ways: {answers}")


def _spend(records: Records, books: Books, findings: Findings) -> None:
    """What a session has spent lies between what it surely has and what it may have."""
    least: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for op in records.of("authorize"):
        low, high = _bounds(op, records, books)
        least[op.line.session] += low
        most[op.line.session] += high
    for id, state in books.sessions.items():
        if state.spent < least[id]:
            findings.add("lost", f"session {id}: spent {state.spent}, at least {least[id]} was")
        if state.spent > most[id]:
            findings.add("double", f"session {id}: spent {state.spent}, at most {most[id]} was")
        if state.reservations:
            findings.add("leaked", f"session {id}: {len(state.reservations)} reservations")


def _bounds(op: Op, records: Records, books: Books) -> tuple[int, int]:
    """What an operation may have cost, in nano-USD, once everything has ended."""
    asked = op.tried[0][1].amount
    settle = records.get("settle", op.op)
    if not op.told:
        return 0, asked + (CENT if settle else 0)
    amount = op.told[0][1].amount
    if settle is None:
        return amount, amount
    actual = settle.line.amount
    if settle.told:
        return actual, actual
    return min(actual, amount), max(actual, amount)


def _books_agree(records: Records, books: Books, findings: Findings) -> None:
    for workspace_id, state in books.budgets.items():
        for id, account in state.accounts.items():
            spent = books.spent(id)
            if account.spent < spent:
                findings.add("lost", f"budget: {account.spent} of the {spent} that {id} spent")
            if account.spent > spent:
                findings.add("double", f"budget: {account.spent}, and {id} spent {spent}")
            if account.held > account.spent:
                findings.add("leaked", f"budget: {account.held - account.spent} lent to {id}")
        told = records.get("budget", f"budget {workspace_id}")
        total = level_of(state, WORKSPACE).spent
        if told and told.told[-1][1].amount != total:
            findings.add("lost", f"workspace: {told.told[-1][1].amount} told, {total} kept")
    _results_agree(records, books, findings)


def _results_agree(records: Records, books: Books, findings: Findings) -> None:
    """The runs of a root cost what its whole family has spent."""
    families: Counter[str] = Counter()
    cut_short: set[str] = set()
    for id, summary in books.summaries.items():
        families[summary.family_id] += books.spent(id)
        if books.sessions[id].closed == "cancelled" or not books.is_done(id):
            cut_short.add(summary.family_id)
    for family, spent in families.items():
        state = books.sessions.get(family)
        if state is None or state.runs or family in cut_short:
            continue  # what was cancelled does not know all that its sub-agents have spent
        total = sum(result.cost for result in state.results.values())
        if total != spent:
            kind = "lost" if total < spent else "double"
            findings.add(kind, f"family {family}: its results say {total}, it has spent {spent}")


def _caps(records: Records, books: Books, findings: Findings) -> None:
    """What was surely spent and reserved, line by line, against the highest cap up to then."""
    levels = _levels(books)
    caps: dict[str, int] = {op.line.session: op.line.amount for op in records.of("create")}
    for state in books.budgets.values():
        caps.update(state.allotments)
    held: Counter[str] = Counter()
    amounts: dict[str, int] = {}
    over: set[str] = set()
    for line in records.lines:
        if line.what == "cap" and line.kind == "tried":
            caps[line.id] = max(line.amount, caps.get(line.id, 0))
        if line.what not in ("authorize", "settle"):
            continue
        before = amounts.get(line.op, 0)
        if (line.what, line.kind) == ("authorize", "told"):
            if line.op in amounts:
                continue
            now = line.amount
        elif (line.what, line.kind) == ("settle", "tried"):
            now = min(before, line.amount)
        else:
            continue
        amounts[line.op] = now
        for level in levels.get(line.session, []):
            held[level] += now - before
            if level in caps and held[level] > caps[level] and level not in over:
                over.add(level)
                findings.add("overspent", f"{level}: {held[level]} of {caps[level]} at {line.op}")


def _levels(books: Books) -> dict[str, list[str]]:
    found = {}
    for workspace_id, state in books.budgets.items():
        for id, account in state.accounts.items():
            found[id] = [*account.path, account.family, workspace_id]
    return found


CHECKS = (_decisions, _spend, _books_agree, _results_agree, _caps)
