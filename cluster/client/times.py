"""Times as people type them: an age, or a date and time with its offset from UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.rfc3339 import from_rfc3339

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AGO = re.compile(r"([0-9]{1,9})(s|min|h|d)")
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}


def parse_moment(text: str, field: str, now: int) -> datetime:
    """The time ``text`` means at ``now`` (microseconds since the epoch); raises InvalidValue."""
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago:
            passed = timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
            return _EPOCH + timedelta(microseconds=now) - passed
        return _EPOCH + timedelta(microseconds=from_rfc3339(text.strip(), field))
    except (InvalidValue, OverflowError):
        raise InvalidValue(
            f"{field}: {text!r} is no time: give how long ago, such as 90s, 30min, 2h or 7d, or a "
            "time such as 2026-01-31T12:00:00Z",
            field=field,
        ) from None


def to_micros(moment: datetime | None, field: str) -> int | None:
    """Microseconds since the epoch; raises InvalidValue for a time without an offset from UTC."""
    if moment is None:
        return None
    if moment.utcoffset() is None:
        raise InvalidValue(f"{field}: give a time with its zone, such as UTC", field=field)
    return (moment - _EPOCH) // timedelta(microseconds=1)
