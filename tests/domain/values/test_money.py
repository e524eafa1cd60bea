"""Money: what is taken, what is refused by name, and that nothing is lost on the way."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.money import MAX_NANO, NANO, Usd, to_nano, to_usd, usd_text

HUGE = 10**5000  # more digits than Python is willing to write out

amounts = st.integers(0, MAX_NANO)


@pytest.mark.parametrize(
    ("usd", "nano"),
    [
        (0, 0),
        (1, NANO),
        (9_000_000, MAX_NANO),
        ("0", 0),
        ("-0", 0),
        ("0.000000001", 1),
        ("0.0015", 1_500_000),
        ("1.50", 1_500_000_000),
        ("1e-9", 1),
        ("9e6", MAX_NANO),
        ("8999999.999999999", MAX_NANO - 1),
        ("0.1000000000000000", 100_000_000),
        (Decimal("0.002"), 2_000_000),
        (Decimal("1E+2"), 100 * NANO),
        (Decimal("-0.000"), 0),
        (Decimal("9000000.000000000000"), MAX_NANO),
        (0.1, 100_000_000),
        (0.3, 300_000_000),
        (0.1 + 0.2, 300_000_000),
        (-0.0, 0),
        (9_000_000.0, MAX_NANO),
    ],
)
def test_an_amount_is_counted_in_nano(usd: Usd, nano: int) -> None:
    assert to_nano(usd) == nano


@pytest.mark.parametrize(
    ("usd", "nano"),
    [
        (1.4e-9, 1),
        (1.6e-9, 2),
        (4e-10, 0),
        (5e-324, 0),
        (2.0**-10, 976_562),  # exactly 976562.5 nano: to the even one
        (3 * 2.0**-10, 2_929_688),  # exactly 2929687.5 nano
        (1.0000000004, NANO),
        (math.nextafter(9e6, 0), MAX_NANO - 2),
    ],
)
def test_a_float_is_rounded_to_the_nearest_nano(usd: float, nano: int) -> None:
    assert to_nano(usd) == nano


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "not a finite amount"),
        (float("inf"), "not a finite amount"),
        (float("-inf"), "not a finite amount"),
        ("NaN", "not a finite amount"),
        ("sNaN", "not a finite amount"),
        ("Infinity", "not a finite amount"),
        ("-inf", "not a finite amount"),
        (Decimal("NaN"), "not a finite amount"),
        (Decimal("sNaN"), "not a finite amount"),
        (Decimal("-Infinity"), "not a finite amount"),
        (-1, "negative"),
        ("-0.000000001", "negative"),
        (Decimal("-1"), "negative"),
        (-1e-12, "negative"),
        pytest.param(-HUGE, "negative", id="huge and negative"),
        (9_000_001, "over 9,000,000 USD"),
        ("9000000.000000001", "over 9,000,000 USD"),
        (Decimal("9000000.000000001"), "over 9,000,000 USD"),
        (9_000_000.01, "over 9,000,000 USD"),
        (1e308, "over 9,000,000 USD"),
        ("1e999999999", "over 9,000,000 USD"),
        (Decimal("1e999999999"), "over 9,000,000 USD"),
        pytest.param(HUGE, "over 9,000,000 USD", id="huge"),
        ("0.0000000001", "more than 9 decimals"),
        ("0.0000000015", "more than 9 decimals"),
        (Decimal("1.0000000001"), "more than 9 decimals"),
        ("1e-999", "more than 9 decimals"),
        ("1e-999999999", "more than 9 decimals"),
        (Decimal("1e-999999999"), "more than 9 decimals"),
        ("0." + "1" * 70, "more than 64 characters"),
        ("1" * 5000, "more than 64 characters"),
        (Decimal("1" * 5000), "more than 64 characters"),
        ("", "not a decimal number"),
        ("ten", "not a decimal number"),
        ("$1", "not a decimal number"),
        ("1,50", "not a decimal number"),
        ("x" * 5000, "not a decimal number"),
        (True, "bool is not an amount"),
        (None, "NoneType is not an amount"),
        (1j, "complex is not an amount"),
        (b"1", "bytes is not an amount"),
        ([1], "list is not an amount"),
    ],
)
def test_what_is_no_amount_is_refused_by_name(value: Usd, says: str) -> None:
    with pytest.raises(InvalidValue, match=says) as caught:
        to_nano(value, "max_usd")
    assert caught.value.message.startswith("max_usd: ")
    assert caught.value.details == {"field": "max_usd"}
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (1_500_000, "0.0015"),
        (NANO, "1"),
        (10 * NANO, "10"),
        (100 * NANO + 10, "100.00000001"),
        (MAX_NANO, "9000000"),
    ],
)
def test_the_text_has_neither_exponent_nor_trailing_zeros(nano: int, text: str) -> None:
    assert usd_text(nano) == text


@given(amounts)
def test_nano_survive_every_exact_form(nano: int) -> None:
    assert to_nano(to_usd(nano)) == nano
    assert to_nano(usd_text(nano)) == nano
    assert to_usd(nano) == Fraction(nano, NANO)


@given(st.floats(0, 9_000_000))
def test_a_float_is_never_off_by_more_than_half_a_nano(usd: float) -> None:
    assert abs(Fraction(usd) * NANO - to_nano(usd)) <= Fraction(1, 2)


@given(st.decimals(0, 9_000_000, places=12))
def test_a_decimal_means_exactly_what_it_says_or_is_refused(usd: Decimal) -> None:
    try:
        nano = to_nano(usd)
    except InvalidValue:
        assert (Fraction(usd) * NANO).denominator > 1
    else:
        assert Fraction(nano, NANO) == Fraction(usd)


@given(st.one_of(st.integers(), st.floats(), st.text(max_size=80), st.decimals()))
def test_any_value_gives_an_amount_in_range_or_an_error_that_names_the_field(value: Usd) -> None:
    try:
        nano = to_nano(value, "cost_usd")
    except InvalidValue as error:
        field = error.details["field"]
    else:
        field = "cost_usd" if 0 <= nano <= MAX_NANO else "out of range"
    assert field == "cost_usd"
