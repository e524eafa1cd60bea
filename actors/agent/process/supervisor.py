"""The actor's side of ``isolation="process"``: starts agents' processes and serves their calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from msgspec import structs

from retinue.actors.agent import calls
from retinue.actors.agent.process import wire
from retinue.actors.agent.process.deaths import Death, MemoryKiller, cause
from retinue.actors.agent.process.worker import EXIT
from retinue.actors.agent.turn import Engine
from retinue.actors.domain.errors import NoCapacity, RetinueError

AGENT_MEMORY = "RETINUE_AGENT_MEMORY_MB"
"""Environment variable: the most memory that an agent's process may have, in MiB."""

_STOP_LIMIT_S = 2.0
"""Seconds that a cancelled agent has to clean up before its process group is killed."""

_KILLED_LIMIT_S = 10.0
_FORK_LIMIT_S = 30.0
_FORK_TRIES = 60
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0

AGENTS = "RETINUE_AGENTS"
"""Environment variable that marks agents' processes and all that they start."""

_UNHEARD = Death(signal.SIGKILL)
"""The death of a process that ended with its server, so that nothing more is known of it."""


class AgentDied(Exception):
    """The agent's process has ended without a result, and nobody here asked for that."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class Runner(Protocol):
    """Runs agents in processes of their own."""

    async def run(
        self, agent: bytes, info: calls.TurnInfo, prompt: str, directory: str | None, engine: Engine
    ) -> wire.Outcome: ...
    async def left(self, session_id: str) -> None: ...
    def warm(self) -> None: ...

    @property
    def starting(self) -> Collection[int]:
        """Children of this process that belong to no agent."""


class AgentProcesses:
    """A fork server and the agents' processes forked from it."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._exits: dict[int, asyncio.Future[Death]] = {}
        self._spare: asyncio.Task[_Process] | None = None
        self._leaving: dict[str, asyncio.Task[Death]] = {}
        self._starting: set[int] = set()
        self._killer = MemoryKiller()
        self._background: set[asyncio.Task[Death]] = set()

    async def run(
        self, agent: bytes, info: calls.TurnInfo, prompt: str, directory: str | None, engine: Engine
    ) -> wire.Outcome:
        """Run ``agent`` in a process of its own and serve its calls with ``engine``.

        Raises Fenced or StoreUnavailable if the agent let one of these through, AgentDied if the
        process ends without a result, once nothing of it runs any more, and NoCapacity if none can
        be started for minutes. When this is cancelled the agent is too, and nothing of it runs any
        more. When it returns all of the agent has been killed; `left` waits until it is gone.
        """
        start = wire.Start(info, agent, prompt, directory, agent_memory())
        killed_before = self._killer.count()
        for last in (False, False, True):
            process = await self._take_patiently()
            session = _Session(process, engine)
            try:
                session.start(start)
                outcome = await session.serve()
            except BaseException:
                await session.stop(_STOP_LIMIT_S)
                await session.close()
                await self._end(process)
                raise
            await session.close()
            self.warm()
            if outcome:
                ending = self._in_background(self._end(process))
                self._leaving[info.session_id] = ending
                ending.add_done_callback(lambda _: self._leaving.pop(info.session_id, None))
                return wire.require_outcome(outcome)
            death = await self._end(process)
            if session.begun or last:
                killer = self._killer.count(now=True) > killed_before
                raise AgentDied(cause(structs.replace(death, killer=killer), start.memory))
        raise AssertionError("the last try returns or raises")

    async def left(self, session_id: str) -> None:
        """Returns when no process of the session's last agent is left."""
        leaving = self._leaving.get(session_id)
        if leaving:
            await asyncio.shield(leaving)

    @property
    def starting(self) -> Collection[int]:
        """The process that starts the fork server, until it has done so."""
        return self._starting

    def warm(self) -> None:
        """Start the fork server and a process now rather than with the first agent."""
        if self._spare is None:
            self._spare = asyncio.create_task(self._fork())
            self._spare.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def close(self) -> None:
        """End the server and every agent's process."""
        if self._spare:
            with contextlib.suppress(RetinueError):
                self._in_background(self._end(await self._spare))
            self._spare = None
        while self._background:
            await asyncio.wait(self._background)
        if self._control:
            self._control.settimeout(_STOP_LIMIT_S)
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
                while self._control.recv(EXIT.size):
                    pass
            self._close_control()

    def _close_control(self) -> None:
        if self._control:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None
        for exit in self._exits.values():  # what the server has forked is gone with it
            if not exit.done():
                exit.set_result(_UNHEARD)

    async def _take_patiently(self) -> _Process:
        """As `_take`, but retries for a while if no process can be started now."""
        pause = _FIRST_PAUSE_S
        for _ in range(_FORK_TRIES):
            with contextlib.suppress(NoCapacity):
                return await self._take()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        return await self._take()

    async def _take(self) -> _Process:
        """A process that has not run anything yet."""
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

    async def _end(self, process: _Process) -> Death:
        """Kill a process and everything below it; returns when all of it is gone."""
        process.writer.close()
        _kill_group(process.pid)
        with contextlib.suppress(ConnectionError):
            await process.writer.wait_closed()
        death = _UNHEARD
        with contextlib.suppress(TimeoutError):
            if process.server is self._control:  # else it has gone with its server
                async with asyncio.timeout(_KILLED_LIMIT_S):
                    death = await asyncio.shield(self._exit(process.pid))
        self._exits.pop(process.pid, None)
        return death

    def _in_background(self, work: Coroutine[None, None, Death]) -> asyncio.Task[Death]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def _ensure(self) -> socket.socket:
        if self._control:
            return self._control
        self._control, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        root = str(Path(__file__).absolute().parents[4])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            starter = subprocess.Popen(
                [sys.executable, "-m", "retinue.actors.agent.process.worker", str(there.fileno())],
                pass_fds=(there.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path, AGENTS: "1"},
            )
        except OSError as error:
            raise NoCapacity(f"no process for an agent can be started: {error}") from error
        finally:
            there.close()
        loop = asyncio.get_running_loop()
        self._starting.add(starter.pid)
        ended = loop.run_in_executor(None, starter.wait)  # as soon as it has forked the server
        ended.add_done_callback(lambda _: self._starting.discard(starter.pid))
        loop.add_reader(self._control, self._news)
        return self._control

    def _send(self, there: socket.socket) -> socket.socket:
        """Ask the server to fork a process; returns the socket to the server that does it."""
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
        """Handles the news that a process, or the server, has ended."""
        if self._control is None:
            return
        with contextlib.suppress(BlockingIOError, ConnectionError):
            data = self._control.recv(EXIT.size)
            if not data:
                self._close_control()
                return
            pid, status, most = EXIT.unpack(data)
            future = self._exit(pid)
            if not future.done():
                future.set_result(Death(status, most * 1024))

    def _exit(self, pid: int) -> asyncio.Future[Death]:
        return self._exits.setdefault(pid, asyncio.get_running_loop().create_future())


@dataclass(frozen=True, slots=True)
class _Process:
    """A forked process, and the socket to it."""

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
        """Send the process its agent."""
        self._writer.write(wire.frame(start))

    async def serve(self) -> wire.Outcome | None:
        """Serve calls until the agent is done; returns None if its process ended before that."""
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
        except RetinueError as error:
            reply = wire.refusal(called.id, error)
        with contextlib.suppress(ConnectionError):
            self._writer.write(wire.frame(reply))
            await self._writer.drain()


def agent_memory() -> int:
    """The memory limit of an agent's process, in bytes: half of the machine's unless set."""
    megabytes = os.environ.get(AGENT_MEMORY)
    if megabytes and megabytes.isdigit():
        return int(megabytes) * 1024 * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
