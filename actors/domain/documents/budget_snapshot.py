"""The budget part of a session document.

It is written with decimal strings:

    {"session_spent_usd": "12.5", "session_max_usd": "100", "per_action_max_usd": "10",
     "warn_at_percent": 80}

Amounts are read as decimal strings or JSON numbers, and the spend also under the names ``spent``,
``session_spent`` and ``spent_usd``. A string is exact, so one with more than nine decimals is
refused; a number was most likely a float, so it is rounded to the nearest nano. A snapshot without
any spend is refused, and so is one with two spends that differ: taking either for zero, or for the
smaller, would hand out budget.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Final

from msgspec import Struct

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.json_object import JsonObject, with_extra
from retinue.actors.domain.values.json_value import JsonValue, check_text, kind_of, shown
from retinue.actors.domain.values.money import MAX_USD, to_nano, to_usd, usd_text

SPEND_KEYS: Final = ("session_spent_usd", "spent", "session_spent", "spent_usd")

_NANO_USD = Decimal("1e-9")
_EXACT = Context(prec=40)
_LONGEST_AMOUNT = 64


class BudgetSnapshot(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A budget at the moment of export, in nano-USD; None where the document has no value."""

    session_spent: int
    session_max: int | None = None
    per_action_max: int | None = None
    warn_at_percent: int | None = None
    extra: dict[str, JsonValue] = {}


def snapshot_to_json(snapshot: BudgetSnapshot) -> dict[str, JsonValue]:
    """The snapshot in the form described above."""
    known: dict[str, JsonValue] = {
        "session_spent_usd": usd_text(snapshot.session_spent),
        "session_max_usd": _optional_usd(snapshot.session_max),
        "per_action_max_usd": _optional_usd(snapshot.per_action_max),
        "warn_at_percent": snapshot.warn_at_percent,
    }
    return with_extra(known, snapshot.extra)


def snapshot_from_json(data: object, path: str) -> BudgetSnapshot:
    """Reads the snapshot at ``path``; raises InvalidValue naming the field under it."""
    fields = JsonObject(data, path)
    return BudgetSnapshot(
        session_spent=_spend(fields, path),
        session_max=_optional_amount(fields, "session_max_usd"),
        per_action_max=_optional_amount(fields, "per_action_max_usd"),
        warn_at_percent=_percent(fields, "warn_at_percent"),
        extra=fields.rest(),
    )


def _spend(fields: JsonObject, path: str) -> int:
    spends = [_amount(fields.take(key), fields.path(key)) for key in SPEND_KEYS if key in fields]
    if not spends:
        raise InvalidValue(
            f"{path}.{SPEND_KEYS[0]}: missing; a snapshot must say what was spent",
            field=f"{path}.{SPEND_KEYS[0]}",
        )
    if len(set(spends)) > 1:
        raise InvalidValue(f"{path}: has several spends, and they differ", field=path)
    return spends[0]


def _optional_amount(fields: JsonObject, key: str) -> int | None:
    value = fields.take_or(key, None)
    return None if value is None else _amount(value, fields.path(key))


def _amount(value: object, path: str) -> int:
    match value:
        case bool() | None:
            pass
        case str():
            return _text_amount(check_text(value, path), path)
        case int() if value.bit_length() > 64:
            raise InvalidValue(f"{path}: is over {MAX_USD:,} USD, or negative", field=path)
        case Decimal() if value.is_finite() and 0 <= value <= MAX_USD:
            return to_nano(value.quantize(_NANO_USD, ROUND_HALF_EVEN, _EXACT), path)
        case Decimal() | int() | float():
            return to_nano(value, path)
    raise InvalidValue(
        f"{path}: must be a decimal string or a number of USD, not {kind_of(value)}", field=path
    )


def _text_amount(text: str, path: str) -> int:
    if len(text) > _LONGEST_AMOUNT or not text.isascii() or "_" in text or text != text.strip():
        raise InvalidValue(f"{path}: {shown(text)} is not a decimal number of USD", field=path)
    nano = to_nano(text, path)
    if to_usd(nano) != Decimal(text):
        raise InvalidValue(f"{path}: {shown(text)} has more than 9 decimals", field=path)
    return nano


def _percent(fields: JsonObject, key: str) -> int | None:
    value, path = fields.take_or(key, None), fields.path(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidValue(f"{path}: must be a whole number, not {kind_of(value)}", field=path)
    return max(0, min(value, 100))


def _optional_usd(nano: int | None) -> str | None:
    return None if nano is None else usd_text(nano)
