"""The audit log: chains that show what was changed, and documents that can be checked."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.actors.domain.errors import Tampered
from retinue.actors.domain.permissions.allowances.state import SessionCleared
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.audit import AuditChain, Head, Report, verify
from retinue.cluster.directory.audit_export import check_audit, render_audit, sign_audit

KEYRING = Keyring(b"k" * 32)


def chain(length: int) -> tuple[list[bytes], Head]:
    """A chain of as many rows, one event in each."""
    writer = AuditChain(KEYRING)
    rows = [writer.row(at, 1, [SessionCleared(f"family {at}")]) for at in range(length)]
    return rows, writer.head


def read(rows: list[bytes], head: Head) -> Report:
    return verify("session/s", rows, head, KEYRING, SessionCleared)


def test_a_strand_reads_as_it_was_written() -> None:
    rows, head = chain(3)
    report = read(rows, head)
    assert report.problem is None
    assert [(entry.row, entry.kind, entry.detail) for entry in report.entries] == [
        (at, "SessionCleared", {"family_id": f"family {at}"}) for at in range(3)
    ]


def test_rows_newer_than_the_head_are_no_problem() -> None:
    rows, _ = chain(3)
    _, head = chain(2)
    assert read(rows, head).problem is None


@given(st.data())
def test_whatever_is_changed_removed_or_moved_is_named(data: st.DataObject) -> None:
    rows, head = chain(6)
    at = data.draw(st.integers(0, 5))
    bent = list(rows)
    match data.draw(st.sampled_from(["change", "remove", "swap", "cut"])):
        case "change":
            byte = data.draw(st.integers(0, len(rows[at]) - 1))
            edited = bytearray(rows[at])
            edited[byte] ^= data.draw(st.integers(1, 255))
            bent[at] = bytes(edited)
            expected = at
        case "remove":
            del bent[at]
            expected = at
        case "swap":
            other = data.draw(st.integers(0, 5).filter(lambda one: one != at))
            bent[at], bent[other] = bent[other], bent[at]
            expected = min(at, other)
        case _:
            bent = bent[:at]
            expected = at
    problem = read(bent, head).problem
    assert problem is not None
    assert problem.startswith(f"session/s: entry {expected} ")


def test_an_export_carries_a_signature_for_itself() -> None:
    rows, head = chain(2)
    text = sign_audit(KEYRING, render_audit("/data", [read(rows, head)]))
    check_audit(KEYRING, text)
    document = json.loads(text)
    document["chains"][0]["entries"][0]["kind"] = "Nothing"
    with pytest.raises(Tampered):
        check_audit(KEYRING, json.dumps(document))
    with pytest.raises(Tampered):
        check_audit(Keyring(b"o" * 32), text)
