"""The control service of a Ray cluster, alone: it starts at once, and is what a client meets."""

from __future__ import annotations

import base64
import os
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import ray

TOKEN = "a" * 64

_LIMIT_S = 20.0
_NODE = "0" * 56


class RayHead:
    """Asks clients for `TOKEN`, and has no nodes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def __enter__(self) -> Self:
        program = Path(ray.__file__).parent / "core" / "src" / "ray" / "gcs" / "gcs_server"
        options = {
            "log_dir": self._directory,
            "config_list": base64.b64encode(b"{}").decode(),
            "gcs_server_port": 0,
            "metrics-agent-port": 0,
            "node-ip-address": "127.0.0.1",
            "session-name": "alone",
            "ray-commit": ray.__commit__,
            "session-dir": self._directory,
            "node-id": _NODE,
        }
        self._process = subprocess.Popen(
            [program, *(f"--{name}={value}" for name, value in options.items())],
            env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.address = f"127.0.0.1:{self._port()}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process
        self._process.kill()
        self._process.wait()

    def _port(self) -> int:
        file = self._directory / f"gcs_server_port_{_NODE}"
        deadline = time.monotonic() + _LIMIT_S
        while True:
            assert self._process
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            text = file.read_text() if file.exists() else ""
            if text.isdigit():
                return int(text)
            time.sleep(0.02)
