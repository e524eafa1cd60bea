"""JSON values: what is kept exactly, and what is refused with the field named."""

from __future__ import annotations

import enum
import json
import math
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.json_value import MAX_DEPTH, check_json, check_text, parse_json
from tests.kit.json_values import JSON, nested


class Fruit(enum.StrEnum):
    APPLE = "apple"


class Size(enum.IntEnum):
    LARGE = 3


@given(JSON)
def test_a_json_value_stays_itself_through_text_and_through_msgpack(value: object) -> None:
    assert check_json(value, "x") == value
    assert check_json(parse_json(json.dumps(value), "x"), "x") == value
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(check_json(value, "x"))) == value


def test_the_copy_does_not_share_what_can_change() -> None:
    inner = [1]
    kept = check_json({"a": inner}, "x")
    inner.append(2)
    assert kept == {"a": [1]}


def test_subclasses_become_the_plain_types_that_msgpack_knows() -> None:
    kept = check_json([Fruit.APPLE, Size.LARGE, (1, 2), Decimal("0.5")], "x")
    assert kept == ["apple", 3, [1, 2], 0.5]
    assert isinstance(kept, list)
    assert [type(item) for item in kept] == [str, int, list, float]


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        Decimal("NaN"),
        Decimal("sNaN"),
        Decimal("1e999"),
        2**64,
        -(2**63) - 1,
        10**5000,
        b"bytes",
        {1, 2},
        object(),
        {1: "a key that is not text"},
        {"\ud800": 1},
        "\udfff",
        nested(MAX_DEPTH + 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_say_is_refused_with_the_field_named(value: object) -> None:
    for wrapped in (value, [value], {"key": value}):
        with pytest.raises(InvalidValue, match=r"^arguments") as caught:
            check_json(wrapped, "arguments")
        assert str(caught.value.details["field"]).startswith("arguments")


def test_nesting_up_to_the_limit_is_kept() -> None:
    assert check_json(nested(MAX_DEPTH), "x") == nested(MAX_DEPTH)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "[Infinity]",
        '{"a": -Infinity}',
        "'single'",
        "[1,]",
        "1" * 5000,
        "1e99999999999999999999",
        "[" * 100_000,
        b"\xff\xfe",
        '{"a": 1}'.encode("utf-16"),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_not_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidValue, match=r"^document: "):
        parse_json(text, "document")


def test_fractions_are_read_exactly_and_a_byte_order_mark_is_skipped() -> None:
    assert parse_json('\ufeff{"a": 0.1234567890123456789}', "x") == {
        "a": Decimal("0.1234567890123456789")
    }
    assert parse_json(b'\xef\xbb\xbf["\xc3\xa4"]', "x") == ["ä"]


@pytest.mark.parametrize("value", [None, 5, b"x", ["x"], "a\ud800b"])
def test_what_is_not_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidValue, match=r"^title: "):
        check_text(value, "title")
