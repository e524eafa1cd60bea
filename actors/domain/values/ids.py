"""Identity: UUIDs (version 7 where we make them, any version where we read them) and users."""

from __future__ import annotations

import re
import uuid

from retinue.actors.domain.errors import InvalidValue

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}")
_USER = re.compile(r"[0-9a-f]{16}")
_HYPHENATED = 36  # characters
_SHOWN = 60


def uuid7(now: int, entropy: bytes) -> str:
    """A version 7 UUID (RFC 9562) from a time in microseconds and 10 random bytes."""
    milliseconds = now // 1000
    high = (milliseconds << 16) | 0x7000 | (int.from_bytes(entropy[:2], "big") & 0x0FFF)
    low = (0b10 << 62) | (int.from_bytes(entropy[2:10], "big") & ((1 << 62) - 1))
    return str(uuid.UUID(int=(high << 64) | low))


def derived_id(name: str) -> str:
    """The UUID derived from ``name``, for things that must keep their id when repeated."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def parse_uuid(value: object, field: str) -> str:
    """The canonical form of a UUID of any version, given perhaps in capitals or without hyphens.

    Raises InvalidValue, naming ``field``, for anything else.
    """
    if isinstance(value, str) and _UUID.fullmatch(value):
        return value.lower() if len(value) == _HYPHENATED else str(uuid.UUID(value))
    raise InvalidValue(f"{field}: {_shown(value)} is not a UUID", field=field)


def parse_user(value: object, field: str = "user_id") -> str:
    """A user: 8 bytes as 16 lower-case hex digits. Anything else is refused, never padded."""
    if isinstance(value, str) and _USER.fullmatch(value):
        return value
    raise InvalidValue(
        f"{field}: {_shown(value)} is not 16 lower-case hex digits (a key id of 8 bytes)",
        field=field,
    )


def _shown(value: object) -> str:
    """The value for a message: a text as it is, shortened if long; of anything else its type."""
    return repr(value[:_SHOWN]) if isinstance(value, str) else type(value).__name__
