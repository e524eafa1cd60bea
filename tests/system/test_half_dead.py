"""A part of the local cluster dies: it is brought back, runs go on, and nobody is told a tale."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import cast

import msgspec
import psutil
import pytest

from retinue import ClusterUnavailable
from retinue.cluster.doctor.machine import local_cluster
from retinue.cluster.local import running as up
from retinue.cluster.local.running import Part, Running
from retinue.cluster.ray.tie import Tie
from retinue.cluster.settings import ClusterSettings
from retinue.cluster.up.incarnation import still_left
from retinue.cluster.up.protocol import Failed, Lost
from retinue.cluster.up.supervisor import add_failure, out_of_hope
from tests.kit.shell import AGENTS, Finished, Shell
from tests.kit.waiting import until
from tests.kit.warm import ROOT, Command

RAYLET = Part("raylet", 3, "30")
UP = Running(
    1, "127.0.0.1:1", ClusterSettings("redis://r"), 1, (Part("main process", 2, "20"), RAYLET)
)
BACK_WITHIN_S = 60.0  # 10 where nothing else runs; that is measured, and here it comes back at all
ANSWERS_WITHIN_S = 15.0  # 5, likewise


# --- what is said, and what goes on --------------------------------------------------------------


def _changed(state: up.State, why: str) -> Running:
    return msgspec.structs.replace(UP, state=state, since=100.0, why=why)


def _all_live(part: Part) -> bool:
    return True


def _raylet_dead(part: Part) -> bool:
    return part != RAYLET


@pytest.mark.parametrize(
    ("found", "is_alive", "said"),
    [
        (UP, _all_live, None),
        (UP, _raylet_dead, "is being brought back (its raylet has just died): try again"),
        (
            _changed("coming back", "raylet was killed by SIGKILL"),
            _raylet_dead,
            "is being brought back (its raylet was killed by SIGKILL 2 s ago): try again",
        ),
        (
            _changed("ended", "Redis lost a commit"),
            _raylet_dead,
            "could not be brought back: Redis lost a commit: `retinue up` starts it again",
        ),
    ],
)
def test_who_comes_is_told_why_a_cluster_cannot_be_joined(
    found: Running, is_alive: Callable[[Part], bool], said: str | None
) -> None:
    told = up.trouble(found, is_alive, 102.0)
    assert told is None if said is None else said in str(told)


@pytest.mark.parametrize(
    ("found", "is_alive", "said"),
    [
        (UP, _all_live, None),
        (None, _all_live, "was stopped"),
        (UP, _raylet_dead, "was lost (its raylet has died), and is being brought back"),
        (
            _changed("coming back", "GCS was killed by SIGKILL"),
            _all_live,
            "was lost (its GCS was killed by SIGKILL)",
        ),
        (msgspec.structs.replace(UP, incarnation=2), _all_live, "was lost (its process has died)"),
        (_changed("ended", "no room"), _all_live, "has ended, since it could not be brought back"),
    ],
)
def test_who_is_there_is_told_what_happened(
    found: Running | None, is_alive: Callable[[Part], bool], said: str | None
) -> None:
    told = up.loss(UP, found, is_alive)
    assert told is None if said is None else said in str(told)


@pytest.mark.parametrize(
    ("found", "held", "is_alive", "verdict", "said"),
    [
        (None, False, _all_live, "ok", "does not run"),
        (UP, True, _all_live, "ok", "runs (process 1"),
        (UP, True, _raylet_dead, "problem", "its raylet has just died"),
        (_changed("coming back", "raylet died"), True, _all_live, "problem", "raylet died 2 s ago"),
        (_changed("ended", "no room"), False, _all_live, "problem", "no room"),
        (UP, False, _all_live, "note", "process 1 has ended without a word"),
    ],
)
def test_the_doctor_tells_the_truth(
    found: Running | None, held: bool, is_alive: Callable[[Part], bool], verdict: str, said: str
) -> None:
    check = local_cluster(found, held, is_alive, 102.0)
    assert (check.verdict, said in check.found) == (verdict, True)
    assert bool(check.remedy) == (verdict != "ok")


@pytest.mark.parametrize(
    ("left", "running", "working", "still"),
    [
        ([], ["a"], ["a"], set()),
        (["a", "b"], ["a", "b", "c"], [], {"a", "b"}),
        (["a", "b"], ["a", "b"], ["a"], {"b"}),  # somebody has resumed it
        (["a"], [], [], set()),  # or it was cancelled
    ],
)
def test_what_was_left_interrupted_stays_so_until_it_is_resumed(
    left: list[str], running: list[str], working: list[str], still: set[str]
) -> None:
    assert still_left(left, running, working) == still


def test_three_failures_or_a_final_one_are_enough() -> None:
    failed, final = Failed("no room", final=False), Failed("rolled back", final=True)
    assert [out_of_hope([failed] * count) for count in range(4)] == [False, False, False, True]
    assert out_of_hope([final])


@pytest.mark.parametrize(
    ("ended", "lived_s", "reasons"),
    [
        (Lost("raylet died"), 5.0, []),
        (Lost("raylet died"), 0.5, ["no room", "raylet died, 2 times in a row"]),
        (Lost("main process died"), None, ["no room", "main process died, 2 times in a row"]),
        (Failed("no key", final=False), None, ["no room", "no key"]),
    ],
)
def test_only_a_life_that_lasted_is_a_success(
    ended: Lost | Failed, lived_s: float | None, reasons: list[str]
) -> None:
    found = add_failure([Failed("no room", final=False)], ended, lived_s)
    assert [one.why for one in found] == reasons


def test_a_process_that_has_ended_is_not_alive_even_unburied() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        part = up.part("it", process.pid)
        assert up.alive(part)
        assert not up.alive(msgspec.structs.replace(part, started="1"))
        process.kill()
        asyncio.run(until(lambda: not up.alive(part)))
    assert not up.alive(part)


# --- calls of a client ---------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_calls_fail_with_the_reason_as_soon_as_the_cluster_is_lost() -> None:
    tie, reasons, left = Tie(), [None, "it is gone"], []
    loop = asyncio.get_running_loop()
    tie.begin()
    answer = asyncio.ensure_future(tie.answer(asyncio.sleep(0, "well")))
    assert await answer == "well"
    tie.fasten(lambda: reasons.pop(0) if reasons else None, lambda: left.append("Ray"))
    pending = [tie.answer(loop.create_future()), tie.find(lambda: time.sleep(20))]
    for outcome in await asyncio.gather(*pending, return_exceptions=True):
        assert isinstance(outcome, ClusterUnavailable)
        assert outcome.message == "it is gone"
    with pytest.raises(ClusterUnavailable, match="it is gone"):
        tie.require()
    await until(lambda: left == ["Ray"])
    assert not tie.loosen()
    tie.begin()
    tie.require()


@pytest.mark.asyncio
async def test_a_call_that_its_caller_gives_up_is_cancelled_and_not_lost() -> None:
    tie = Tie()
    tie.fasten(lambda: None, lambda: None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await tie.answer(asyncio.get_running_loop().create_future())
    assert tie.loosen()


def test_a_cluster_that_is_lost_while_it_is_joined_is_named() -> None:
    tie, stuck = Tie(), threading.Event()
    tie.on_stuck = lambda why: stuck.set()

    def join() -> None:
        with tie.joining(lambda: "it is gone"):
            assert stuck.wait(20)  # Ray would go on trying
            raise ConnectionError("no answer")

    with pytest.raises(ClusterUnavailable, match="it is gone"):
        join()


# --- a real cluster ------------------------------------------------------------------------------


class House:
    """A cluster that is up, and a run in the middle of its second step, nobody waiting for it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.shell = Shell(home, home)
        self.directories = 0

    @property
    def announced(self) -> Running:
        return msgspec.json.decode((self.home / "up.json").read_bytes(), type=Running)

    @property
    def supervisor(self) -> psutil.Process:
        return psutil.Process(self.announced.pid)

    def begin(self, *, wait: bool = False) -> tuple[Path, str, Command]:
        """A directory, a session at work in it, and the command that has started it."""
        self.directories += 1
        directory = self.home / f"workspace-{self.directories}"
        directory.mkdir()
        options = ["--prompt", str(directory), "--workspace", str(directory), "--approve", "all"]
        command = Command(["run", f"{AGENTS}:step_by_step", *options], self.shell.environment)
        id = command.stderr.readline().strip().removeprefix("retinue: session ")
        asyncio.run(until((directory / "second").exists))
        if not wait:
            command.kill()
            command.communicate()
        return directory, id, command

    def in_time(self, *arguments: str) -> Finished:
        began = time.monotonic()
        done = self.shell.retinue(*arguments)
        assert time.monotonic() - began < ANSWERS_WITHIN_S, done.err
        return done


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("home"))
    started = house.shell.retinue("up")
    assert started.code == 0, started.err
    yield house
    processes = [house.supervisor, *house.supervisor.children(recursive=True)]
    assert house.shell.retinue("down").code == 0
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert alive == []
    assert not (house.home / "up.json").exists()


