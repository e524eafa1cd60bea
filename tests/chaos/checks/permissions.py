"""Allowances, tokens, approvals: none used too often; and the audit log, which tells of all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from retinue.actors.durable.audit import AuditEntry
from tests.chaos.checks.books import Books
from tests.chaos.checks.findings import Findings
from tests.chaos.checks.records import Records


def _uses(records: Records, books: Books, findings: Findings) -> None:
    users: dict[str, set[str]] = defaultdict(set)
    begun: dict[str, int] = {}
    for op in records.of("authorize"):
        for _, line in op.told:
            if line.value == "allowed" and line.proof != "policy":
                users[line.proof].add(op.op)
                begun[op.op] = op.first
    for op in records.of("allow"):
        used = users[f"allowance:{op.line.id}"]
        if op.line.amount and len(used) > op.line.amount:
            findings.add("overused", f"allowance {op.line.id}: {len(used)} of {op.line.amount}")
    for op in records.of("token"):
        used = users[f"capability:{op.line.id}"]
        if len(used) > 1:
            findings.add("overused", f"token {op.line.id} by {sorted(used)}")
    for op in records.of("revoke"):
        for user in users[f"allowance:{op.line.id}"]:
            if op.told and begun[user] > op.told[0][0]:
                findings.add("overused", f"allowance {op.line.id} by {user} after it was revoked")
    _approvals(users, books, findings)
    for state in books.allowances.values():
        for id, uses in state.uses.items():
            allowance = state.allowances[id]
            if len(set(uses)) != len(uses) or len(uses) > (allowance.max_uses or 0):
                findings.add("overused", f"allowance {id} has the uses {uses}")


def _approvals(users: dict[str, set[str]], books: Books, findings: Findings) -> None:
    decisions = {
        id: entry.decision
        for state in books.approvals.values()
        for id, entry in state.requests.items()
    }
    for proof, used in users.items():
        kind, _, id = proof.partition(":")
        if kind != "approval":
            continue
        decision = decisions.get(id)
        if decision is None or not decision.approved:
            findings.add("overused", f"request {id}: passed without an approval")
        if len(used) > 1:
            findings.add("overused", f"request {id}: used by {sorted(used)}")


def _grants(records: Records, books: Books, findings: Findings) -> None:
    """What was granted, revoked and decided is so."""
    kept = {id for state in books.allowances.values() for id in (*state.allowances, *state.revoked)}
    gone = {id for state in books.allowances.values() for id in state.revoked}
    decided = {
        id: entry.decision
        for state in books.approvals.values()
        for id, entry in state.requests.items()
        if entry.decision
    }
    for op in records.of("allow"):
        if op.told and op.line.id not in kept:
            findings.add("lost", f"allowance {op.line.id}")
    for op in records.of("revoke"):
        if op.told and op.line.id not in gone:
            findings.add("lost", f"the revocation of allowance {op.line.id}")
    for op in records.of("token"):
        if op.told and op.line.id not in books.capabilities.tokens:
            findings.add("lost", f"token {op.line.id}")
    for op in records.of("decide"):
        decision = decided.get(op.line.id)
        if not op.told:
            continue
        if decision is None or decision.decided_by != op.line.proof:
            findings.add("lost", f"the decision of {op.line.proof} on {op.line.id}: {decision}")


def _audit(records: Records, books: Books, findings: Findings) -> None:
    logged: Counter[tuple[str, str, str]] = Counter()
    for report in books.reports.values():
        if report.problem:
            findings.add("audit_gaps", report.problem)
        for entry in report.entries:
            logged[entry.kind, report.chain, _subject(entry)] += 1
    for wanted in _told_to_all(records):
        if not logged[wanted]:
            findings.add("audit_gaps", f"{' '.join(wanted)} is not in the log")
    for (kind, chain, subject), count in logged.items():
        if kind in _ONCE and count > 1:
            findings.add("double", f"{kind} {chain} {subject} is in the log {count} times")


_ONCE = ("authorized", "created", "closed", "Decided")


def _subject(entry: AuditEntry) -> str:
    """What an entry is about."""
    detail = entry.detail
    match entry.kind:
        case "authorized":
            return _inner(detail, "decision", "operation")
        case "Decided":
            return _inner(detail, "decision", "request_id")
        case "Granted":
            return _inner(detail, "allowance", "id")
        case "TokenAdded":
            return _inner(detail, "token", "id")
        case "Revoked":
            return str(detail["id"])
    return ""


def _inner(detail: dict[str, object], field: str, name: str) -> str:
    inner = detail[field]
    return str(inner[name]) if isinstance(inner, dict) else ""


def _told_to_all(records: Records) -> Iterator[tuple[str, str, str]]:
    """What was acknowledged, as the log should have it."""
    for op in records.of("authorize"):
        if op.told:
            yield "authorized", f"session/{op.line.session}", op.told[0][1].id
    for what, kind in (("create", "created"), ("cancel", "closed"), ("end", "closed")):
        for op in records.of(what):
            if op.told:
                yield kind, f"session/{op.line.session}", ""
    for what, kind, chain in (
        ("allow", "Granted", "allowances/allowances"),
        ("revoke", "Revoked", "allowances/allowances"),
        ("decide", "Decided", "approvals/approvals"),
        ("token", "TokenAdded", "capabilities/capabilities"),
    ):
        for op in records.of(what):
            if op.told:
                yield kind, chain, op.line.id


CHECKS = (_uses, _grants, _audit)
