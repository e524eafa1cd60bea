"""Times in JSON: RFC 3339 text outside, integer microseconds since the epoch (UTC) inside."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.json_value import check_text, shown

_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
_FIRST = (datetime.min - _EPOCH) // _MICROSECOND
_LAST = (datetime.max - _EPOCH) // _MICROSECOND
_FORM = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)


def to_rfc3339(micros: int, field: str = "time") -> str:
    """Microseconds since the epoch as UTC text with ``Z`` and 0, 3 or 6 decimals, as needed.

    Raises InvalidValue, naming ``field``, outside the years 1 to 9999.
    """
    time = _EPOCH + timedelta(microseconds=_in_range(micros, field))
    if time.microsecond == 0:
        return time.isoformat(timespec="seconds") + "Z"
    unit = "microseconds" if time.microsecond % 1000 else "milliseconds"
    return time.isoformat(timespec=unit) + "Z"


def from_rfc3339(text: object, field: str = "time") -> int:
    """Microseconds since the epoch; digits finer than a microsecond (at most nine) are cut off.

    Raises InvalidValue, naming ``field``, for text that is not an RFC 3339 date and time, for one
    without an offset (which differs from machine to machine), and for a leap second.
    """
    value = check_text(text, field)
    parts = _FORM.fullmatch(value)
    if parts is None:
        raise _not_a_time(value, field)
    date, clock, fraction, sign, hours, minutes = parts.groups()
    try:
        local = datetime.fromisoformat(f"{date}T{clock}")
    except ValueError:
        raise _not_a_time(value, field) from None
    micros = (local - _EPOCH) // _MICROSECOND + int((fraction or "").ljust(6, "0")[:6])
    if sign:
        offset = (int(hours) * 60 + int(minutes)) * 60_000_000
        micros += offset if sign == "-" else -offset
    return _in_range(micros, field)


def _in_range(micros: int, field: str) -> int:
    if _FIRST <= micros <= _LAST:
        return micros
    raise InvalidValue(f"{field}: outside the years 1 to 9999", field=field)


def _not_a_time(text: str, field: str) -> InvalidValue:
    return InvalidValue(
        f"{field}: {shown(text)} is not an RFC 3339 time with an offset, "
        'such as "2024-01-01T00:00:00Z"',
        field=field,
    )
