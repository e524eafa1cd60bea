"""Redis servers of a test's own, and a line to them that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from retinue.cluster.redis.server import find_binary

Moment = Literal["before", "after"]

_LIMIT_S = 20.0
_SETTINGS = {"port": "0", "appendonly": "yes", "save": "", "loglevel": "warning"}


class RedisServer:
    """A plain server on a unix socket, with settings such as ``maxmemory="1mb"``."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.socket = directory / "r.sock"
        self.url = f"unix://{self.socket}"
        self._directory = directory
        self._settings = _SETTINGS | settings
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it answers, be it with a refusal."""
        options = [
            word
            for name, value in self._settings.items()
            for word in (f"--{name.replace('_', '-')}", value)
        ]
        place = ["--dir", str(self._directory), "--unixsocket", str(self.socket)]
        self._process = subprocess.Popen(
            [find_binary(), *place, *options], stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _LIMIT_S
        while not self._answers():
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a power cut would, but for what the kernel still writes."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as line, contextlib.suppress(OSError):
            line.settimeout(1)
            line.connect(str(self.socket))
            line.sendall(b"PING\r\n")
            return line.recv(100).startswith((b"+PONG", b"-NOAUTH"))
        return False


class Line:
    """Carries what a client and a server say, until a request that it was told to cut."""

    def __init__(self, target: str, socket: Path) -> None:
        self.url = f"unix://{socket}"
        self.cuts = 0
        self._target = target.removeprefix("unix://")
        self._socket = socket
        self._sign = b""
        self._moment: Moment = "after"
        self._pumps: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._carry, self._socket)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server
        self._server.close()
        if self._pumps:
            await asyncio.wait(self._pumps)

    def cut(self, sign: str, moment: Moment) -> None:
        """Break off at the next request with ``sign`` in it.

        Before the server gets it, or after the server has carried it out and answered.
        """
        self._sign, self._moment = sign.encode(), moment

    async def _carry(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_unix_connection(self._target)
        ends = (to_client, to_server)
        broken = asyncio.Event()
        for pump in (
            self._requests(client, to_server, broken),
            self._answers(server, to_client, broken),
        ):
            task = asyncio.create_task(self._until_closed(pump, ends))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _requests(
        self, client: asyncio.StreamReader, server: asyncio.StreamWriter, broken: asyncio.Event
    ) -> None:
        while request := await client.read(1 << 20):
            if self._sign and self._sign in request:
                self.cuts += 1
                self._sign = b""
                if self._moment == "before":
                    return
                broken.set()
            server.write(request)

    async def _answers(
        self, server: asyncio.StreamReader, client: asyncio.StreamWriter, broken: asyncio.Event
    ) -> None:
        while answer := await server.read(1 << 20):
            if broken.is_set():
                return
            client.write(answer)

    async def _until_closed(
        self, pump: Coroutine[None, None, None], ends: Sequence[asyncio.StreamWriter]
    ) -> None:
        """Either end that is closed closes the other."""
        try:
            with contextlib.suppress(ConnectionError):
                await pump
        finally:
            for end in ends:
                end.close()
            for end in ends:
                with contextlib.suppress(ConnectionError):
                    await end.wait_closed()
