"""``python -m tests.chaos --rounds N --seed S``: exit code 1 unless nothing was found.

It prints the seed first, then a line for each round, then one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from msgspec.json import encode

from tests.chaos.checks.findings import Findings
from tests.chaos.plan import Round, only, rounds
from tests.chaos.run import Harness
from tests.chaos.stages import STAGES, Stage
from tests.chaos.workloads.errands import NAMES

_SHOWN = 20
FAULTS = sorted({kind for stage in STAGES for kind in stage.menu.kinds})


def main() -> int:
    """Run the harness; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--work", nargs="+", choices=NAMES, default=[], help="default: all of it")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    parser.add_argument("--plan", action="store_true", help="print the rounds, and run none")
    parser.add_argument("--keep", action="store_true", help="keep ledgers and logs")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    menus = [only(stage.menu, given.faults) for stage in STAGES]
    plan = rounds(seed, given.rounds, [menu for menu in menus if menu.kinds])
    stages = [stage for stage in STAGES if plan.get(stage.name)]
    if given.plan:
        for stage in stages:
            print(*(f"{stage.name} {encode(one).decode()}" for one in plan[stage.name]), sep="\n")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    home = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))  # short: sockets are in it
    findings = Findings()
    report: dict[str, Any] = {"seed": seed, "rounds": given.rounds, "kills": {}, "acknowledged": 0}
    for stage in stages:
        place = home / stage.name[0]
        harness = _play(stage, place, seed, plan[stage.name], findings, tuple(given.work))
        report["kills"][stage.name] = harness.hits
        report["acknowledged"] += harness.acknowledged
    for kind, texts in findings.found.items():
        for text in texts[:_SHOWN]:
            print(f"{kind}: {text}")
    print(json.dumps(report | findings.counts), flush=True)
    if findings.clean and not given.keep:
        shutil.rmtree(home, ignore_errors=True)
    else:
        print(f"the ledgers and the logs are in {home}", file=sys.stderr)
    return 0 if findings.clean else 1


def _play(
    stage: Stage[Any],
    home: Path,
    seed: int,
    plan: list[Round],
    findings: Findings,
    work: tuple[str, ...],
) -> Harness:
    """One stage, from an empty directory until nothing of it runs any more."""
    print(f"stage {stage.name}", flush=True)
    home.mkdir()
    with stage.open(home, seed) as ground:
        harness = Harness(stage, ground, f"{seed}/{stage.name}", work)
        found = asyncio.run(harness.run(plan))
        for text in ground.close():
            findings.add("leaked", text)
    for text in ground.complaints:  # first, since the others may come of it
        findings.add("lost", text)
    findings.take(found)
    return harness


if __name__ == "__main__":
    sys.exit(main())
