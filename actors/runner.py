"""The process side of ``isolation="process"``: a fork server, and the agents it forks.

The server is started once for a warm actor and has imported what a turn needs, so an agent's
process is a fork away. It runs no agent itself, and a process is never used for a second agent:
nothing can be carried over. Every agent leads a process group of its own, which is killed when
the agent ends, so nothing that it started outlives it. All of them end with the actor: the server
sees to it, and so it is out of reach of Ray, which kills the children and the process group of an
actor's process that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import select
import signal
import socket
import struct
import sys

from actors import calls, wire
from actors.agents import unship
from actors.turn import Turn

_LIBC = ctypes.CDLL(None)  # now: what a forked process has to load and link costs each of them
_PR_SET_PDEATHSIG = 1
_EXIT = struct.Struct("!ii")  # process id, wait status


def main() -> None:
    """Serve forks on the inherited socket until the actor is gone."""
    if os.fork():
        os._exit(0)
    os.setsid()
    control = socket.socket(fileno=int(sys.argv[1]))
    children: set[int] = set()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    gc.freeze()
    try:
        while True:
            ready, _, _ = select.select([control.fileno(), woken], [], [])
            if woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 4096)
                _reap(children, control)
            if control.fileno() in ready:
                message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
                if not message:
                    return
                children.add(_fork(control, descriptors[0], woken, wake))
    finally:
        for child in children:
            _kill_group(child)


def _fork(control: socket.socket, descriptor: int, *inherited: int) -> int:
    child = os.fork()
    if child:
        os.close(descriptor)
        return child
    status = 1
    try:
        os.setsid()
        _die_with_parent()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        for fd in inherited:
            os.close(fd)
        asyncio.run(_serve(descriptor))
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _reap(children: set[int], control: socket.socket) -> None:
    while children:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None:
            return
        _kill_group(ended.si_pid)  # before it is reaped: until then its id is not used again
        _, status = os.waitpid(ended.si_pid, 0)
        children.discard(ended.si_pid)
        with contextlib.suppress(OSError):
            control.send(_EXIT.pack(ended.si_pid, status))


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


async def _serve(descriptor: int) -> None:
    """Run one agent: its calls go out over the socket, and so does what it came to."""
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
        if start.directory and os.path.isdir(start.directory):
            os.chdir(start.directory)
        agent = unship(start.agent)
        return wire.outcome_of(await agent(Turn(link, start.info), start.prompt))
    except asyncio.CancelledError:
        return wire.Outcome(error="cancelled")
    except Exception as error:
        return wire.Outcome(error=wire.error_text(error))


def _limit_memory(bytes: int) -> None:
    """What is over the limit is a MemoryError in this process, not the end of its neighbours."""
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
        """Take in answers; end with the actor."""
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
