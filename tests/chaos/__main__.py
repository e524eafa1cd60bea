"""``python -m tests.chaos --rounds N --seed S``: the seed first, then a line for each round, then
one line of JSON. Exit code 1 unless nothing was found."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys

from tests.chaos.cluster import ChaosCluster
from tests.chaos.findings import Findings
from tests.chaos.plan import rounds
from tests.chaos.run import Harness

_SHOWN = 20


def main() -> int:
    """Run the harness; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", action="store_true", help="keep ledger and logs")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ChaosCluster(seed) as cluster:
        harness, findings = asyncio.run(_run(cluster, seed, given.rounds))
        for text in cluster.close():
            findings.add("leaked", text)
    for kind, texts in findings.found.items():
        for text in texts[:_SHOWN]:
            print(f"{kind}: {text}")
    report = {
        "seed": seed,
        "rounds": given.rounds,
        "kills": harness.hits,
        "acknowledged": harness.acknowledged,
        **findings.counts,
    }
    print(json.dumps(report), flush=True)
    if findings.clean and not given.keep:
        cluster.remove_home()
    else:
        print(f"the ledger and the logs are in {cluster.home}", file=sys.stderr)
    return 0 if findings.clean else 1


async def _run(cluster: ChaosCluster, seed: int, count: int) -> tuple[Harness, Findings]:
    harness = Harness(cluster, seed)
    return harness, await harness.run(rounds(seed, count))


if __name__ == "__main__":
    sys.exit(main())
