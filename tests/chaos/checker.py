"""Compares what was told with what is there; `findings` says what each kind of finding means."""

from __future__ import annotations

from collections.abc import Callable

from tests.chaos import check_money, check_permissions, check_processes, check_sessions, check_trees
from tests.chaos.books import Books
from tests.chaos.findings import Findings
from tests.chaos.records import Records

Check = Callable[[Records, Books, Findings], None]

_CHECKS: tuple[Check, ...] = (
    *check_sessions.CHECKS,
    *check_trees.CHECKS,
    *check_money.CHECKS,
    *check_permissions.CHECKS,
    *check_processes.CHECKS,
)


def check(records: Records, books: Books) -> Findings:
    """Everything that can be seen in ledger and books."""
    findings = Findings()
    for one in _CHECKS:
        one(records, books, findings)
    return findings
