"""Calling back loans from hosts. Hosts wait for the call, since stores call nobody."""

from __future__ import annotations

import asyncio
import time

from retinue.actors.changed import Changed

_GONE_AFTER_S = 25.0


class Recall:
    """The calls of one store, by number, and the hosts that have answered."""

    def __init__(self, limit_s: float, once: bool = False) -> None:
        """``limit_s`` is the time to wait for a host that does not answer, in seconds.

        With ``once`` such a host is not waited for again until it is heard of again. That is for
        loans that may stay with a dead host, not for those that it might still use.
        """
        self._limit_s = limit_s
        self._once = once
        self._call = 1
        self._born = time.monotonic()
        self._heard: dict[str, float] = {}
        self._answered: dict[str, int] = {}
        self._changed = Changed()

    @property
    def any_lent(self) -> bool:
        """True if any host may hold a loan."""
        return bool(self._heard)

    async def wait_for_call(self, host: str, seen: int, timeout_s: float) -> int:
        """The number of the newest call, as soon as it differs from ``seen``.

        With ``seen=0`` a host makes itself known and is answered at once.
        """
        self._heard[host] = time.monotonic()
        if seen == 0:
            self._answered[host] = self._call
            return self._call
        await self._changed.until(lambda: self._call != seen, timeout_s)
        return self._call

    def returned(self, host: str, call: int) -> None:
        """A host has returned all that it held when it was called for the ``call``th time."""
        self._heard.setdefault(host, time.monotonic())
        self._answered[host] = max(call, self._answered.get(host, 0))
        self._changed.notify()

    def announce(self) -> None:
        """Call back without waiting; one call at a time."""
        if not self._missing(self._call):
            self._call += 1
            self._changed.notify()

    async def call_back(self) -> None:
        """Calls back, and returns when all hosts have answered or their time is up.

        A store that was just restarted has not heard of all hosts: it gives them the same time.
        """
        self._call += 1
        call, grown_up = self._call, self._born + self._limit_s
        self._changed.notify()
        await self._changed.until(lambda: not self._missing(call), self._limit_s)
        if self._once:
            for host in self._missing(call):
                del self._heard[host]
        await asyncio.sleep(max(grown_up - time.monotonic(), 0.0))

    def _missing(self, call: int) -> list[str]:
        before = time.monotonic() - _GONE_AFTER_S
        for host in [host for host, heard in self._heard.items() if heard < before]:
            del self._heard[host]
        return [host for host in self._heard if self._answered.get(host, 0) < call]
