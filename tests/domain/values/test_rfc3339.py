"""Times as RFC 3339 text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.rfc3339 import from_rfc3339, to_rfc3339

FIRST = -62_135_596_800_000_000
LAST = 253_402_300_799_999_999
NEW_YEAR = 1_704_067_200_000_000


@given(st.integers(FIRST, LAST))
def test_a_time_comes_back_from_its_text(micros: int) -> None:
    assert from_rfc3339(to_rfc3339(micros)) == micros


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (NEW_YEAR, "2024-01-01T00:00:00Z"),
        (NEW_YEAR + 500_000, "2024-01-01T00:00:00.500Z"),
        (NEW_YEAR + 1, "2024-01-01T00:00:00.000001Z"),
        (FIRST, "0001-01-01T00:00:00Z"),
        (LAST, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_the_text_has_as_many_decimals_as_needed(micros: int, text: str) -> None:
    assert to_rfc3339(micros) == text
    assert from_rfc3339(text) == micros


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2024-01-01T01:30:00+01:30", NEW_YEAR),
        ("2023-12-31T19:00:00-05:00", NEW_YEAR),
        ("2024-01-01t00:00:00z", NEW_YEAR),
        ("2024-01-01 00:00:00-00:00", NEW_YEAR),
        ("2024-01-01T00:00:00.1Z", NEW_YEAR + 100_000),
        ("2024-01-01T00:00:00.123456789Z", NEW_YEAR + 123_456),
        ("2024-01-01T00:00:00.999999999Z", NEW_YEAR + 999_999),
        ("1969-12-31T23:59:59.9999999Z", -1),
    ],
)
def test_offsets_and_finer_fractions_are_read(text: str, micros: int) -> None:
    assert from_rfc3339(text) == micros


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2024-01-01",
        "2024-01-01T00:00:00",
        "2024-01-01T00:00Z",
        "2024-02-30T00:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T00:00:60Z",
        "2024-01-01T00:00:00.Z",
        "2024-01-01T00:00:00.1234567890Z",
        "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00+01:60",
        "2024-01-01T00:00:00+0100",
        "2024-01-01T00:00:00Z\n",
        "٢٠٢٤-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        1704067200,
        None,
        "\ud800",
    ],
)
def test_anything_else_is_refused_with_the_field_named(text: object) -> None:
    with pytest.raises(InvalidValue, match=r"^created_at: ") as caught:
        from_rfc3339(text, "created_at")
    assert caught.value.details == {"field": "created_at"}


@pytest.mark.parametrize("micros", [FIRST - 1, LAST + 1])
def test_a_time_outside_the_calendar_has_no_text(micros: int) -> None:
    with pytest.raises(InvalidValue, match="years 1 to 9999"):
        to_rfc3339(micros)
