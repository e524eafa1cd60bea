"""Fields of settings and commands, brought into the one form that the rest relies on."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.checks import check_texts

Choice = TypeVar("Choice", bound=StrEnum)


def choice(kind: type[Choice], value: object, field: str) -> Choice:
    """The member of ``kind`` that ``value`` is or spells; InvalidValue names ``field`` if none."""
    for member in kind:
        if member == value:
            return member
    raise InvalidValue(f"{field}: {value!r} is not one of {', '.join(kind)}", field=field)


def each(values: object, field: str, check: Callable[[str, str], str]) -> tuple[str, ...]:
    """A list or tuple of texts as a tuple, each as ``check(text, field)`` returns it."""
    texts = check_texts(values, field)
    return tuple(check(text, f"{field}[{index}]") for index, text in enumerate(texts))
