"""Thousands of schedules of the real actors, and the proof that the checker sees what is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from retinue.actors.session.agents import ALWAYS_REPLAY
from tests.simulation.broken import BROKEN
from tests.simulation.loop import Loop, Process, Stuck
from tests.simulation.schedule import run, run_each, run_many

ROOT = Path(__file__).parents[2]


def command(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """Run the simulation as its own process."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(600)  # seconds on a quiet machine
def test_no_schedule_breaks_a_promise() -> None:
    tally = run_many(range(1500))
    assert tally.failures == {}
    assert tally.acknowledged > 20 * tally.schedules


def test_nor_where_every_turn_is_started_again_after_each_of_its_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ALWAYS_REPLAY, "1")
    tally = run_many(range(40))
    assert tally.failures == {}
    assert tally.acknowledged > 20 * tally.schedules


def test_every_fault_happens() -> None:
    faults = run_many(range(100)).faults
    assert {"kill host", "zombie host", "pause host", "kill store", "zombie store"} <= set(faults)
    for what in ("call", "journal"):
        assert {f"{what} {fate}" for fate in ("lost", "unanswered", "late", "twice")} <= set(faults)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_on_purpose_is_caught(name: str) -> None:
    variant = BROKEN[name]
    with variant.patched():
        verdicts = run_each(range(variant.within), variant.journal)
        caught = next((verdict for verdict in verdicts if verdict.violations), None)
        verdicts.close()
    assert caught is not None


def test_the_same_seed_is_the_same_schedule_in_every_process() -> None:
    lines = [
        json.loads(command("--seed", "70", "--schedules", "20", hash_seed=seed).stdout)
        for seed in ("1", "2")
    ]
    assert lines[0]["trace"] == lines[1]["trace"] == f"{run_many(range(70, 90)).trace:016x}"


def test_another_seed_is_another_schedule() -> None:
    assert run(1).trace != run(2).trace


def test_the_command_prints_one_line_of_json() -> None:
    done = command("--seed", "3", "--schedules", "5")
    line = json.loads(done.stdout)
    assert (done.returncode, line["seed"], line["schedules"], line["failed"]) == (0, 3, 5, [])


class TestLoop:
    """The scheduler itself."""

    @staticmethod
    def loop(seed: int = 0, fifo: bool = False) -> Loop:
        return Loop(random.Random(seed), fifo)

    def test_time_passes_at_once_and_only_when_nothing_is_ready(self) -> None:
        loop = self.loop()
        loop.run(asyncio.sleep(3600), 100)
        assert loop.time() == 3600

    def test_the_seed_decides_what_runs_next(self) -> None:
        async def order() -> list[int]:
            found: list[int] = []

            async def note(number: int) -> None:
                found.append(number)

            await asyncio.gather(*map(note, range(6)))
            return found

        orders = {tuple(self.loop(seed).run(order(), 100)) for seed in range(20)}
        assert len(orders) > 10
        assert {tuple(self.loop(seed, fifo=True).run(order(), 100)) for seed in range(20)} == {
            tuple(range(6))
        }

    def test_what_is_killed_does_nothing_more(self) -> None:
        loop, process, seen = self.loop(), Process("it"), list[str]()

        async def live() -> None:
            try:
                while True:
                    seen.append("alive")
                    await asyncio.sleep(1)
            finally:
                seen.append("cleaned up")

        async def kill() -> None:
            asyncio.get_running_loop().create_task(live(), context=process.context)
            await asyncio.sleep(2.5)
            process.alive = False
            await asyncio.sleep(10)

        loop.run(kill(), 1000)
        assert seen == ["alive"] * 3
        loop.close()

    def test_what_is_paused_goes_on_where_it_was(self) -> None:
        loop, process, seen = self.loop(), Process("it"), list[float]()

        async def live() -> None:
            await asyncio.sleep(1)
            seen.append(loop.time())

        async def pause() -> None:
            task = asyncio.get_running_loop().create_task(live(), context=process.context)
            await asyncio.sleep(0.5)
            process.paused = True
            await asyncio.sleep(5)
            loop.resume(process)
            await task

        loop.run(pause(), 1000)
        assert seen == [5.5]

    def test_what_can_never_end_is_stuck(self) -> None:
        async def wait() -> None:
            await asyncio.get_running_loop().create_future()

        async def spin() -> None:
            while True:
                await asyncio.sleep(0)

        for endless in (wait(), spin()):
            loop = self.loop()
            with pytest.raises(Stuck):
                loop.run(endless, 100)
            loop.close()
