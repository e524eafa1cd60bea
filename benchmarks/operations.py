"""``python -m benchmarks.operations``: what the runbook needs and `make bench` has not.

Twenty seconds, without Ray. The figures go to `results/operations.json` and are printed.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import process_memory, redis_commits
from benchmarks.machine import machine

RESULTS = Path(__file__).resolve().parent / "results" / "operations.json"


def main() -> None:
    """Measure, store and print."""
    figures = {**asyncio.run(redis_commits.measure()), **asyncio.run(process_memory.measure())}
    document = {
        **{name: float(f"{value:.4g}") for name, value in figures.items()},
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
    }
    text = json.dumps(document, indent=2, ensure_ascii=False)
    RESULTS.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
