"""What Retinue is compared with, each in a process of its own that answers in JSON.

A peer is a module of `benchmarks.peers`. It gets a line with what to measure, and answers with a
line; in between, while others are measured, it sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
_STOP_LIMIT_S = 10.0
_TAIL_BYTES = 2000


class PeerFailed(RuntimeError):
    """A peer is not installed, has ended, or says what went wrong."""


class Peer:
    """A running peer. To be used with ``async with``."""

    def __init__(self, name: str, *arguments: str, installed_apart: bool = True) -> None:
        """``installed_apart`` says that it lives in the environment of the benchmarks."""
        self._name = name
        self._arguments = arguments
        self._python = apart() if installed_apart else Path(sys.executable)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        if not self._python.exists():
            raise PeerFailed(
                f"{self._name} is not installed: `make bench` or `make bench-quick` does it, or "
                "`pip install -r benchmarks/requirements.txt` into an environment whose Python "
                "you name with RETINUE_BENCH_PYTHON"
            )
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
        self._process = await asyncio.create_subprocess_exec(
            str(self._python),
            "-m",
            f"benchmarks.peers.{self._name}",
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            limit=2**24,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        if process.stdin:
            process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_LIMIT_S):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()

    async def number(self, what: str, **arguments: object) -> float:
        """What the peer measures, as one number."""
        answer = await self.ask(what, **arguments)
        if not isinstance(answer, int | float):
            raise PeerFailed(f"{self._name}: {answer!r} is no number")
        return float(answer)

    async def ask(self, what: str, **arguments: object) -> object:
        """The peer's answer, as JSON has it."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise PeerFailed(f"{self._name} is not running")
        request = json.dumps({"what": what, "arguments": arguments})
        with contextlib.suppress(ConnectionError):
            process.stdin.write(f"{request}\n".encode())
            await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            tail = await process.stderr.read() if process.stderr else b""
            raise PeerFailed(f"{self._name} has ended: {tail[-_TAIL_BYTES:].decode()}")
        answer: dict[str, object] = json.loads(line)
        if "error" in answer:
            raise PeerFailed(f"{self._name}: {answer['error']}")
        return answer["answer"]


def apart() -> Path:
    """The Python of the environment that peers are installed in."""
    given = os.environ.get("RETINUE_BENCH_PYTHON")
    return Path(given) if given else ROOT / ".venv-bench" / "bin" / "python"
