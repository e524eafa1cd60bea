"""Compares what was told with what is there; `findings` says what each kind of finding means."""

from __future__ import annotations

from collections.abc import Callable

from tests.chaos.checks import money, permissions, processes, sessions, trees
from tests.chaos.checks.books import Books
from tests.chaos.checks.findings import Findings
from tests.chaos.checks.records import Records

Check = Callable[[Records, Books, Findings], None]

_CHECKS: tuple[Check, ...] = (
    *sessions.CHECKS,
    *trees.CHECKS,
    *money.CHECKS,
    *permissions.CHECKS,
    *processes.CHECKS,
)


def check(records: Records, books: Books) -> Findings:
    """Everything that can be seen in ledger and books."""
    findings = Findings()
    for one in _CHECKS:
        one(records, books, findings)
    return findings
