"""The answer to an authorisation."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from retinue.actors.domain.budget.commands import CapWarning
from retinue.actors.domain.permissions.decision import Decision, Kind


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [("allowed", True), ("denied", False), ("exceeded", False), ("deferred", False)],
)
def test_only_one_kind_is_a_yes(kind: Kind, allowed: bool) -> None:
    assert Decision(kind).allowed is allowed


def test_what_it_reserves_is_given_in_usd() -> None:
    assert Decision("allowed", amount=2_000_000).reserved_usd == Decimal("0.002")


def test_it_survives_storage_with_its_warning() -> None:
    decision = Decision(
        "allowed", "approval:1", "because", "1", 5, CapWarning("session", 8, 10, 80), "run/0.0"
    )
    data = msgspec.msgpack.encode(decision)
    assert msgspec.msgpack.decode(data, type=Decision) == decision