def _part(name: str) -> Callable[[House], list[int]]:
    return lambda house: [part.pid for part in house.announced.parts if name in part.name]


def _agents(house: House) -> list[int]:
    found = house.supervisor.children(recursive=True)
    return [one.pid for one in found if _title(one).startswith(("ray::Dash", "ray::RuntimeEnv"))]


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.mark.own_cluster
@pytest.mark.parametrize(
    "part",
    [
        pytest.param(_part("raylet"), id="raylet"),
        pytest.param(_part("GCS"), id="gcs"),
        pytest.param(_part("main"), id="incarnation"),
        pytest.param(_agents, id="agents"),
    ],
)
def test_the_run_goes_on_by_itself(house: House, part: Callable[[House], list[int]]) -> None:
    directory, id, _ = house.begin()
    before, marks = house.announced, _size(directory / "second")
    victims = part(house)
    assert victims
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):  # it has ended with the one before
            os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()

    examined = house.in_time("doctor", "--json")
    checks = cast("list[dict[str, str]]", examined.document["checks"])
    (own,) = [one for one in checks if one["name"] == "retinue up"]
    if own["verdict"] == "ok":
        assert house.announced.incarnation > before.incarnation
    else:
        assert "is being brought back" in own["found"]
        assert examined.code == 3
    looked = house.in_time("ps")
    assert looked.code == 0 or "is being brought back (its " in looked.err, looked.err

    asyncio.run(until(lambda: _size(directory / "second") > marks, BACK_WITHIN_S))
    assert time.monotonic() - killed < BACK_WITHIN_S
    (directory / "go").touch()
    asyncio.run(until(lambda: _tree(house, id)["status"] == "completed"))
    assert Decimal(str(_tree(house, id)["total_usd"])) == 2
    assert (directory / "first").read_text() == "x"
    assert house.announced.incarnation == before.incarnation + 1
    assert house.announced.pid == before.pid


