"""Kills what runs an agent at a random moment, as a user would see it: by the command line.

``python -m tests.system.restart --rounds 20 --seed S`` plays all of `CASES`, prints a line for each
round and a last one of JSON, and exits with 1 unless all held. What must hold after `retinue
resume`, or without it where only an agent's process was killed: the run is completed, every
sub-agent is well, exactly what they pay was spent, and no step ran again after its result was
known.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import psutil

from retinue.cluster.local.reaper import MARK
from tests.system import restart_agents

ROOT = Path(__file__).parents[2]
AGENTS = ROOT / "tests" / "system" / "restart_agents.py"

What: TypeAlias = Literal["alone", "lead"]
Where: TypeAlias = Literal["process", "shared"]
Killed: TypeAlias = Literal["agent", "driver", "up"]

_LIMIT_S = 120.0
_LOOK_EVERY_S = 0.005
_LEFT = 5  # notes at least that are not written yet, or the run may end before the kill
_PAID = {"alone": restart_agents.STEPS, "lead": restart_agents.CHILDREN}


@dataclass(frozen=True)
class Case:
    """What runs where, and what is killed."""

    what: What
    where: Where
    killed: Killed

    def __str__(self) -> str:
        return f"{self.what} {self.where} {self.killed}"


CASES = [
    Case(what, where, killed)
    for killed, where, what in itertools.product(get_args(Killed), get_args(Where), get_args(What))
    if not (where == "shared" and killed == "agent")  # it has no process to be killed
]


def play(case: Case, moment: float) -> str:
    """Play one round: kill after ``moment`` (0 to 1) of the work. What did not hold; '' for all."""
    with _Round(case) as one:
        return one.play(moment)


class _Round:
    """A state directory, a workspace, and what is started on them."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._home = Path(tempfile.mkdtemp(prefix="restart-", dir="/tmp"))
        self._workspace = self._home / "workspace"
        self._workspace.mkdir()
        (self._workspace / "a.txt").write_text("hello\n")
        before = {name: value for name, value in os.environ.items() if name != MARK}
        self._environment = {**before, "RETINUE_HOME": str(self._home / "state")}
        self.killed = 0

    def __enter__(self) -> _Round:
        return self

    def __exit__(self, *_: object) -> None:
        if self._case.killed == "up":
            self._retinue("down")
        shutil.rmtree(self._home, ignore_errors=True)

    def play(self, moment: float) -> str:
        if self._case.killed == "up":
            self._retinue("up")
        begun = self._start()
        self._wait_for(1 + int(moment * (2 * _PAID[self._case.what] - _LEFT)))
        self._kill(begun)
        if self._case.killed == "agent":
            output, _ = begun.communicate(timeout=_LIMIT_S)
            result = json.loads(output or "null")
        else:
            begun.communicate(timeout=_LIMIT_S)
            ids = self._retinue("ps")
            if self._case.killed == "up":
                self._retinue("up")
            result = self._retinue("resume", ids["sessions"][0]["id"])["results"][0]
        return "; ".join(self._wrong(result))

    def _start(self) -> subprocess.Popen[str]:
        options = ("--workspace", str(self._workspace), "--isolation", self._case.where)
        what = ("run", f"{AGENTS}:{self._case.what}", "--prompt", str(self._home), "--json")
        return subprocess.Popen(
            [sys.executable, "-m", "retinue.cluster.cli.app", *what, *options],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def _kill(self, begun: subprocess.Popen[str]) -> None:
        match self._case.killed:
            case "driver":
                begun.kill()
            case "up":
                os.kill(json.loads((self._home / "state" / "up.json").read_text())["pid"], 9)
            case "agent":
                for one in self._agents():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(one, signal.SIGKILL)

    def _agents(self) -> set[int]:
        """Agents at work, by their notes; the lead, if it has any, by where it is."""
        pids = {int(line.split()[0]) for line in self._notes()}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(self._workspace):
                    pids.add(process.pid)
        return pids

    def _wait_for(self, lines: int) -> None:
        deadline = time.monotonic() + _LIMIT_S
        while len(self._notes()) < lines:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._case}: {len(self._notes())} of {lines} notes")
            time.sleep(_LOOK_EVERY_S)

    def _notes(self) -> list[str]:
        file = self._home / "notes"
        return file.read_text().splitlines() if file.exists() else []

    def _wrong(self, result: dict[str, Any]) -> Iterator[str]:
        paid = _PAID[self._case.what]
        if result["status"] != "completed":
            yield f"{result['status']}: {result['error']}"
        if self._case.what == "lead" and result["output"] != f"{paid} well []":
            yield f"sub-agents: {result['output']}"
        if Decimal(result["cost_usd"]) != paid * Decimal(restart_agents.COST_USD):
            yield f"cost {result['cost_usd']}"
        told: set[str] = set()
        ran: Counter[str] = Counter()
        for _, kind, name in (line.split(" ", 2) for line in self._notes()):
            if kind == "told":
                told.add(name)
            elif name in told:
                yield f"{name} ran again after its result was known"
            else:
                ran[name] += 1
        again = sum(count - 1 for count in ran.values())
        at_once = restart_agents.AT_ONCE if self._case.what == "lead" else 1
        if again > at_once:
            yield f"{again} steps ran again, and {at_once} can have been in progress"
        if len(told) != paid:
            yield f"{len(told)} of {paid} steps were told"

    def _retinue(self, *arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "retinue.cluster.cli.app", *arguments, "--json"],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        return json.loads(done.stdout or "null")


def main(arguments: Sequence[str]) -> int:
    """Play the rounds; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.restart")
    parser.add_argument("--rounds", type=int, default=20, help="of each case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose names have this in them")
    given = parser.parse_args(arguments)
    held: dict[str, int] = {}
    for case in CASES:
        if given.only not in str(case):
            continue
        rng = random.Random(f"{given.seed}/{case}")
        held[str(case)] = 0
        for at in range(given.rounds):
            moment, began = rng.random(), time.monotonic()
            wrong = play(case, moment)
            held[str(case)] += not wrong
            took = time.monotonic() - began
            print(f"{case} {at + 1}: at {moment:.2f}, {took:.1f} s: {wrong or 'held'}", flush=True)
    print(json.dumps({"seed": given.seed, "rounds": given.rounds, "held": held}), flush=True)
    return 0 if all(count == given.rounds for count in held.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
