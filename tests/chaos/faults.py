"""The faults: each finds something to hit, hits it, and puts back what it took away.

They look for their targets among the processes of this run and in the ledger, not by asking the
system, so that they work whatever state it is in.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Literal, cast

from actors.domain.errors import TroupeError
from actors.domain.messages import Message
from cluster.calls import Calls
from cluster.directory import HostStatus
from cluster.remote import Proxy
from tests.chaos import processes
from tests.chaos.cluster import ChaosCluster, raylet_of
from tests.chaos.drivers import Drivers
from tests.chaos.ledger import Ledger, Line, Reader
from tests.chaos.line import Order
from tests.chaos.plan import Fault, Kind

_RECENT = 600
_CALL_LIMIT_S = 6.0
_TAKEN_OVER_S = 2.0
_MOVED_AT_ONCE = 4
_IDLE_NODE = 0.1
_BACK_LIMIT_S = 15.0
_LOOK_EVERY_S = 0.1


class Faults:
    """Makes faults happen, and counts those that hit something."""

    def __init__(
        self,
        cluster: ChaosCluster,
        drivers: Drivers,
        reader: Reader,
        ledger: Ledger,
        calls: Calls,
    ) -> None:
        self.hits: dict[str, int] = {}
        self.dead_raylets: list[int] = []
        self._cluster = cluster
        self._drivers = drivers
        self._reader = reader
        self._ledger = ledger
        self._calls = calls
        self._only_one: dict[str, asyncio.Lock] = {}

    async def make(self, fault: Fault) -> str:
        """Let a fault happen; returns when it is over, with a few words about it."""
        action = self._actions()[fault.kind]
        async with self._only_one.setdefault(_place_of(fault.kind), asyncio.Lock()):
            text = await action(fault)
        if text:
            self.hits[fault.kind] = self.hits.get(fault.kind, 0) + 1
        self._ledger.note(Line("fault", fault.kind, value=text))
        return f"{fault.kind}: {text or 'nothing there'}"

    def _actions(self) -> dict[Kind, Callable[[Fault], Awaitable[str]]]:
        return {
            "session_host": self._kill_host,
            "shared_host": self._kill_host,
            "budget": lambda fault: self._kill_actor("Budget", fault),
            "allowances": lambda fault: self._kill_actor("Allowances", fault),
            "capabilities": lambda fault: self._kill_actor("Capabilities", fault),
            "directory": lambda fault: self._kill_actor("DirectoryActor", fault),
            "node": self._kill_node,
            "driver": self._kill_driver,
            "redis": self._kill_redis,
            "paused_host": self._pause_host,
            "cut_before": self._cut,
            "cut_after": self._cut,
            "slow_redis": self._slow,
            "gcs": self._kill_gcs,
        }

    # --- actors --------------------------------------------------------------------------

    async def _kill_host(self, fault: Fault) -> str:
        pid = self._busy_host(fault.kind == "session_host")
        pid = pid or await self._any("SessionActor", fault.pick)
        return f"pid {pid}" if pid and processes.kill(pid) else ""

    async def _kill_actor(self, cls: str, fault: Fault) -> str:
        pid = await self._any(cls, fault.pick)
        return f"pid {pid}" if pid and processes.kill(pid) else ""

    def _busy_host(self, own_process: bool) -> int | None:
        """The host of an agent that began not long ago and still runs."""
        lines = self._reader.read()
        ended = {line.life for line in lines[-_RECENT:] if line.kind == "ended"}
        for line in reversed(lines[-_RECENT:]):
            if line.kind == "began" and line.life not in ended:
                host = line.amount
                if (host != line.pid) == own_process and processes.is_alive(host):
                    return host
        return None

    async def _any(self, cls: str, pick: float) -> int | None:
        """One of the actors of a class; they may be on their way back from the fault before."""
        deadline = time.monotonic() + _BACK_LIMIT_S
        while not (found := processes.actors(cls)):
            if time.monotonic() > deadline:
                return None
            await asyncio.sleep(_LOOK_EVERY_S)
        return int(found[int(pick * len(found))].pid)

    # --- a host that is paused -----------------------------------------------------------

    async def _pause_host(self, fault: Fault) -> str:
        """Stop a host, have its sessions taken over, and let it go on.

        Either another host is asked for the sessions, or the directory is killed, and the new one
        finds that the host does not answer.
        """
        pid, name, sessions = await self._host_at_work(fault)
        if pid is None or not processes.kill(pid, signal.SIGSTOP):
            return ""
        other = await self._another(name)
        self._ledger.note(Line("paused", amount=pid))
        try:
            if fault.strength < 0.3:
                how = "its directory died"
                if directory := await self._any("DirectoryActor", 0.0):
                    processes.kill(directory)
                await asyncio.sleep(8.0)
            else:
                how = f"{len(sessions)} sessions taken over"
                await asyncio.gather(*(self._take_over(other, id) for id in sessions))
                await asyncio.sleep(_TAKEN_OVER_S * fault.strength)
        finally:
            self._ledger.note(Line("woken", amount=pid))
            processes.kill(pid, signal.SIGCONT)
        await asyncio.gather(*(self._ask_zombie(name, id) for id in sessions))
        return f"pid {pid}, {how}"

    async def _host_at_work(self, fault: Fault) -> tuple[int | None, str, list[str]]:
        """Process id and name of one of the hosts where most is under way, and its sessions."""
        hosts = [host for host in await self._hosts() if host.pid is not None]
        working = await asyncio.gather(*(self._sessions(host.name) for host in hosts))
        found = [(host, ids) for host, ids in zip(hosts, working, strict=True) if ids]
        if not found:
            return await self._any("SessionActor", fault.pick), "", []
        host, ids = found[int(fault.pick * len(found))]
        return host.pid, host.name, ids

    async def _another(self, name: str) -> str:
        """A host that is not the one of that name; '' if there is none."""
        return next((host.name for host in await self._hosts() if host.name != name), "")

    async def _hosts(self) -> list[HostStatus]:
        try:
            async with asyncio.timeout(_CALL_LIMIT_S):
                return (await self._calls.directory.status()).hosts
        except (TroupeError, TimeoutError):
            return []

    async def _sessions(self, host: str) -> list[str]:
        try:
            async with asyncio.timeout(_CALL_LIMIT_S):
                found = await self._host(host).working()
        except (TroupeError, TimeoutError):
            return []
        return cast(list[str], found)[:_MOVED_AT_ONCE]

    async def _take_over(self, host: str, session_id: str) -> None:
        if not host:
            return
        try:
            async with asyncio.timeout(_CALL_LIMIT_S):
                place = await self._calls.directory.place_of(session_id)
                await self._host(host).resume(session_id, place.scope)
                await self._say(host, session_id, place.scope)
        except (TroupeError, TimeoutError):
            return

    async def _say(self, host: str, session_id: str, scope: str) -> None:
        """Something that the activation which was taken over can't know."""
        op = f"{session_id} is taken over {len(self._reader.read())}"
        self._ledger.note(Line("tried", "say", op, session=session_id, value=op))
        await self._host(host).add_message(session_id, scope, Message.user(op), op)
        self._ledger.note(Line("told", "say", op, session=session_id, value=op))

    async def _ask_zombie(self, host: str, session_id: str) -> None:
        """Ask a host that was paused for a history: whatever it says, nothing may be missing."""
        op = f"read {session_id} {len(self._reader.read())}"
        self._ledger.note(Line("tried", "read", op, session=session_id))
        try:
            async with asyncio.timeout(_CALL_LIMIT_S):
                place = await self._calls.directory.place_of(session_id)
                found = await self._host(host).messages(session_id, place.scope, None)
        except (TroupeError, TimeoutError):
            return
        texts = [message.text for message in cast(list[Message], found)]
        self._ledger.note(Line("told", "read", op, session=session_id, many=texts))

    def _host(self, name: str) -> Proxy:
        return Proxy(name, self._calls.settings.namespace, restarts=False)

    # --- machines ------------------------------------------------------------------------

    async def _kill_node(self, fault: Fault) -> str:
        counts = {
            node: len(processes.of_raylet(raylet_of(node))) for node in self._cluster.others()
        }
        if not counts:
            return ""
        node = (min if fault.pick < _IDLE_NODE else max)(counts, key=lambda one: counts[one])
        at_once, count = fault.strength < 0.5, counts[node]
        self.dead_raylets.append(await asyncio.to_thread(self._cluster.kill_node, node, at_once))
        await asyncio.to_thread(self._cluster.add_node)
        return f"{count} processes" + ("" if at_once else ", left to notice")

    async def mend(self) -> None:
        """Add nodes in place of those that Ray gave up, overloaded as this machine is."""
        for _ in range(self._cluster.missing_nodes()):
            await asyncio.to_thread(self._cluster.add_node)

    async def _kill_driver(self, fault: Fault) -> str:
        pid = self._drivers.kill()
        await asyncio.sleep(fault.strength)
        self._drivers.start()
        return f"pid {pid}"

    async def _kill_gcs(self, fault: Fault) -> str:
        away = 0.3 + 2.0 * fault.strength
        await asyncio.to_thread(self._cluster.kill_gcs)
        await asyncio.sleep(away)
        await asyncio.to_thread(self._cluster.start_gcs)
        return f"away for {away:.1f} s"

    async def _kill_redis(self, fault: Fault) -> str:
        away = 0.1 + 2.5 * fault.strength
        self._cluster.kill_redis()
        await asyncio.sleep(away)
        await asyncio.to_thread(self._cluster.start_redis)
        return f"away for {away:.1f} s"

    # --- the line to Redis ---------------------------------------------------------------

    async def _cut(self, fault: Fault) -> str:
        how: Literal["before", "after"] = "before" if fault.kind == "cut_before" else "after"
        order = Order(how, 0.1 + 0.4 * fault.strength, 0.5 + 2.0 * fault.pick)
        return await self._order(order)

    async def _slow(self, fault: Fault) -> str:
        return await self._order(Order("slow", 0.8, 3.0, 0.05 + 0.4 * fault.strength))

    async def _order(self, order: Order) -> str:
        self._cluster.send(order)
        hits = await asyncio.to_thread(self._cluster.hits)
        return f"{hits} commands in {order.lasts:.1f} s" if hits else ""


def _place_of(kind: Kind) -> str:
    """What two faults at once would both take hold of: those come one after the other."""
    if kind in ("cut_before", "cut_after", "slow_redis"):
        return "line"
    if kind in ("node", "gcs"):
        return "ray"
    return kind