@pytest.mark.own_cluster
def test_the_command_that_waits_goes_on_waiting(house: House) -> None:
    directory, id, command = house.begin(wait=True)
    before = house.announced.incarnation
    for pid in _part("GCS")(house):
        os.kill(pid, signal.SIGKILL)
    asyncio.run(until(lambda: house.announced.incarnation > before, BACK_WITHIN_S))
    (directory / "go").touch()  # not before, or what is lost may have done it all
    done = house.shell.finish(command)
    assert done.code == 0, done.err
    assert done.out in ("1 1\n", "1 2\n")
    assert "was lost (its " in done.err
    assert "the local cluster is back: the run goes on" in done.err
    assert "completed in " in done.err
    assert _tree(house, id)["status"] == "completed"


@pytest.mark.own_cluster
def test_a_run_that_was_left_interrupted_is_not_paid_for(tmp_path: Path) -> None:
    house = House(tmp_path / "h")
    house.home.mkdir()
    directory, id, command = house.begin(wait=True)  # with a cluster of its own
    command.send_signal(signal.SIGTERM)
    assert f"`retinue resume {id}` goes on" in house.shell.finish(command).err
    assert house.shell.retinue("up").code == 0
    try:
        marks = _size(directory / "second")
        for pid in _part("raylet")(house):
            os.kill(pid, signal.SIGKILL)
        asyncio.run(until(lambda: house.announced.incarnation == 2, 30))
        assert house.shell.retinue("tree", id, "--json").document["status"] == "interrupted"
        assert _size(directory / "second") == marks
    finally:
        assert house.shell.retinue("down").code == 0


