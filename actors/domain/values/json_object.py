"""Reading a JSON object field by field, so that every problem is named and nothing gets lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.json_value import JsonValue, check_json, check_text, kind_of

MAX_COUNT: Final = 2**63 - 1
_SHOWN_KEY = 60

_Missing = TypeVar("_Missing")


class JsonObject:
    """A JSON object at a path; each field is taken once, and the fields left over are `rest()`.

    Every method raises InvalidValue that names the field by its full path, such as
    ``messages[3].role``.
    """

    def __init__(self, data: object, path: str) -> None:
        if not isinstance(data, Mapping):
            raise InvalidValue(
                f"{path or 'document'}: must be an object, not {kind_of(data)}",
                field=path or "document",
            )
        self._left: dict[object, object] = dict(data)
        self._path = path

    def path(self, key: str) -> str:
        """The full path of field ``key``."""
        return f"{self._path}.{key}" if self._path else key

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def take(self, key: str) -> object:
        """The raw value of a field that must be there."""
        if key not in self._left:
            raise InvalidValue(f"{self.path(key)}: missing", field=self.path(key))
        return self._left.pop(key)

    def take_or(self, key: str, missing: _Missing) -> object | _Missing:
        """The raw value of a field that may be absent."""
        return self._left.pop(key, missing)

    def text(self, key: str) -> str:
        """A text field that must be there."""
        return check_text(self.take(key), self.path(key))

    def optional_text(self, key: str) -> str | None:
        """A text field that may be absent or null."""
        value = self.take_or(key, None)
        return None if value is None else check_text(value, self.path(key))

    def count(self, key: str) -> int:
        """A whole number of 0 or more (and under 2^63) that must be there."""
        value, path = self.take(key), self.path(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidValue(f"{path}: must be a whole number, not {kind_of(value)}", field=path)
        if not 0 <= value <= MAX_COUNT:
            raise InvalidValue(f"{path}: must be between 0 and 2^63 - 1", field=path)
        return value

    def count_or_zero(self, key: str) -> int:
        """A whole number of 0 or more, 0 where it is absent."""
        return self.count(key) if key in self else 0

    def flag(self, key: str) -> bool:
        """A boolean, false where it is absent."""
        value = self.take_or(key, False)
        if isinstance(value, bool):
            return value
        path = self.path(key)
        raise InvalidValue(f"{path}: must be true or false, not {kind_of(value)}", field=path)

    def items(self, key: str) -> list[object]:
        """A list that must be there, its items unread."""
        return check_list(self.take(key), self.path(key))

    def items_or_none(self, key: str) -> list[object]:
        """A list, its items unread; the empty list where it is absent."""
        return self.items(key) if key in self else []

    def texts_or_none(self, key: str) -> list[str]:
        """A list of texts; the empty list where it is absent."""
        path = self.path(key)
        return [
            check_text(item, f"{path}[{index}]")
            for index, item in enumerate(self.items_or_none(key))
        ]

    def rest(self) -> dict[str, JsonValue]:
        """The fields that nobody took, checked to be JSON: unknown here, but kept."""
        kept: dict[str, JsonValue] = {}
        for key, value in self._left.items():
            name = check_text(key, f"{self._path or 'document'} (a key)")
            kept[name] = check_json(value, self.path(name[:_SHOWN_KEY]))
        return kept


def with_extra(
    known: Mapping[str, JsonValue], extra: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    """The JSON object with the known fields, followed by the unknown ones that are only kept."""
    return {**known, **{key: value for key, value in extra.items() if key not in known}}


def check_list(value: object, path: str) -> list[object]:
    """``value`` if it is a list; InvalidValue names ``path`` otherwise."""
    if isinstance(value, list | tuple):
        return list(value)
    raise InvalidValue(f"{path}: must be a list, not {kind_of(value)}", field=path)
