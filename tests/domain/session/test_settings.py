"""Settings: defaults as documented, and every wrong value refused by name."""

from __future__ import annotations

import pytest

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.session.settings import BudgetConfig, Limits
from retinue.actors.domain.values.money import NANO


def test_the_budgets_defaults() -> None:
    config = BudgetConfig()
    assert (config.session_max, config.per_action_max) == (100 * NANO, 10 * NANO)
    assert config.warn_at_percent == 80


@pytest.mark.parametrize(
    ("given", "percent"),
    [(-1, 0), (0, 0), (50, 50), (100, 100), (101, 100), (99.9, 99), (float("inf"), 100)],
)
def test_the_warning_percentage_is_clamped(given: int, percent: int) -> None:
    assert BudgetConfig(warn_at_percent=given).warn_at_percent == percent


def test_so_is_one_of_thousands_of_digits() -> None:
    assert BudgetConfig(warn_at_percent=10**5000).warn_at_percent == 100


@pytest.mark.parametrize("wrong", [float("nan"), "80", None, True])
def test_what_is_no_percentage_is_refused(wrong: int) -> None:
    with pytest.raises(InvalidValue, match="warn_at_percent") as caught:
        BudgetConfig(warn_at_percent=wrong)
    assert caught.value.details == {"field": "warn_at_percent"}


@pytest.mark.parametrize("wrong", [-1, "NaN", "0.0000000001", 9_000_001, None])
def test_what_is_no_amount_is_refused_by_the_name_of_its_field(wrong: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        BudgetConfig(session_max_usd=wrong)
    assert caught.value.details == {"field": "session_max_usd"}
    with pytest.raises(InvalidValue) as caught:
        BudgetConfig(per_action_max_usd=wrong)
    assert caught.value.details == {"field": "per_action_max_usd"}


def test_the_limits_defaults() -> None:
    limits = Limits()
    assert (limits.max_depth, limits.max_concurrent, limits.max_results) == (3, 4, 32)


@pytest.mark.parametrize(
    "name", ["max_depth", "max_concurrent", "max_children", "max_total", "max_results"]
)
@pytest.mark.parametrize(
    "wrong", [-1, 1.5, "3", None, True, pytest.param(10**5000, id="huge"), 1 << 63]
)
def test_a_limit_is_a_whole_number_that_can_be_stored(name: str, wrong: int) -> None:
    with pytest.raises(InvalidValue, match=f"^{name}: ") as caught:
        Limits(**{name: wrong})
    assert caught.value.details == {"field": name}


def test_only_concurrency_and_results_cannot_be_zero() -> None:
    Limits(max_depth=0, max_children=0, max_total=0)
    with pytest.raises(InvalidValue, match="max_concurrent: must be 1 or more"):
        Limits(max_concurrent=0)
    with pytest.raises(InvalidValue, match="max_results: must be 1 or more"):
        Limits(max_results=0)
