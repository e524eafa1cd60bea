"""What agents leave behind is gone before the end of their run is acknowledged."""

from __future__ import annotations

from tests.chaos.checks.books import Books
from tests.chaos.checks.findings import Findings
from tests.chaos.checks.records import Records


def _left(records: Records, books: Books, findings: Findings) -> None:
    known: set[str] = set()
    for place, line in enumerate(records.lines):
        if line.kind != "left" or line.value in known:
            continue
        if not records.was_away(records.lives[line.proof][1].amount, place):
            known.add(line.value)
            way = " ".join(line.many)
            findings.add("leaked", f"after {line.op}: helper {line.amount} ({way}) of {line.value}")


CHECKS = (_left,)
