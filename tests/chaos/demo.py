"""``python -m tests.chaos.demo --rounds N --seed S``: the survey of `make demo`, killed.

Every agent has a process of its own, and everything is done with the commands that a user has. The
survey runs once undisturbed, and then N times killed with SIGKILL at a random moment: an agent's
process, which needs nothing done about it; or the process of `retinue run` with nothing up, or the
process behind `retinue up`, after which `retinue resume` goes on. What it comes to and what it
costs is the same each time. A line for each round, then one line of JSON; exit code 1 if one
differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import psutil
from msgspec import Struct

from retinue.actors.domain.values.ids import derived_id
from tests.chaos.grounds.local import RETINUE, LocalCluster
from tests.chaos.grounds.nodes import ROOT
from tests.kit import processes

T = TypeVar("T")

_AGENT = f"{ROOT}/tests/chaos/survey_in_processes.py:survey"
_PACKAGES = ("json", "logging", "concurrent", "wsgiref", "asyncio")
_RUN_LIMIT_S = 150.0
_ENDS_LIMIT_S = 10.0
_LOOK_EVERY_S = 0.02


class Came(NamedTuple):
    """What a survey came to: its report as JSON, and what it has cost, in USD."""

    report: str
    cost: str


class Result(Struct):
    """A result as the commands print it, as far as it matters here."""

    status: str
    output: object
    error: str | None
    cost_usd: str


class Results(Struct):
    """What `retinue resume` prints."""

    results: list[Result]


class Run:
    """`retinue run`, under way in a process."""

    def __init__(self, home: Path, sources: Path, name: str) -> None:
        self.id, self.run_id = derived_id(f"{name}/session"), derived_id(f"{name}/run")
        self.sources = sources
        self._said, self._result = home / "run.err", home / "run.json"
        place = ["--workspace", str(sources), "--isolation", "process", "--budget", "1"]
        with self._said.open("wb") as said, self._result.open("wb") as result:
            self.process = subprocess.Popen(
                self._command(*place),
                stdin=subprocess.DEVNULL,
                stdout=result,
                stderr=said,
                env=_environment(),
            )

    def begun(self) -> bool:
        """Whether there is a session."""
        ended, said = self.process.poll() is not None, self._said.read_text()
        if ended and self.id not in said:
            raise RuntimeError(f"the survey did not begin: {said[-300:]!r}")
        return f"retinue: session {self.id}" in said

    def wait(self) -> Came:
        """What it came to by itself."""
        self.process.wait(_RUN_LIMIT_S)
        return came(_decoded(self._result.read_bytes(), Result, self._said.read_text()))

    def leave(self) -> None:
        """Let it end, now that what it joined is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_ENDS_LIMIT_S)
        self.process.kill()
        self.process.wait()

    def resume(self) -> Came:
        """`retinue resume`; the result may have been there before the kill, or nothing at all."""
        resume = [RETINUE, "resume", self.id, "--approve", "none", "--json"]
        for result in _printed(resume, Results).results:
            return came(result)
        return came(_printed(self._command(), Result))

    def _command(self, *more: str) -> list[str]:
        same = ["--session", self.id, "--run-id", self.run_id]
        return [RETINUE, "run", _AGENT, *same, "--approve", "none", "--json", *more]


Kill = Callable[[Run, LocalCluster, random.Random], Came | None]


def kill_agent(run: Run, cluster: LocalCluster, rng: random.Random) -> Came | None:
    """An agent's process, under `up`; None if there was none any more."""
    while run.process.poll() is None:
        agents = list(_agents(cluster, run.sources))
        if agents and processes.kill(rng.choice(agents)):
            return run.wait()
        time.sleep(_LOOK_EVERY_S)
    return None


def kill_up(run: Run, cluster: LocalCluster, rng: random.Random) -> Came | None:
    """A process behind `up`, and `up` again if nothing is up; None if the run was over."""
    if run.process.poll() is not None:
        return None
    processes.kill(rng.choice(cluster.daemons()))
    run.leave()
    if not cluster.up():
        raise RuntimeError("`retinue up` failed")
    return run.resume()


def kill_driver(run: Run, cluster: LocalCluster, rng: random.Random) -> Came | None:
    """The process of `run`, and with it all that it brought up; None if the run was over."""
    if run.process.poll() is not None:
        return None
    run.process.kill()
    run.process.wait()
    return run.resume()


KILLS: dict[str, tuple[Kill, bool]] = {
    "agent": (kill_agent, True),
    "up": (kill_up, True),
    "driver": (kill_driver, False),
}
"""What is killed, and whether the survey runs in a cluster that is up."""


