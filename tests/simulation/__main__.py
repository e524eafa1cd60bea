"""``python -m tests.simulation``: many schedules, one line of JSON, and exit 1 if one was wrong."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time

from tests.simulation.schedule import Tally, run_many

_CHUNK = 200


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the first schedule (default 0)")
    parser.add_argument("--schedules", type=int, default=10_000, help="how many (default 10000)")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="default: one for each processor"
    )
    options = parser.parse_args()
    began = time.monotonic()
    seeds = range(options.seed, options.seed + options.schedules)
    tally = _run(seeds, options.processes)
    seconds = time.monotonic() - began
    for seed, violations in sorted(tally.failures.items()):
        for violation in violations:
            print(f"seed {seed}: {violation}", file=sys.stderr)
        print(f"seed {seed}: again with --seed {seed} --schedules 1", file=sys.stderr)
    print(json.dumps(_summary(options.seed, tally, seconds)))
    return 1 if tally.failures else 0


def _run(seeds: range, processes: int) -> Tally:
    if processes <= 1 or len(seeds) <= _CHUNK:
        return run_many(seeds)
    total = Tally()
    chunks = [seeds[at : at + _CHUNK] for at in range(0, len(seeds), _CHUNK)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for tally in pool.imap_unordered(run_many, chunks):
            total.merge(tally)
    return total


def _summary(seed: int, tally: Tally, seconds: float) -> dict[str, object]:
    return {
        "seed": seed,
        "schedules": tally.schedules,
        "acknowledged": tally.acknowledged,
        "steps": tally.steps,
        "faults": dict(sorted(tally.faults.items())),
        "failed": sorted(tally.failures),
        "trace": f"{tally.trace:016x}",
        "seconds": round(seconds, 1),
        "schedules_per_s": round(tally.schedules / seconds, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
