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
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import cast

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
_TRIES = 3


class AgentProcesses:
    """A fork server and the agents' processes that came from it."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._spare: asyncio.Task[_Process] | None = None
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def run(
        self, agent: bytes, info: calls.TurnInfo, prompt: str, directory: str | None, engine: Engine
    ) -> wire.Outcome:
        """Run ``agent`` in a process of its own and serve its calls with ``engine``.

        When this is cancelled the agent is too, and nothing of it runs any more. When it returns
        everything of the agent has been killed; `left` waits until it is gone.
        """
        start = wire.Start(info, agent, prompt, directory, agent_memory())
        for _ in range(_TRIES):
            process = await self._take()
            session = _Session(process, engine)
            try:
                session.start(start)
                outcome = await session.serve()
                if outcome is None and session.begun:
                    outcome = wire.Outcome(error=await self._death(process.pid))
            except BaseException:
                await session.stop(_STOP_LIMIT_S)
                await session.close()
                await self._end(process)
                raise
            await session.close()
            _kill_group(process.pid)
            ending = self._in_background(self._end(process))
            self.warm()
            if outcome:
                self._leaving[info.session_id] = ending
                ending.add_done_callback(lambda _: self._leaving.pop(info.session_id, None))
                return outcome
        raise NoCapacity("the processes for agents end before they have begun")

    async def left(self, session_id: str) -> None:
        """Return when nothing of the session's last agent runs any more."""
        leaving = self._leaving.get(session_id)
        if leaving:
            await asyncio.shield(leaving)

    def warm(self) -> None:
        """Start the fork server and a process now rather than with the first agent."""
        if self._spare is None:
            self._spare = asyncio.create_task(self._fork())
            self._spare.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def close(self) -> None:
        """End the server and every agent's process."""
        if self._spare:
            with contextlib.suppress(TroupeError):
                self._in_background(self._end(await self._spare))
            self._spare = None
        while self._background:
            await asyncio.wait(self._background)
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
        for exit in self._exits.values():  # what the server has forked has died with it
            if not exit.done():
                exit.set_result(signal.SIGKILL)

    async def _take(self) -> _Process:
        """A process that has run nothing yet."""
        self.warm()
        spare, self._spare = cast("asyncio.Task[_Process]", self._spare), None
        try:
            process = await asyncio.shield(spare)
        except asyncio.CancelledError:
            self._spare = self._spare or spare
            raise
        return process

    async def _fork(self) -> _Process:
        here, there = socket.socketpair()
        try:
            server = self._send(there)
        except BaseException:
            here.close()
            raise
        finally:
            there.close()
        reader, writer = await asyncio.open_connection(sock=here)
        try:
            async with asyncio.timeout(_FORK_LIMIT_S):
                pid = int.from_bytes(await reader.readexactly(4), "big")
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            writer.close()
            raise NoCapacity("no process for an agent can be started") from error
        return _Process(pid, server, reader, writer)

    async def _end(self, process: _Process) -> None:
        process.writer.close()
        _kill_group(process.pid)
        with contextlib.suppress(ConnectionError):
            await process.writer.wait_closed()
        await self._gone(process)

    def _in_background(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

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

    def _send(self, there: socket.socket) -> socket.socket:
        """Have a process forked, and answer with the line to the server that does it."""
        try:
            try:
                socket.send_fds(self._ensure(), [b"F"], [there.fileno()])
            except ConnectionError:  # the server was killed, and there has been no news of it yet
                self._close_control()
                socket.send_fds(self._ensure(), [b"F"], [there.fileno()])
            return self._ensure()
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

    async def _gone(self, process: _Process) -> None:
        """Return when nothing of the process's group runs any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KILLED_LIMIT_S):
                if process.server is self._control:  # else it has died with its server
                    await asyncio.shield(self._exit(process.pid))
                while _group_runs(process.pid):
                    await asyncio.sleep(_LOOK_AGAIN_S)
        self._exits.pop(process.pid, None)


@dataclass(frozen=True, slots=True)
class _Process:
    """A process that was forked, and the line to it."""

    pid: int
    server: socket.socket
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class _Session:
    """The conversation with one agent's process."""

    def __init__(self, process: _Process, engine: Engine) -> None:
        self._reader = process.reader
        self._writer = process.writer
        self._engine = engine
        self.begun = False
        self._calls: set[asyncio.Task[None]] = set()

    def start(self, start: wire.Start) -> None:
        """Tell the process what to run."""
        self._writer.write(wire.frame(start))

    async def serve(self) -> wire.Outcome | None:
        """Serve calls until the agent is done; None if its process ended before."""
        try:
            while True:
                message = await wire.read_from_process(self._reader)
                if isinstance(message, wire.Begun):
                    self.begun = True
                    continue
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
