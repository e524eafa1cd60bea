"""What can be hit in a cluster of several nodes.

Nodes, Ray's head, Redis and the line to it, and a host that is paused while others take over what
it has.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Literal

from retinue.actors.domain.errors import RetinueError
from retinue.actors.domain.session.messages import Message
from retinue.actors.requests import Last, Post, SessionAt
from retinue.cluster.status import HostStatus
from tests.chaos.faults.everywhere import any_actor, note_orphans
from tests.chaos.faults.kinds import FaultKind, Field
from tests.chaos.grounds.line import Order
from tests.chaos.grounds.nodes import ChaosCluster
from tests.chaos.ledger import Line
from tests.chaos.plan import Fault
from tests.kit import processes

Nodes = Field[ChaosCluster]

_CALL_LIMIT_S = 6.0
_TAKEN_OVER_S = 2.0
_MOVED_AT_ONCE = 4
_IDLE_NODE = 0.1


# --- machines ----------------------------------------------------------------------------


async def node(field: Nodes, fault: Fault) -> str:
    """Kills a node, and adds another."""
    cluster = field.ground
    counts = {one: len(processes.of_raylet(processes.raylet_of(one))) for one in cluster.others()}
    if not counts:
        return ""
    chosen = (min if fault.pick < _IDLE_NODE else max)(counts, key=lambda one: counts[one])
    at_once, count = fault.strength < 0.5, counts[chosen]
    note_orphans(field, processes.raylet_of(chosen))
    await asyncio.to_thread(cluster.kill_node, chosen, at_once)
    await asyncio.to_thread(cluster.add_node)
    return f"{count} processes" + ("" if at_once else ", left to notice")


async def raylet(field: Nodes, fault: Fault) -> str:
    """Kills a node's raylet alone; what it has started finds out, and `mend` adds a node."""
    alive = [one for one in field.ground.others() if processes.is_alive(processes.raylet_of(one))]
    if not alive:
        return ""
    chosen = alive[int(fault.pick * len(alive))]
    count = note_orphans(field, processes.raylet_of(chosen))
    field.ground.kill_raylet(chosen)
    return f"pid {processes.raylet_of(chosen)}, {count} processes"


async def gcs(field: Nodes, fault: Fault) -> str:
    """Kills the head's control service, and starts it again."""
    away = 0.3 + 2.0 * fault.strength
    await asyncio.to_thread(field.ground.kill_gcs)
    await asyncio.sleep(away)
    await asyncio.to_thread(field.ground.start_gcs)
    return f"away for {away:.1f} s"


async def redis(field: Nodes, fault: Fault) -> str:
    """Kills Redis, and starts it again on its data."""
    away = 0.1 + 2.5 * fault.strength
    field.ground.kill_redis()
    await asyncio.sleep(away)
    await asyncio.to_thread(field.ground.start_redis)
    return f"away for {away:.1f} s"


# --- the line to Redis -------------------------------------------------------------------


def cut(how: Literal["before", "after"]) -> Callable[[Nodes, Fault], Awaitable[str]]:
    """Breaks connections off, before Redis has a command or after it has carried it out."""

    async def hit(field: Nodes, fault: Fault) -> str:
        order = Order(how, 0.1 + 0.4 * fault.strength, 0.5 + 2.0 * fault.pick)
        return await _order(field, order)

    return hit


async def slow(field: Nodes, fault: Fault) -> str:
    """Keeps answers back."""
    return await _order(field, Order("slow", 0.8, 3.0, 0.05 + 0.4 * fault.strength))


async def _order(field: Nodes, order: Order) -> str:
    field.ground.send(order)
    hits = await asyncio.to_thread(field.ground.hits)
    return f"{hits} commands in {order.lasts:.1f} s" if hits else ""


# --- a host that is paused ---------------------------------------------------------------


