"""JSON values as Retinue keeps them: those that every reader takes the same way, and msgpack holds.

A value is None, bool, an integer of 64 bits (signed or unsigned), a finite IEEE double, text
without lone surrogates, a list, or a dict with text keys, nested at most 128 deep. Anything else
is refused rather than changed, with one exception: a decimal number becomes the nearest double, as
in almost every JSON reader. Code that needs exact digits (money) reads them before `check_json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from retinue.actors.domain.errors import InvalidValue

if TYPE_CHECKING:
    JsonValue: TypeAlias = (
        bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"] | None
    )
else:
    JsonValue = Any  # msgspec cannot describe a recursive alias

MAX_DEPTH = 128
_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1
_SHOWN = 60


def parse_json(data: str | bytes, field: str) -> object:
    """JSON text as Python values, with fractions and exponents as exact `Decimal`.

    Raises InvalidValue, naming ``field``, for text that is not JSON by RFC 8259 (nor are ``NaN``
    and ``Infinity``), and for bytes that are not UTF-8. A leading byte order mark is skipped.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        return json.loads(
            text.removeprefix("\ufeff"), parse_float=Decimal, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as problem:
        raise InvalidValue(
            f"{field}: not UTF-8 at byte {problem.start}; JSON is UTF-8 text", field=field
        ) from None
    except InvalidOperation:
        raise InvalidValue(f"{field}: has a number out of all range", field=field) from None
    except ValueError as problem:
        raise InvalidValue(f"{field}: not JSON: {problem}", field=field) from None
    except RecursionError:
        raise _too_deep(field) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def check_json(value: object, field: str) -> JsonValue:
    """A copy of ``value`` in the form described above; InvalidValue names ``field`` otherwise."""
    return _checked(value, field, 0)


def check_text(value: object, field: str) -> str:
    """``value`` if it is text that UTF-8 can carry; InvalidValue names ``field`` otherwise."""
    if not isinstance(value, str):
        raise InvalidValue(f"{field}: must be text, not {kind_of(value)}", field=field)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as problem:
            raise InvalidValue(
                f"{field}: a lone surrogate at character {problem.start}; it is not Unicode text",
                field=field,
            ) from None
    return value if type(value) is str else str.__str__(value)


def shown(text: str) -> str:
    """``text`` quoted for an error message, cut to a length that a person reads."""
    return repr(text) if len(text) <= _SHOWN else repr(text[:_SHOWN]) + "..."


def kind_of(value: object) -> str:
    """The JSON type of ``value``, in words for an error message."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float() | Decimal():
            return "a number"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "an object"
    return type(value).__name__


def _checked(value: object, field: str, depth: int) -> JsonValue:
    if depth > MAX_DEPTH:
        raise _too_deep(field)
    match value:
        case None | bool():
            return value
        case str():
            return check_text(value, field)
        case int():
            return _integer(value, field)
        case float() | Decimal():
            return _double(value, field)
        case [*items]:
            return [_checked(item, field, depth + 1) for item in items]
        case Mapping():
            return {
                check_text(key, f"{field} (a key)"): _checked(item, field, depth + 1)
                for key, item in value.items()
            }
    raise InvalidValue(f"{field}: {kind_of(value)} is not a JSON value", field=field)


def _integer(value: int, field: str) -> int:
    if _MIN_INT <= value <= _MAX_INT:
        return int(value)
    raise InvalidValue(f"{field}: has an integer of more than 64 bits", field=field)


def _double(value: float | Decimal, field: str) -> float:
    number = math.nan if isinstance(value, Decimal) and value.is_nan() else float(value)
    if math.isfinite(number):
        return number
    raise InvalidValue(f"{field}: has a number that is not finite, or out of range", field=field)


def _too_deep(field: str) -> InvalidValue:
    return InvalidValue(f"{field}: nested more than {MAX_DEPTH} deep", field=field)
