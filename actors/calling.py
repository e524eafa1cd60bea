"""Calls to a remote actor, as methods of its protocol."""

from __future__ import annotations

import functools
from collections.abc import Awaitable
from typing import Protocol, TypeVar, cast

P = TypeVar("P")


class Send(Protocol):
    """Sends the call of a method, and returns its answer."""

    def __call__(self, method: str, /, *arguments: object) -> Awaitable[object]: ...


def calling(port: type[P], send: Send) -> P:
    """A ``port`` that passes each method call to ``send``, by name."""
    return cast(P, _Caller(send))


class _Caller:
    def __init__(self, send: Send) -> None:
        self._send = send

    def __getattr__(self, method: str) -> functools.partial[Awaitable[object]]:
        if method.startswith("_"):
            raise AttributeError(method)
        return functools.partial(self._send, method)
