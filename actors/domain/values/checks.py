"""Checks of single values that come from outside: each raises InvalidValue naming the field."""

from __future__ import annotations

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.json_value import check_text


def check_clean(value: object, field: str) -> str:
    """``value`` if it is Unicode text without NUL; it may be empty."""
    text = check_text(value, field)
    if "\0" in text:
        raise InvalidValue(f"{field}: has a NUL character", field=field)
    return text


def check_name(value: object, field: str) -> str:
    """``value`` if it is Unicode text without NUL, and not empty."""
    name = check_clean(value, field)
    if not name:
        raise InvalidValue(f"{field}: must not be empty", field=field)
    return name


def check_texts(values: object, field: str) -> tuple[str, ...]:
    """A list or tuple of texts without NUL, as a tuple."""
    if not isinstance(values, list | tuple):  # a text is a sequence too, and never what was meant
        raise InvalidValue(f"{field}: must be a tuple of texts", field=field)
    return tuple(check_clean(value, f"{field}[{index}]") for index, value in enumerate(values))


def check_choice(value: object, choices: tuple[str, ...], field: str) -> None:
    """Raises InvalidValue for a ``value`` that is none of ``choices``."""
    if value not in choices:
        raise InvalidValue(f"{field}: {value!r} is not one of {', '.join(choices)}", field=field)


def check_whole(value: object, least: int, field: str) -> int:
    """A whole number from ``least`` up to 2^63 - 1."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63:
        return value
    raise InvalidValue(f"{field}: {value!r} is not a whole number from {least} up", field=field)
