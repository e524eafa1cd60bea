from __future__ import annotations

import pytest

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.checks import (
    check_choice,
    check_clean,
    check_name,
    check_texts,
    check_whole,
)


def test_what_is_right_comes_back() -> None:
    assert check_clean("", "x") == ""
    assert check_name("ü", "x") == "ü"
    assert check_texts(["a", ""], "x") == ("a", "")
    assert check_whole(2**63 - 1, 0, "x") == 2**63 - 1
    check_choice("a", ("a", "b"), "x")


@pytest.mark.parametrize("value", [None, 1, b"a", "a\0", "\udcff"])
def test_text_is_unicode_without_nul(value: object) -> None:
    for check in (check_clean, check_name):
        with pytest.raises(InvalidValue, match=r"^x: "):
            check(value, "x")


def test_a_name_is_not_empty() -> None:
    with pytest.raises(InvalidValue, match=r"^x: must not be empty"):
        check_name("", "x")


@pytest.mark.parametrize(("values", "field"), [("ab", "x"), (None, "x"), (["a", 1], r"x\[1\]")])
def test_texts_are_a_list_of_texts(values: object, field: str) -> None:
    with pytest.raises(InvalidValue, match=f"^{field}: "):
        check_texts(values, "x")


@pytest.mark.parametrize("value", [None, 0, 2**63, 1.0, True, "1"])
def test_a_whole_number_has_its_range(value: object) -> None:
    with pytest.raises(InvalidValue, match=r"^x: "):
        check_whole(value, 1, "x")


def test_a_choice_is_one_of_those_named() -> None:
    with pytest.raises(InvalidValue, match=r"^x: 'c' is not one of a, b"):
        check_choice("c", ("a", "b"), "x")