def main() -> int:
    """Run the survey again and again; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.demo")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    rng = random.Random(f"{seed}/demo")
    print(f"seed {seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    home = Path(tempfile.mkdtemp(prefix="demo-", dir="/tmp"))  # short: sockets are in it
    sources = _sources(home)
    wanted, lasts = _undisturbed(home, sources)
    print(f"undisturbed: {lasts:.1f} s, {wanted.cost} USD, {len(wanted.report)} bytes", flush=True)
    killed, wrong = dict.fromkeys(KILLS, 0), 0
    kinds = _kinds(rng)
    for number in range(1, given.rounds + 1):
        kind = next(kinds)
        text = _round(home / str(number), sources, kind, lasts, rng, wanted)
        killed[kind] += 1
        wrong += bool(text)
        print(f"{number:4}/{given.rounds}  {kind}: {text or 'equal'}", flush=True)
    report = {"seed": seed, "rounds": given.rounds, "killed": killed, "wrong": wrong}
    print(json.dumps(report), flush=True)
    if wrong:
        print(f"the logs are in {home}", file=sys.stderr)
    else:
        shutil.rmtree(home, ignore_errors=True)
    return 1 if wrong else 0


def came(result: Result) -> Came:
    """What a result says."""
    if result.status != "completed":
        return Came(f"{result.status}: {result.error}", result.cost_usd)
    return Came(json.dumps(result.output, sort_keys=True), result.cost_usd)


def _undisturbed(home: Path, sources: Path) -> tuple[Came, float]:
    """What is to come of it, and how long it takes once there is a session, in seconds."""
    directory = home / "0"
    directory.mkdir()
    with LocalCluster(directory, 0):
        run = Run(directory, sources, f"{home}/0")
        _wait_until(run.begun)
        began = time.monotonic()
        return run.wait(), time.monotonic() - began


def _round(
    directory: Path, sources: Path, kind: str, lasts: float, rng: random.Random, wanted: Came
) -> str:
    """What was wrong; '' if nothing was."""
    directory.mkdir()
    kill, is_up = KILLS[kind]
    with LocalCluster(directory, 0, start=is_up) as cluster:
        try:
            found = _killed(directory, sources, kill, cluster, lasts, rng)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            return f"{type(error).__name__}: {error}"
        left = cluster.close()
    if found.cost != wanted.cost:
        return f"cost {found.cost} USD, undisturbed {wanted.cost}: {found.report[:200]}"
    if found.report != wanted.report:
        return f"another report: {found.report[:200]}"
    return f"left: {left}" if left else ""


def _killed(
    directory: Path,
    sources: Path,
    kill: Kill,
    cluster: LocalCluster,
    lasts: float,
    rng: random.Random,
) -> Came:
    """Kill at a random moment; again in another run, earlier, if that one was over by then."""
    for attempt in range(1, 10):
        run = Run(directory, sources, f"{directory}/{attempt}")
        _wait_until(run.begun)
        time.sleep(rng.uniform(0.0, lasts / attempt))
        found = kill(run, cluster, rng)
        if found is not None:
            return found
    raise RuntimeError("every run was over before it could be killed")


def _agents(cluster: LocalCluster, sources: Path) -> Iterator[int]:
    """The processes that run an agent: they are where it works."""
    for process in processes.programs(cluster.sign, "retinue.actors.agent.process.worker"):
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()) == sources:
                yield int(process.pid)


def _printed(command: list[str], kind: type[T]) -> T:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_RUN_LIMIT_S,
        check=False,
        env=_environment(),
    )
    return _decoded(done.stdout.encode(), kind, done.stderr)


def _decoded(printed: bytes, kind: type[T], said: str) -> T:
    try:
        return msgspec.json.decode(printed, type=kind)
    except msgspec.MsgspecError:
        raise RuntimeError(f"no result, but {said[-300:]!r}") from None


def _environment() -> dict[str, str]:
    """Ours, and a way to the examples."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), f"{ROOT}/examples"])}


def _sources(home: Path) -> Path:
    """A small directory to survey."""
    directory = home.resolve() / "sources"
    for package in _PACKAGES:
        shutil.copytree(
            Path(sysconfig.get_path("stdlib")) / package,
            directory / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return directory


def _kinds(rng: random.Random) -> Iterator[str]:
    while True:
        yield from rng.sample(list(KILLS), len(KILLS))


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _RUN_LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("the survey did not begin")
        time.sleep(_LOOK_EVERY_S)


if __name__ == "__main__":
    sys.exit(main())
