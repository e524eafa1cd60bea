"""The process side of ``isolation="process"``: a fork server, and the agents it forks.

The server is started once for a warm actor and has imported everything a turn needs, so starting
an agent's process takes one fork. It runs no agent itself, and a process is never used for a
second agent: nothing can be carried over.

Nothing that an agent starts outlives it, wherever it has put itself: an agent's process becomes
the parent of every orphan below it; when it ends the server does, and kills them before it
reports that the agent has ended. A keeper above the server does the same for what is left when
the server is killed, and the server when the keeper is. All of them end with the actor: the
server sees to that itself, being out of reach of Ray, which kills the children and the process
group of an actor's process that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import NoReturn

from retinue.actors.agent import calls
from retinue.actors.agent.process import proctree, wire
from retinue.actors.agent.shipping import unship
from retinue.actors.agent.turn import Turn

EXIT = struct.Struct("!iiq")
"""The server's report of a process that has ended: its id, wait status, and peak memory in KiB."""

_KILL_LIMIT_S = 5.0


def main() -> None:
    """Serve forks on the inherited socket until the actor is gone."""
    if os.fork():
        os._exit(0)
    os.setsid()
    gc.freeze()
    proctree.adopt_orphans()
    server = os.fork()
    if server:
        _keep(server)
    control = socket.socket(fileno=int(sys.argv[1]))
    os.setsid()
    signal.signal(signal.SIGTERM, _leave)
    proctree.end_with_parent(signal.SIGTERM)
    proctree.adopt_orphans()
    _serve_forks(control)


def _keep(server: int) -> NoReturn:
    """Waits for the server to end, then makes sure that nothing of its agents is left.

    Until that is done the control socket stays open here: the actor takes its closing as the sign
    that everything has ended.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while os.wait()[0] != server:
        pass
    _kill_orphans(set())
    os._exit(0)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(0)


def _serve_forks(control: socket.socket) -> None:
    agents: set[int] = set()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        while True:
            ready, _, _ = select.select([control.fileno(), woken], [], [])
            if woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 4096)
                _reap(agents, control)
            if control.fileno() in ready:
                message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
                if not message:
                    return
                agents.add(_fork(control, descriptors[0], woken, wake))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for agent in agents:
            _kill_group(agent)
        _kill_orphans(set())


def _fork(control: socket.socket, descriptor: int, *inherited: int) -> int:
    agent = os.fork()
    if agent:
        os.close(descriptor)
        return agent
    status = 1
    try:
        os.setsid()
        proctree.end_with_parent(signal.SIGKILL)
        proctree.adopt_orphans()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        control.close()
        for fd in inherited:
            os.close(fd)
        _run_agent(descriptor)
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run_agent(descriptor: int) -> None:
    line = os.dup(descriptor)
    try:
        asyncio.run(_serve(descriptor))
    except (
        SystemExit,
        KeyboardInterrupt,
    ) as left:  # of a task beside the agent's: it ends the loop
        with socket.socket(fileno=line) as connection:
            connection.setblocking(True)
            connection.sendall(wire.frame(wire.Outcome(error=wire.exit_text(left))))


def _reap(agents: set[int], control: socket.socket) -> None:
    """Reports agents as ended, once nothing of them is left."""
    ended: list[tuple[int, int, int]] = []
    while (found := _ended()) is not None:
        _kill_group(found)  # before it is reaped: until then its id is not used again
        _, status, used = os.wait4(found, 0)
        if found in agents:
            agents.discard(found)
            ended.append((found, status, used.ru_maxrss))
    _kill_orphans(agents)
    for one in ended:
        with contextlib.suppress(OSError):
            control.send(EXIT.pack(*one))


def _kill_orphans(agents: set[int]) -> None:
    """Kills processes that ended agents left behind, which are children of this one by now."""
    proctree.kill_below(os.getpid(), agents, _KILL_LIMIT_S, _reap_strays(agents))


def _reap_strays(agents: set[int]) -> Callable[[], None]:
    def reap() -> None:
        for one in proctree.children(os.getpid()):
            if one not in agents:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(one, os.WNOHANG)

    return reap


def _ended() -> int | None:
    """The id of a child that has ended and has not been waited for; None if there is none."""
    with contextlib.suppress(ChildProcessError):
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return found.si_pid if found else None
    return None


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


async def _serve(descriptor: int) -> None:
    """Runs one agent: its calls and its outcome go out over the socket."""
    connection = socket.socket(fileno=descriptor)
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(os.getpid().to_bytes(4, "big"))
    start = await wire.read_to_process(reader)
    if not isinstance(start, wire.Start):
        return
    writer.write(wire.frame(wire.Begun()))
    link = _Link(reader, writer)
    listening = asyncio.ensure_future(link.listen())
    agent = asyncio.ensure_future(_run(start, link))
    link.agent = agent
    await asyncio.wait([agent])
    with contextlib.suppress(ConnectionError):
        writer.write(wire.frame(agent.result()))
        await writer.drain()
    listening.cancel()


async def _run(start: wire.Start, link: _Link) -> wire.Outcome:
    try:
        _limit_memory(start.memory)
        if start.directory:
            os.chdir(start.directory)
        agent = unship(start.agent)
        return wire.outcome_of(await agent(Turn(link, start.info), start.prompt))
    except asyncio.CancelledError:
        return wire.Outcome(error="cancelled")
    except (SystemExit, KeyboardInterrupt) as left:
        return wire.Outcome(error=wire.exit_text(left))
    except Exception as error:
        return wire.failure_of(error)


def _limit_memory(bytes: int) -> None:
    """Makes use beyond the limit a MemoryError in this process, not the end of its neighbours."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = bytes if hard == resource.RLIM_INFINITY else min(bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


class _Link:
    """The turn's engine at the other end of the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.agent: asyncio.Future[wire.Outcome] | None = None
        self._reader = reader
        self._writer = writer
        self._calls: dict[int, asyncio.Future[calls.Answer]] = {}
        self._next = 0

    async def handle(self, branch: int, call: calls.Call) -> calls.Answer:
        self._next += 1
        id = self._next
        future: asyncio.Future[calls.Answer] = asyncio.get_running_loop().create_future()
        self._calls[id] = future
        self._writer.write(wire.frame(wire.Called(id, branch, call)))
        try:
            await self._writer.drain()
            return await future
        finally:
            self._calls.pop(id, None)

    async def listen(self) -> None:
        """Receives answers; ends when the actor does."""
        try:
            while True:
                message = await wire.read_to_process(self._reader)
                match message:
                    case wire.Answered(id, answer):
                        self._resolve(id, answer)
                    case wire.Refused(id):
                        self._fail(id, message)
                    case wire.Stop():
                        if self.agent:
                            self.agent.cancel()
        except (asyncio.IncompleteReadError, ConnectionError):
            os.killpg(0, signal.SIGKILL)

    def _resolve(self, id: int, answer: calls.Answer) -> None:
        future = self._calls.get(id)
        if future and not future.done():
            future.set_result(answer)

    def _fail(self, id: int, refused: wire.Refused) -> None:
        error = wire.to_error(refused)
        future = self._calls.get(id)
        if future and not future.done():
            future.set_exception(error)


if __name__ == "__main__":
    main()
