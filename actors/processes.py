"""The actor's side of ``isolation="process"``: starts agents' processes and serves their calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

from actors import calls, wire
from actors.domain.errors import NoCapacity, TroupeError
from actors.turn import Engine

_EXIT = struct.Struct("!ii")
AGENT_MEMORY = "TROUPE_AGENT_MEMORY_MB"
"""Environment variable: the most memory that an agent's process may have, in MiB."""

_STOP_LIMIT_S = 2.0
"""How long a cancelled agent may take to clean up before its process group is killed."""

_EXIT_NEWS_S = 1.0
_KILLED_LIMIT_S = 10.0
_LOOK_AGAIN_S = 0.005
_FORK_LIMIT_S = 30.0


class AgentProcesses:
    """A fork server and the agents' processes that came from it."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._exits: dict[int, asyncio.Future[int]] = {}

    async def run(
        self, agent: bytes, info: calls.TurnInfo, prompt: str, directory: str | None, engine: Engine
    ) -> wire.Outcome:
        """Run ``agent`` in a process of its own and serve its calls with ``engine``.

        When this is cancelled the agent is too, and when it returns nothing of it runs any more.
        """
        here, there = socket.socketpair()
        try:
            self._fork(there)
        finally:
            there.close()
        reader, writer = await asyncio.open_connection(sock=here)
        session = _Session(reader, writer, engine)
        hello = asyncio.ensure_future(session.hello())
        try:
            start = wire.Start(info, agent, prompt, directory, agent_memory())
            writer.write(wire.frame(start))
            pid = await asyncio.shield(hello)
            outcome = await session.serve()
            return outcome or wire.Outcome(error=await self._death(pid))
        except asyncio.CancelledError:
            await asyncio.wait([hello])  # before it nobody knows what there is to end
            await session.stop(_STOP_LIMIT_S)
            raise
        finally:
            await session.close()
            if hello.done() and not hello.cancelled() and not hello.exception():
                _kill_group(hello.result())
                await self._gone(hello.result())

    def warm(self) -> None:
        """Start the fork server now rather than with the first agent."""
        self._ensure()

    def close(self) -> None:
        """End the server and every agent's process."""
        if self._control:
            self._control.settimeout(_STOP_LIMIT_S)
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
                while self._control.recv(_EXIT.size):
                    pass
            self._close_control()

    def _close_control(self) -> None:
        if self._control:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None

    def _ensure(self) -> socket.socket:
        if self._control:
            return self._control
        self._control, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            starter = subprocess.Popen(
                [sys.executable, "-m", "actors.runner", str(there.fileno())],
                pass_fds=(there.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )
        except OSError as error:
            raise NoCapacity(f"no process for an agent can be started: {error}") from error
        finally:
            there.close()
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, starter.wait)  # it ends as soon as it has forked the server
        loop.add_reader(self._control, self._news)
        return self._control

    def _fork(self, there: socket.socket) -> None:
        try:
            try:
                socket.send_fds(self._ensure(), [b"F"], [there.fileno()])
            except ConnectionError:  # the server was killed, and there has been no news of it yet
                self._close_control()
                socket.send_fds(self._ensure(), [b"F"], [there.fileno()])
        except OSError as error:
            raise NoCapacity(f"no process for an agent can be started: {error}") from error

    def _news(self) -> None:
        """A process has ended, or the server has."""
        if self._control is None:
            return
        with contextlib.suppress(BlockingIOError, ConnectionError):
            data = self._control.recv(_EXIT.size)
            if not data:
                self._close_control()
                return
            pid, status = _EXIT.unpack(data)
            future = self._exit(pid)
            if not future.done():
                future.set_result(status)

    def _exit(self, pid: int) -> asyncio.Future[int]:
        return self._exits.setdefault(pid, asyncio.get_running_loop().create_future())

    async def _death(self, pid: int) -> str:
        try:
            async with asyncio.timeout(_EXIT_NEWS_S):
                status = await asyncio.shield(self._exit(pid))
        except TimeoutError:
            return "the agent's process ended without a result"
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return f"the agent's process was killed by {signal.Signals(-code).name}"
        return f"the agent's process exited with code {code} before the agent returned"

    async def _gone(self, pid: int) -> None:
        """Return when nothing of the process's group runs any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KILLED_LIMIT_S):
                await asyncio.shield(self._exit(pid))
                while _group_runs(pid):
                    await asyncio.sleep(_LOOK_AGAIN_S)
        self._exits.pop(pid, None)


class _Session:
    """The connection to one agent's process."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, engine: Engine
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._engine = engine
        self._calls: set[asyncio.Task[None]] = set()

    async def hello(self) -> int:
        """The process id, which is the first thing that the process says."""
        async with asyncio.timeout(_FORK_LIMIT_S):
            return int.from_bytes(await self._reader.readexactly(4), "big")

    async def serve(self) -> wire.Outcome | None:
        """Serve calls until the agent is done; None if its process ended before."""
        try:
            while True:
                message = await wire.read_from_process(self._reader)
                if isinstance(message, wire.Outcome):
                    return message
                task = asyncio.create_task(self._answer(message))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def stop(self, limit_s: float) -> None:
        """Cancel the agent and give it time to clean up."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            self._writer.write(wire.frame(wire.Stop()))
            async with asyncio.timeout(limit_s):
                await self.serve()

    async def close(self) -> None:
        calls_under_way = list(self._calls)
        for task in calls_under_way:
            task.cancel()
        if calls_under_way:
            await asyncio.wait(calls_under_way)
        self._writer.close()

    async def _answer(self, called: wire.Called) -> None:
        try:
            answer = await self._engine.handle(called.branch, called.call)
            reply: wire.ToProcess = wire.Answered(called.id, answer)
        except TroupeError as error:
            reply = wire.refusal(called.id, error)
        with contextlib.suppress(ConnectionError):
            self._writer.write(wire.frame(reply))
            await self._writer.drain()


def agent_memory() -> int:
    """How much memory an agent's process may have, in bytes: half of the machine's unless set."""
    megabytes = os.environ.get(AGENT_MEMORY)
    if megabytes and megabytes.isdigit():
        return int(megabytes) * 1024 * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _group_runs(leader: int) -> bool:
    """Whether any process of a killed group is still on its way out; a zombie is not."""
    try:
        os.killpg(leader, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return any(_is_of_group(stat, leader) for stat in Path("/proc").glob("[0-9]*/stat"))


def _is_of_group(stat: Path, group: int) -> bool:
    try:
        state, _, own_group = stat.read_text().rpartition(")")[2].split()[:3]
    except (OSError, ValueError):
        return False
    return state != "Z" and int(own_group) == group


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
