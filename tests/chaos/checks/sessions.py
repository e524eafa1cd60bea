"""What agents and clients were told about messages, steps and runs, and what became of it."""

from __future__ import annotations

from collections import Counter, defaultdict

from tests.chaos.checks.books import Books
from tests.chaos.checks.findings import Findings
from tests.chaos.checks.records import Records


def _messages(records: Records, books: Books, findings: Findings) -> None:
    there = {id: Counter(texts) for id, texts in books.texts.items()}
    for op in records.of("say"):
        count = there.get(op.line.session, Counter())[op.op]
        if op.told and not count:
            findings.add("lost", f"message {op.op} of session {op.line.session}")
        if count > 1:
            findings.add("double", f"message {op.op} is there {count} times")


def _reads(records: Records, books: Books, findings: Findings) -> None:
    """Whoever answers a read knows all that was acknowledged before it was sent."""
    said: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for op in records.of("say"):
        if op.told:
            said[op.line.session].append((op.told[0][0], op.op))
    for op in records.of("read"):
        for place, line in op.told:
            before = max(at for at, _ in op.tried if at < place)
            missing = {text for at, text in said[line.session] if at < before} - set(line.many)
            if missing:
                findings.add(
                    "duplicated", f"session {line.session} was read without {sorted(missing)[:3]}"
                )


def _steps(records: Records, books: Books, findings: Findings) -> None:
    for op in records.of("careful"):
        if len(op.ran) > 1:
            findings.add("double", f"step {op.op} ran {len(op.ran)} times")
    for what in ("careful", "compute"):
        for op in records.of(what):
            if len({line.value for _, line in op.told}) > 1:
                findings.add("double", f"step {op.op} had two results")
    for op in records.of("compute"):
        known = op.told[0][0] if op.told else None
        for place, line in op.ran:
            began = records.lives[line.life][0]
            if known is not None and place > known and began > known:
                findings.add("double", f"step {op.op} ran again after its result was known")


def _runs(records: Records, books: Books, findings: Findings) -> None:
    for op in records.of("start"):
        state = books.sessions.get(op.line.session)
        run = op.line.run
        if op.told and (state is None or (run not in state.results and run not in state.runs)):
            findings.add("lost", f"run {run} of session {op.line.session}")
    for op in records.of("result"):
        answers = {(line.value, line.amount) for _, line in op.told}
        if len(answers) > 1:
            findings.add("double", f"run {op.line.run} had the results {sorted(answers)}")
        state = books.sessions.get(op.line.session)
        result = state.results.get(op.line.run) if state else None
        if result is None or (result.status, result.cost) not in answers:
            findings.add("lost", f"result of run {op.line.run}: told {answers}, kept {result}")
        for _, line in op.told:
            if line.value not in ("completed", "cancelled"):
                findings.add("lost", f"run {op.line.run} {line.value}: {line.proof}")
    for id, state in books.sessions.items():
        if state.runs:
            findings.add("lost", f"session {id}: {len(state.runs)} runs never ended")
        for result in state.results.values():
            if result.status not in ("completed", "cancelled"):
                findings.add("lost", f"session {id}: {result.status}: {result.error}")


def _families(records: Records, books: Books, findings: Findings) -> None:
    for op in records.of("create"):
        if op.told and op.line.session not in books.sessions:
            findings.add("lost", f"session {op.line.session}")
    begun = {op.op for op in records.of("family") if op.tried}
    done = {op.op for op in records.of("family") if op.told}
    for name in sorted(begun - done):
        findings.add("lost", f"{name} never came to its end")


CHECKS = (_messages, _reads, _steps, _runs, _families)