@pytest.mark.own_cluster
def test_what_cannot_be_brought_back_ends_and_says_why(tmp_path: Path) -> None:
    house = House(tmp_path)
    assert house.shell.retinue("up").code == 0
    processes = [house.supervisor, *house.supervisor.children(recursive=True)]
    noted = json.loads((tmp_path / "heads.json").read_text())
    further = {place: {"budget of workspace x": [9, 9]} for place in noted}
    (tmp_path / "heads.json").write_text(json.dumps(further))
    for pid in _part("raylet")(house):
        os.kill(pid, signal.SIGKILL)
    asyncio.run(until(lambda: house.announced.state == "ended", 30))
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert alive == []
    for command in (["ps"], ["doctor", "--json"]):
        told = house.in_time(*command)
        assert told.code == 3
        assert "went back: budget of workspace x is at epoch 0" in told.out + told.err
    assert "can't be brought back: Redis at" in (tmp_path / "up.log").read_text()
    assert house.shell.retinue("down").code == 0
    assert not (tmp_path / "up.json").exists()


@pytest.mark.own_cluster
def test_everything_ends_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    house = House(tmp_path)
    assert house.shell.retinue("up").code == 0
    processes = house.supervisor.children(recursive=True)
    house.supervisor.kill()
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert alive == []
    own = house.shell.retinue("doctor", "--json").document["checks"]
    (check,) = [one for one in cast("list[dict[str, str]]", own) if one["name"] == "retinue up"]
    assert "has ended without a word" in check["found"]
    assert house.shell.retinue("down").code == 0


@pytest.mark.own_cluster
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_command_with_its_own_cluster_ends_with_the_way_out(tmp_path: Path, name: str) -> None:
    house = House(tmp_path)
    _, id, command = house.begin(wait=True)
    found = psutil.Process(command.pid).children(recursive=True)
    (victim,) = [one for one in found if one.name() == name]
    victim.kill()
    killed = time.monotonic()
    done = house.shell.finish(command)
    assert time.monotonic() - killed < BACK_WITHIN_S
    assert done.code == 3
    assert "was killed by SIGKILL" in done.err
    assert f"`retinue resume {id}` goes on" in done.err
    assert all(line.startswith("retinue: ") for line in done.err.splitlines())
    _, alive = psutil.wait_procs(found, timeout=15)
    assert alive == []


_PROGRAM = """
import asyncio, signal, sys
from retinue import connect

def own(number, frame):
    print("own handler", flush=True)
    raise SystemExit(7)

async def main():
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    if sys.argv[1] == "own":
        signal.signal(signal.SIGTERM, own)
    elif sys.argv[1] == "loop":
        loop.add_signal_handler(signal.SIGTERM, told.set)
    async with connect():
        print("joined", flush=True)
        await told.wait()
    print("left", flush=True)

asyncio.run(main())
"""


@pytest.mark.own_cluster
@pytest.mark.parametrize(
    ("handler", "code", "said"),
    [("none", -signal.SIGTERM, ""), ("own", 7, "own handler\n"), ("loop", 0, "left\n")],
)
def test_a_program_that_is_told_to_end_does_so_as_python_does(
    house: House, handler: str, code: int, said: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, handler],
        env=house.shell.environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout
        assert program.stdout.readline() == "joined\n"
        program.send_signal(signal.SIGTERM)
        out, err = program.communicate(timeout=30)
    assert (program.returncode, out, err) == (code, said, "")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _tree(house: House, id: str) -> dict[str, object]:
    return house.shell.retinue("tree", id, "--json").document
