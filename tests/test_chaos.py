"""A short run of the chaos harness: every kind of fault hits something, and nothing is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.plan import KINDS

ROOT = Path(__file__).parents[1]


@pytest.mark.timeout(540)
def test_nothing_is_lost_whatever_is_killed_or_cut() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--rounds", str(len(KINDS)), "--seed", "7"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert set(report["kills"]) == set(KINDS), done.stdout
    assert report["acknowledged"] > 1000