async def paused_host(field: Nodes, fault: Fault) -> str:
    """Stops a host, has its sessions taken over, and lets it go on.

    Either another host is asked for the sessions, or the directory is killed, and the new one
    finds that the host does not answer.
    """
    pid, name, sessions = await _host_at_work(field, fault)
    if pid is None or not processes.kill(pid, signal.SIGSTOP):
        return ""
    other = await _another(field, name)
    field.ledger.note(Line("paused", amount=pid))
    try:
        if fault.strength < 0.3:
            how = "its directory died"
            if directory := await any_actor(field, "DirectoryActor", 0.0):
                processes.kill(directory)
            await asyncio.sleep(8.0)
        else:
            how = f"{len(sessions)} sessions taken over"
            await asyncio.gather(*(_take_over(field, other, id) for id in sessions))
            await asyncio.sleep(_TAKEN_OVER_S * fault.strength)
    finally:
        field.ledger.note(Line("woken", amount=pid))
        processes.kill(pid, signal.SIGCONT)
    await asyncio.gather(*(_ask_zombie(field, name, id) for id in sessions))
    return f"pid {pid}, {how}"


async def _host_at_work(field: Nodes, fault: Fault) -> tuple[int | None, str, list[str]]:
    """Process id and name of one of the hosts where most is under way, and its sessions."""
    hosts = [host for host in await _hosts(field) if host.pid is not None]
    working = await asyncio.gather(*(_sessions(field, host.name) for host in hosts))
    found = [(host, ids) for host, ids in zip(hosts, working, strict=True) if ids]
    if not found:
        return await any_actor(field, "SessionActor", fault.pick), "", []
    host, ids = found[int(fault.pick * len(found))]
    return host.pid, host.name, ids


async def _another(field: Nodes, name: str) -> str:
    """A host that is not the one of that name; '' if there is none."""
    return next((host.name for host in await _hosts(field) if host.name != name), "")


async def _hosts(field: Nodes) -> list[HostStatus]:
    try:
        async with asyncio.timeout(_CALL_LIMIT_S):
            return (await field.ground.calls.directory.status()).hosts
    except (RetinueError, TimeoutError):
        return []


async def _sessions(field: Nodes, host: str) -> list[str]:
    try:
        async with asyncio.timeout(_CALL_LIMIT_S):
            found = await field.ground.calls.host(host).working()
    except (RetinueError, TimeoutError):
        return []
    return found[:_MOVED_AT_ONCE]


async def _take_over(field: Nodes, host: str, session_id: str) -> None:
    if not host:
        return
    try:
        async with asyncio.timeout(_CALL_LIMIT_S):
            place = await field.ground.calls.registry.locate(session_id)
            await field.ground.calls.host(host).resume(SessionAt(session_id, place.workspace_id))
            await _say(field, host, session_id, place.workspace_id)
    except (RetinueError, TimeoutError):
        return


async def _say(field: Nodes, host: str, session_id: str, workspace_id: str) -> None:
    """Something that the activation which was taken over can't know."""
    op = f"{session_id} is taken over {len(field.reader.read())}"
    field.ledger.note(Line("tried", "say", op, session=session_id, value=op))
    post = Post(session_id, workspace_id, message=Message.user(op), op=op)
    await field.ground.calls.host(host).add_message(post)
    field.ledger.note(Line("told", "say", op, session=session_id, value=op))


async def _ask_zombie(field: Nodes, host: str, session_id: str) -> None:
    """Ask a host that was paused for a history: whatever it says, nothing may be missing."""
    op = f"read {session_id} {len(field.reader.read())}"
    field.ledger.note(Line("tried", "read", op, session=session_id))
    try:
        async with asyncio.timeout(_CALL_LIMIT_S):
            place = await field.ground.calls.registry.locate(session_id)
            last = Last(session_id, place.workspace_id, count=None)
            found = await field.ground.calls.host(host).messages(last)
    except (RetinueError, TimeoutError):
        return
    texts = [message.text for message in found]
    field.ledger.note(Line("told", "read", op, session=session_id, many=texts))


FAULTS: tuple[FaultKind[ChaosCluster], ...] = (
    FaultKind("node", node, holds="ray"),
    FaultKind("raylet", raylet, holds="ray"),
    FaultKind("gcs", gcs, holds="ray"),
    FaultKind("redis", redis, outage=True),
    FaultKind("cut_before", cut("before"), holds="line", outage=True),
    FaultKind("cut_after", cut("after"), holds="line", outage=True),
    FaultKind("slow_redis", slow, holds="line", outage=True),
    FaultKind("paused_host", paused_host),
)
