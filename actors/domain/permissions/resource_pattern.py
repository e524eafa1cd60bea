"""Resource patterns: URIs with globs that name the resources of a capability token.

    mcp://server:tool   file:///path/**   exec://command   net://host:port   plugin://id:capability

A resource is one thing, written the same way without globs (`BaseAction.wanted` makes them). A
pattern matches it if the schemes are equal and each component matches by its own glob, so no star
reaches from one component into the next. The first colon ends a server or plugin id; a colon
inside one is written ``%3A``. Hosts compare in their normal form. ``net://host`` is a request that
names no port: the port ``*`` covers it, a number doesn't. A ``..`` segment is matched by nothing.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values import globs
from retinue.actors.domain.values.checks import check_clean
from retinue.actors.domain.values.json_value import shown
from retinue.actors.domain.values.network import MAX_PORT, check_host

_HOST_AND_PORT = re.compile(r"(\[[^]]*\]|[^:]+)(?::(.+))?", re.DOTALL)
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_MAGIC = re.compile(r"[*?\[]")
_SEPARATOR = re.compile(r"[/:]")
_LONGEST_KEY = 2 * globs.MAX_PATTERN + 16  # two components and a scheme


class Resource(NamedTuple):
    """A parsed resource or pattern; ``text`` is its normal form."""

    text: str
    scheme: str
    components: tuple[str, ...]


def normal_pattern(pattern: object) -> str:
    """``pattern`` in the one form that tokens keep; raises InvalidValue if it is malformed."""
    return _parsed(check_clean(pattern, "resource")).text


def parse_resource(text: str) -> Resource | None:
    """A parsed resource; None if it is malformed, so that no pattern can name it."""
    split = _split(text)
    if split is None:
        return None
    scheme, components = split
    if scheme == "net":
        host, port = components
        if port and not _is_port(port):
            return None
        try:
            components = (check_host(host, "host"), port)
        except InvalidValue:
            return None
    return Resource(_joined(scheme, components), scheme, components)


def matches(pattern: str, resource: str) -> bool:
    """Returns whether ``pattern`` covers ``resource``; a malformed resource is covered by nothing.

    Raises InvalidValue for a malformed pattern.
    """
    normal, wanted = normal_pattern(pattern), parse_resource(resource)
    return wanted is not None and is_covered(normal, wanted)


def is_covered(pattern: str, wanted: Resource) -> bool:
    """As `matches`, with a resource already parsed, to compare with many patterns."""
    parsed = _parsed(pattern)
    return parsed.scheme == wanted.scheme and all(
        map(globs.matches, parsed.components, wanted.components)
    )


def index_key(pattern: str) -> str:
    """The index key of a pattern in normal form: its literal start, cut at a separator."""
    start = re.split(_MAGIC, pattern, maxsplit=1)[0]
    if start == pattern:
        return pattern
    return start[: max(start.rfind("/"), start.rfind(":")) + 1]


def index_keys(wanted: Resource) -> set[str]:
    """Every `index_key` that a pattern covering ``wanted`` may have."""
    ends = (found.end() for found in _SEPARATOR.finditer(wanted.text, 0, _LONGEST_KEY))
    # The last one is for a port glob, which covers the want of a port too.
    return {wanted.text, *(wanted.text[:end] for end in ends), f"{wanted.text}:"}


def covers(old: str, new: str) -> bool:
    """Returns whether the pattern ``old`` surely matches everything that ``new`` matches.

    Cautious: it may say no if a proof would be hard. Raises InvalidValue for a malformed pattern.
    """
    before, after = _parsed(old), _parsed(new)
    return before.scheme == after.scheme and all(
        map(_glob_covers, before.components, after.components)
    )


def exactly(resource: str) -> str:
    """The pattern that matches ``resource`` and nothing else: its glob characters are escaped.

    Raises InvalidValue for a text that is not a resource, or has a ``..`` segment, and so has none.
    """
    parts = parse_resource(resource)
    if parts is None:
        raise _malformed(resource)
    if parts.scheme == "net":  # has nothing to escape, but for the brackets of an address
        return parts.text
    return normal_pattern(f"{parts.scheme}://{globs.escape(parts.text.partition('://')[2])}")


@lru_cache(maxsize=8192)
def _parsed(pattern: str) -> Resource:
    split = _split(pattern)
    if split is None:
        raise _malformed(pattern)
    scheme, components = split
    if scheme == "net":
        host, port = components
        components = (_host_pattern(host), _port_pattern(port, pattern))
    for component in components:
        globs.check_glob(component, "resource")
        if globs.has_parent_segment(component):
            raise InvalidValue(
                f"resource: {shown(pattern)} has a '..' segment, which nothing matches",
                field="resource",
            )
    return Resource(_joined(scheme, components), scheme, components)


def _split(text: str) -> tuple[str, tuple[str, ...]] | None:
    scheme, _, name = text.partition("://")
    match scheme:
        case "file" if name.startswith("/"):
            return scheme, (name,)
        case "exec" if name:
            return scheme, (name,)
        case "mcp" | "plugin":
            owner, _, part = name.partition(":")
            return (scheme, (owner, part)) if owner and part else None
        case "net":
            found = _HOST_AND_PORT.fullmatch(name)
            return (scheme, (found[1], found[2] or "")) if found else None
    return None


def _joined(scheme: str, components: tuple[str, ...]) -> str:
    if scheme == "net":
        host, port = components
        name = f"[{host}]" if ":" in host else host
        return f"net://{name}:{port}" if port else f"net://{name}"
    return f"{scheme}://{':'.join(components)}"


def _host_pattern(host: str) -> str:
    if _is_bracketed_address(host):
        return check_host(host, "resource")
    lower = globs.check_glob(host.lower(), "resource")
    if ":" in lower:
        raise InvalidValue(
            f"resource: the host {shown(host)} has a colon; an address goes in brackets",
            field="resource",
        )
    name = globs.literal(lower)
    return lower if name is None else check_host(name, "resource")


def _port_pattern(port: str, pattern: str) -> str:
    number = globs.literal(globs.check_glob(port, "resource"))
    if not number:
        return port
    if not _is_port(number):
        raise InvalidValue(
            f"resource: {shown(pattern)} has no port from 1 to {MAX_PORT}, nor a glob for ports",
            field="resource",
        )
    return number


def _is_port(text: str) -> bool:
    return _PORT.fullmatch(text) is not None and int(text) <= MAX_PORT


def _is_bracketed_address(host: str) -> bool:
    if not (host.startswith("[") and host.endswith("]")):
        return False
    try:
        ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        return False
    return True


def _glob_covers(old: str, new: str) -> bool:
    if old == new:
        return True
    only = globs.literal(new)
    if only is not None:
        return globs.matches(old, only)
    crosses = old.endswith("**")
    if not (crosses or old.endswith("*")):
        return False
    prefix = old[:-2] if crosses else old[:-1]
    if globs.literal(prefix) is None or not new.startswith(prefix):
        return False
    rest = new[len(prefix) :]
    return crosses or not ("/" in rest or "**" in rest)


def _malformed(text: str) -> InvalidValue:
    return InvalidValue(
        f"resource: {shown(text)} is malformed; write mcp://server:tool, file:///path, "
        "exec://command, net://host:port or plugin://id:capability",
        field="resource",
    )
