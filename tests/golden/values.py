"""A value of any stored type with every field filled, the same on every run.

Where a type is a union, an enumeration or a list of literals, number ``n`` takes its ``n``-th
member; containers hold one element for each. So values 0 to `width` - 1 of a type show all of it.
"""

from __future__ import annotations

import types
import zlib
from enum import Enum
from typing import Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from msgspec import Struct, structs

from retinue.actors.domain.values.ids import derived_id
from retinue.actors.domain.values.json_value import JsonValue

JSON = {"text": "ä", "list": [1, 2.5, None, True], "object": {}}

# What has to look a certain way, by the name of its field, or of its struct and field.
SHAPES: dict[str, object] = {
    "Account.path": ["allotment"],
    "Account.family": "family",
    "Token.resource": "file:///srv/project/**",
    "Reservation.amount": 1234,
    "State.first_message": 12,
    "State.reserved": 1234,
    "amount_usd": "12.5",
    "auto_allow_globs": ("*.md",),
    "auto_allow_paths": ("/srv/shared",),
    "at": 1_700_000_000_000_000,
    "created_at": 1_700_000_000_000_000,
    "created": 1_700_000_000_000_000,
    "digest": "5f" * 32,
    "expires": 1_800_000_000_000_000,
    "glob": "src/*.py",
    "host": "example.com",
    "issued": 1_700_000_000_000_000,
    "max_uses": 9,
    "never_allow": ("/etc", "/srv/secret"),
    "path": "/srv/project/a.txt",
    "port": 8443,
    "ports": (443, 8443),
    "root": "/srv/project",
    "signature": "ab" * 64,
    "url": "https://example.com/a?b=c",
    "user": "0123456789abcdef",
    "user_id": "0123456789abcdef",
    "uses_left": 7,
    "warn_at_percent": 75,
    "workspace_id": "scope ä",
    "workspace_path": "/srv/project",
    "workspace_root": "/srv/project",
}
KEYS = {"families": "family", "allotments": "allotment"}
HOSTS = ("allowed_hosts", "denied_hosts")

T = TypeVar("T")


def filled(type_: type[T], n: int = 0) -> T:
    """Value number ``n`` of a type."""
    return cast(T, _value(type_, n, type_.__name__))


def width(type_: object) -> int:
    """How many values it takes to show every member of everything in a type."""
    if type_ == JsonValue:
        return 1
    if isinstance(type_, type) and issubclass(type_, Struct):
        hints = get_type_hints(type_)
        return max((_shown_by(hints[name]) for name in type_.__struct_fields__), default=1)
    if isinstance(type_, type) and issubclass(type_, Enum):
        return len(type_)
    if get_origin(type_) is Literal:
        return len(get_args(type_))
    members = _members(type_)
    return max(len(members), *map(width, members)) if members else 1


def members(union: object) -> list[type]:
    """The types of a union, or the one that it is."""
    return cast("list[type]", _members(union) or [union])


def _shown_by(type_: object) -> int:
    """As `width`, but containers hold all of theirs at once."""
    return 1 if _container(type_) else width(type_)


def _value(type_: object, n: int, at: str) -> object:
    name = at.rpartition(".")[2]
    for known in (at, name):
        if known in SHAPES:
            return SHAPES[known]
    if type_ == JsonValue or type_ is object:
        return JSON
    if _members(type_):
        options = _members(type_)
        return _value(options[n % len(options)], n, at)
    if get_origin(type_) is Literal:
        return get_args(type_)[n % len(get_args(type_))]
    if _container(type_):
        return _elements(type_, at)
    if isinstance(type_, type) and issubclass(type_, Struct):
        hints = get_type_hints(type_)
        return type_(
            **{
                field.name: _value(hints[field.name], n, f"{type_.__name__}.{field.name}")
                for field in structs.fields(type_)
            }
        )
    if isinstance(type_, type) and issubclass(type_, Enum):
        return list(type_)[n % len(type_)]
    return _leaf(type_, name)


def _leaf(type_: object, name: str) -> object:
    if type_ is bool:
        return True
    if type_ is int:
        return 1000 + zlib.crc32(name.encode()) % 9000  # so that no two fields are alike
    if type_ is bytes:
        return b"\0\xff" + name.encode()
    if type_ is str:
        if name == "id" or name.endswith("_id"):
            return derived_id(name)
        return f"{name} ä"
    raise TypeError(f"{name}: no example for {type_!r}")


def _elements(type_: object, at: str) -> object:
    name = at.rpartition(".")[2]
    kind, arguments = get_origin(type_), get_args(type_)
    if kind is dict:
        key = KEYS.get(name, f"{name} key")
        return {
            f"{key} {n}" if n else key: _value(arguments[1], n, f"{at} value")
            for n in range(width(arguments[1]))
        }
    if name in HOSTS:
        return ("example.com", "*.example.org")
    found = [_value(arguments[0], n, f"{at} item") for n in range(width(arguments[0]))]
    return tuple(found) if kind is tuple else found


def _container(type_: object) -> bool:
    return get_origin(type_) in (list, dict, tuple)


def _members(type_: object) -> list[object]:
    """The types of a union, without None."""
    if get_origin(type_) not in (Union, types.UnionType):
        return []
    return [one for one in get_args(type_) if one is not type(None)]
