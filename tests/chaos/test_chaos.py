"""A short run of the chaos harness: every kind of fault hits something, and nothing is found.

And what the harness itself is made of: its plan, the helpers, and the check for what is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import helpers
from tests.chaos.checks.books import Books
from tests.chaos.checks.check import check
from tests.chaos.checks.records import Records
from tests.chaos.ledger import Line
from tests.chaos.plan import Round, only, rounds
from tests.chaos.stages import STAGES
from tests.kit import processes
from tests.kit.waiting import until

ROOT = Path(__file__).parents[2]
MENUS = [stage.menu for stage in STAGES]


@pytest.mark.chaos
@pytest.mark.timeout(540)
def test_nothing_is_lost_whatever_is_killed_or_cut() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--rounds", "12", "--seed", "7"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    report = json.loads(done.stdout.splitlines()[-1])
    for menu in MENUS:
        assert set(report["kills"][menu.stage]) == set(menu.kinds), done.stdout
    assert report["acknowledged"] > 1000


# --- the plan ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 5, 12, 28, 40, 100])
def test_every_kind_comes_on_every_stage(count: int) -> None:
    plan = rounds(1, count, MENUS)
    assert [one.number for menu in MENUS for one in plan[menu.stage]] == list(range(1, count + 1))
    for menu in MENUS:
        assert _kinds(plan[menu.stage]) == set(menu.kinds)


def test_where_there_are_rounds_enough_each_kind_has_one_of_its_own() -> None:
    count = sum(len(menu.kinds) for menu in MENUS)
    plan = rounds(1, count, MENUS)
    for menu in MENUS:
        assert sorted(one.faults[0].kind for one in plan[menu.stage]) == sorted(menu.kinds)


def test_the_plan_depends_on_the_seed_alone() -> None:
    assert rounds(1, 30, MENUS) == rounds(1, 30, MENUS)
    assert rounds(1, 30, MENUS) != rounds(2, 30, MENUS)


def test_a_plan_may_be_of_some_faults_alone() -> None:
    menus = [only(menu, ("redis", "daemon")) for menu in MENUS]
    plan = rounds(1, 20, menus)
    planned = {menu.stage: _kinds(plan[menu.stage]) for menu in menus}
    assert planned == {"nodes": {"redis"}, "local": {"redis", "daemon"}}


def _kinds(rounds: list[Round]) -> set[str]:
    return {fault.kind for one in rounds for fault in one.faults}


# --- helpers -------------------------------------------------------------------------------------


@pytest.fixture(params=helpers.WAYS)
def helper(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, int, Path]]:
    """How it was started, its process id, and the ledger that it is named for."""
    pid = helpers.start(request.param, str(tmp_path))
    yield request.param, pid, tmp_path
    os.kill(pid, signal.SIGKILL)
    if not request.param.endswith("daemon"):
        os.waitpid(pid, 0)


async def test_a_helper_is_found_however_it_was_started(helper: tuple[str, int, Path]) -> None:
    way, pid, ledger = helper
    await until(lambda: bool(processes.with_command(helpers.command(str(ledger)))))
    (found,) = processes.with_command(helpers.command(str(ledger)))
    assert found.pid == pid
    assert helpers.start_of(pid)
    own = os.getpid()
    assert (os.getsid(pid) == os.getsid(own)) == (way in ("plain", "bare"))
    assert (found.ppid() == own) == (way in ("plain", "session", "bare"))
    assert bool(found.environ()) == (not way.startswith("bare"))


# --- what is left --------------------------------------------------------------------------------

_BEGAN = Line("began", life="x", session="s", pid=20, amount=10, at=0)
_LEFT = Line("left", "result", "result r", amount=30, value="f0r0#1", proof="x", at=5_000_000)


def test_a_helper_that_is_left_after_the_end_is_found_once() -> None:
    findings = check(Records([_BEGAN, _LEFT, _LEFT]), Books())
    assert findings.counts["leaked"] == 1


def test_one_of_a_host_that_was_paused_or_lost_its_raylet_is_excused() -> None:
    paused = Line("paused", amount=10, at=1_000_000)
    woken = Line("woken", amount=10, at=3_000_000)
    assert check(Records([_BEGAN, paused, woken, _LEFT]), Books()).clean
    orphaned = Line("orphaned", amount=10, at=3_000_000)
    assert check(Records([_BEGAN, orphaned, _LEFT]), Books()).clean
    late = Line("woken", amount=10, at=1_500_000)
    assert not check(Records([_BEGAN, paused, late, _LEFT]), Books()).clean
