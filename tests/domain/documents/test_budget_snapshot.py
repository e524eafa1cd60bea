"""The budget snapshot of a session document: nothing that it says about money gets lost."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.actors.domain.documents.budget_snapshot import (
    SPEND_KEYS,
    BudgetSnapshot,
    snapshot_from_json,
    snapshot_to_json,
)
from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.json_value import parse_json
from retinue.actors.domain.values.money import MAX_NANO, NANO

AMOUNTS = st.integers(0, MAX_NANO)


def read(text: str) -> BudgetSnapshot:
    return snapshot_from_json(parse_json(text, "snapshot"), "snapshot")


def spend(value: str) -> int:
    return read(f'{{"session_spent_usd": {value}}}').session_spent


@given(
    st.builds(
        BudgetSnapshot,
        session_spent=AMOUNTS,
        session_max=st.none() | AMOUNTS,
        per_action_max=st.none() | AMOUNTS,
        warn_at_percent=st.none() | st.integers(0, 100),
    )
)
def test_a_snapshot_comes_back_to_the_nano(snapshot: BudgetSnapshot) -> None:
    assert snapshot_from_json(snapshot_to_json(snapshot), "snapshot") == snapshot


def test_it_is_written_in_decimal_strings() -> None:
    snapshot = BudgetSnapshot(
        session_spent=42_500_000_001, session_max=100 * NANO, warn_at_percent=80
    )
    assert snapshot_to_json(snapshot) == {
        "session_spent_usd": "42.500000001",
        "session_max_usd": "100",
        "per_action_max_usd": None,
        "warn_at_percent": 80,
    }


@pytest.mark.parametrize("key", SPEND_KEYS)
@pytest.mark.parametrize("value", ['"42.5"', "42.5", "4.25e1", '"42.500000000"'])
def test_the_spend_is_read_under_each_name_as_text_or_number(key: str, value: str) -> None:
    snapshot = read(f'{{"{key}": {value}, "other": [1]}}')
    assert snapshot.session_spent == 42_500_000_000
    assert snapshot.extra == {"other": [1]}


@pytest.mark.parametrize(
    ("value", "nano"),
    [
        ("0", 0),
        ("-0.0", 0),
        ("0.1", 100_000_000),
        ("1e-9", 1),
        ("1e-999999", 0),
        ("0.30000000000000004", 300_000_000),
        ("0.0000000006", 1),
        ("0.0000000004", 0),
        ("8999999.999999999", MAX_NANO - 1),
        ("8999999.9999999999", MAX_NANO),
        ("9000000", MAX_NANO),
        ('"0.000000001"', 1),
        ('"9000000"', MAX_NANO),
    ],
)
def test_a_number_is_rounded_to_the_nearest_nano_and_text_is_taken_as_it_is(
    value: str, nano: int
) -> None:
    assert spend(value) == nano


@pytest.mark.parametrize(
    "value",
    [
        "-1",
        "-1e-30",
        '"-0.5"',
        '"NaN"',
        '"sNaN"',
        '"Infinity"',
        "1e999",
        "9000000.0000000001",
        '"9000000.000000001"',
        '"0.0000000001"',
        '"1.0000000000000000000000000000000001"',
        '"1_000"',
        '" 1"',
        '"\\uff11"',
        '""',
        '"12 USD"',
        '"\\ud800"',
        "null",
        "true",
        "[1]",
        "{}",
        "1" * 4000,
        '"' + "1" * 70 + '"',
    ],
    ids=lambda value: value[:20],
)
def test_a_spend_that_cannot_be_true_is_refused(value: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        spend(value)
    assert caught.value.details == {"field": "snapshot.session_spent_usd"}


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, -0.5, 1e300, 10**5000, -(10**99)],
    ids=["nan", "inf", "-inf", "-0.5", "1e300", "10**5000", "-10**99"],
)
def test_a_python_number_that_cannot_be_true_is_refused(value: float) -> None:
    with pytest.raises(InvalidValue, match=r"^snapshot\.spent: "):
        snapshot_from_json({"spent": value}, "snapshot")


def test_a_python_number_is_read_like_a_json_number() -> None:
    assert snapshot_from_json({"spent": 0.1 + 0.2}, "s").session_spent == 300_000_000
    assert snapshot_from_json({"spent": Decimal("0.1234567891")}, "s").session_spent == 123_456_789


@pytest.mark.parametrize("text", ["{}", '{"session_max_usd": "5"}', '{"total": 5}'])
def test_a_snapshot_that_does_not_say_what_was_spent_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"^snapshot\.session_spent_usd: missing"):
        read(text)


def test_two_spends_must_agree() -> None:
    assert read('{"spent": 5, "session_spent_usd": "5.0"}').session_spent == 5 * NANO
    with pytest.raises(InvalidValue, match="differ"):
        read('{"spent": 0, "session_spent_usd": "5"}')


@pytest.mark.parametrize(("written", "kept"), [("80", 80), ("0", 0), ("250", 100), ("-3", 0)])
def test_the_warning_percentage_is_clamped(written: str, kept: int) -> None:
    assert read(f'{{"spent": 0, "warn_at_percent": {written}}}').warn_at_percent == kept


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("warn_at_percent", '"80"'),
        ("warn_at_percent", "true"),
        ("warn_at_percent", "80.5"),
        ("session_max_usd", "-1"),
        ("session_max_usd", "false"),
        ("per_action_max_usd", '"lots"'),
    ],
)
def test_other_wrong_fields_are_named(key: str, value: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read(f'{{"spent": 0, "{key}": {value}}}')
    assert caught.value.details == {"field": f"snapshot.{key}"}


@pytest.mark.parametrize("value", ["null", "[]", '"12"', "12"])
def test_a_snapshot_must_be_an_object(value: str) -> None:
    with pytest.raises(InvalidValue, match=r"^snapshot: must be an object"):
        read(value)
