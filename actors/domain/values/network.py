"""Hosts and ports, in the one form in which two of them can be compared.

A host is lower case, without brackets or a final dot: a plain ASCII name, or an address. Forms that
parsers are known to read differently are refused, so that the judged host is the one contacted.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.checks import check_name
from retinue.actors.domain.values.json_value import shown

MAX_PORT = 65535

_HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_HOST_LENGTH = 253
_NOT_IN_URLS = re.compile(r"[\x00-\x20\x7f\\]")
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443, "ftp": 21}


def check_host(value: object, field: str) -> str:
    """The normal form of a host name or address; InvalidValue names ``field`` otherwise."""
    text = check_name(value, field)
    host = text.lower().removesuffix(".")
    if ":" in host:
        return _check_ipv6(host, field)
    if len(host) <= _HOST_LENGTH and _HOST_NAME.fullmatch(host):
        return host
    raise InvalidValue(
        f"{field}: {shown(text)} is not a host name or address; give the host alone, without "
        "scheme, port or path, and an international name in its xn-- form",
        field=field,
    )


def check_port(value: object, field: str) -> int:
    """A port from 1 to 65535; InvalidValue names ``field`` otherwise."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_PORT:
        return value
    raise InvalidValue(f"{field}: {value!r} is not a port from 1 to {MAX_PORT}", field=field)


def parse_url(url: object, field: str) -> tuple[str, int | None]:
    """The host and the port that a URL leads to: its own port, or its scheme's if well known.

    Raises InvalidValue, naming ``field``, for a URL without a host, or with blanks, control
    characters or backslashes in it.
    """
    text = check_name(url, field)
    if _NOT_IN_URLS.search(text):
        raise InvalidValue(f"{field}: {shown(text)} has a blank or a backslash", field=field)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as problem:
        raise InvalidValue(f"{field}: {shown(text)}: {problem}", field=field) from None
    if not host:
        raise InvalidValue(
            f"{field}: {shown(text)} names no host; give it as scheme://host", field=field
        )
    if port is None:
        port = _DEFAULT_PORTS.get(parts.scheme)
    else:
        check_port(port, field)
    return check_host(host, field), port


def host_and_port(host: str, port: int | None) -> str:
    """A normal host and its port as URIs write them, such as ``[::1]:443``."""
    name = f"[{host}]" if ":" in host else host
    return name if port is None else f"{name}:{port}"


def _check_ipv6(host: str, field: str) -> str:
    try:
        return str(ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise InvalidValue(
            f"{field}: {shown(host)} is not an IPv6 address; a port goes in a field of its own",
            field=field,
        ) from None
