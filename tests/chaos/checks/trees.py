"""Sub-agents and activations: none twice, and none after the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from tests.chaos.checks.books import Books
from tests.chaos.checks.findings import Findings
from tests.chaos.checks.records import Op, Records
from tests.chaos.ledger import Line


def _children(records: Records, books: Books, findings: Findings) -> None:
    labels = Counter(
        (one.family_id, one.parent_id, one.label)
        for one in books.summaries.values()
        if one.parent_id
    )
    for (_, parent, label), count in labels.items():
        if count > 1:
            findings.add("duplicated", f"{count} sub-agents {label!r} of session {parent}")
    for op in records.of("spawn"):
        answers = {tuple(line.many) for _, line in op.told}
        if len(answers) > 1:
            findings.add("double", f"spawn {op.op} had two answers: {sorted(answers)}")
        for told in op.told[0][1].many if op.told else []:
            _child_result(told, books, findings)


def _child_result(told: str, books: Books, findings: Findings) -> None:
    id, status, cost = told.split()
    state = books.sessions.get(id)
    kept = state.results.get(id) if state else None
    if kept is None and status == "cancelled":
        return  # it was cancelled before it came to be
    if kept is None or (kept.status, str(kept.cost)) != (status, cost):
        findings.add("lost", f"sub-agent {id}: its parent was told {told}, and it has {kept}")


def _answers(records: Records, books: Books, findings: Findings) -> None:
    """Once a later life of a run was told something, an earlier one is told nothing new."""
    first_told: dict[str, int] = {}
    for op in _of_agents(records):
        for place, line in op.told:
            first_told[line.life] = min(place, first_told.get(line.life, place))
    later: dict[str, int] = {}
    by_run: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for life, (place, line) in records.lives.items():
        by_run[line.session, line.run].append((place, life))
    for lives in by_run.values():
        lives.sort()
        for at, (_, life) in enumerate(lives):
            followers = [first_told[one] for _, one in lives[at + 1 :] if one in first_told]
            if followers:
                later[life] = min(followers)
    for op in _of_agents(records):
        tried = {line.life: place for place, line in op.tried}
        first = op.told[0][1].life if op.told else ""
        for _, line in op.told:
            limit = later.get(line.life)
            if line.life == first and limit is not None and tried.get(line.life, 0) > limit:
                findings.add("duplicated", f"{op.what} {op.op} was answered to an old activation")


def _of_agents(records: Records) -> Iterable[Op]:
    for what in ("say", "authorize", "settle", "spawn"):
        yield from (op for op in records.of(what) if op.line.life)


def _closed(records: Records, books: Books, findings: Findings) -> None:
    """After a cancel or an end was acknowledged nothing of the subtree does anything."""
    parents = {line.session: line.parent for _, line in records.lives.values()}
    parents.update({one.id: one.parent_id or "" for one in books.summaries.values()})
    closed: dict[str, int] = {}
    for how in ("cancel", "end"):
        for op in records.of(how):
            if not op.told:
                continue
            closed[op.line.session] = op.told[0][0]
            state = books.sessions.get(op.line.session)
            if state is None or not state.closed or state.runs:
                findings.add("revived", f"session {op.line.session} is not closed")
    for id, state in books.sessions.items():
        root = _closed_above(id, parents, closed)
        if root and not state.closed and not books.is_done(id):
            findings.add("revived", f"session {id} is open, and {root} above it is closed")
    for line in _after_the_end(records, parents, closed):
        findings.add("revived", f"session {line.session} did {line.kind} {line.what}")


def _after_the_end(
    records: Records, parents: dict[str, str], closed: dict[str, int]
) -> Iterator[Line]:
    """The first line of each session that came after it was closed.

    On a host that was paused then, or has just woken or lost its raylet, an agent may go on until
    it asks for something, or its host has found out that others have taken over.
    """
    seen: set[str] = set()
    for place, line in enumerate(records.lines):
        if not line.life or line.kind == "ended" or line.session in seen:
            continue
        root = _closed_above(line.session, parents, closed)
        if not root or place < closed[root]:
            continue
        excused = records.was_away(records.lives[line.life][1].amount, place)
        if line.kind == "told" or not excused:
            seen.add(line.session)
            yield line


def _closed_above(id: str, parents: dict[str, str], closed: dict[str, int]) -> str:
    while id:
        if id in closed:
            return id
        id = parents.get(id, "")
    return ""


CHECKS = (_children, _answers, _closed)
