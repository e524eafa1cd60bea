"""Processes that agents leave behind, in all the ways in which one can get out of sight.

They do nothing but sleep, for a time that names the run of the harness: so all of them are found,
also those that have neither the environment nor the parent, the group or the session of the agent.
"""

from __future__ import annotations

import os
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

Way: TypeAlias = Literal["plain", "session", "bare", "daemon", "bare_daemon"]

WAYS: tuple[Way, ...] = ("plain", "session", "bare", "daemon", "bare_daemon")
"""A child; the leader of a session; one without an environment; one whose parent has ended, in a
session of its own; and that without an environment."""

_SECONDS = 3600


def command(ledger: str) -> list[str]:
    """The command line of every helper of a run, by the path of its ledger."""
    return ["sleep", f"{_SECONDS}.{zlib.crc32(ledger.encode()):010}"]


def start(way: Way, ledger: str) -> int:
    """Start a helper; its process id."""
    words = command(ledger)
    if way.startswith("bare"):
        words = ["env", "-i", *words]
    if way.endswith("daemon"):
        return _orphan(words)
    return os.posix_spawnp(words[0], words, os.environ, setsid=way == "session")


def start_of(pid: int) -> str:
    """When a process that runs was started, which tells it from others of the same id; else ''."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _orphan(words: Sequence[str]) -> int:
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" > /dev/null 2>&1 & echo $!', "sh", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        check=True,
    )
    return int(done.stdout)
