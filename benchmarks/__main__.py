"""``python -m benchmarks [--quick] [--only KEY]``: everything side by side, in one run."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import report as reports
from benchmarks.bench import FULL, QUICK, Bench, Sizes, say
from benchmarks.catalog import Row, rows
from benchmarks.figures import KEYS
from benchmarks.machine import machine, versions
from benchmarks.peer import ROOT, apart
from benchmarks.report import Report
from retinue import connect

_ROW_LIMIT_S = 900.0
_OURS = ("RETINUE_REDIS_URL", "RETINUE_KEY", "RETINUE_KEY_FILE", "RETINUE_ALWAYS_REPLAY")


def main() -> int:
    """Measure, print the table, and store the figures unless only some were asked for."""
    options = _options()
    sizes = QUICK if options.quick else FULL
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="retinue-") as home:
        for name in _OURS:
            os.environ.pop(name, None)
        os.environ["RETINUE_HOME"] = home
        with contextlib.redirect_stdout(io.StringIO()):  # Ray tells there of workers we kill
            report = asyncio.run(_measure(rows(options.only), sizes, Path(home)))
    report.machine = machine()
    report.about = {
        "quick": options.quick,
        "date": datetime.now(UTC).date().isoformat(),
        "rounds": sizes.rounds,
        "seconds": round(time.monotonic() - begin),
        "redis": "one server for all, append-only file, fsync every second, unix socket",
        "ray": "one cluster on this machine",
        "method": "sides take turns, a warm-up round is dropped; median, lowest and highest round",
    }
    if not options.only:
        reports.write(report)
    reports.show(report)
    if not options.only and not options.quick:
        _plot()
    return 1 if report.failed else 0


async def _measure(chosen: list[Row], sizes: Sizes, home: Path) -> Report:
    report = Report()
    async with connect() as retinue:
        bench = Bench(retinue, sizes, home)
        await bench.warm_hosts()
        for row in chosen:
            begin = time.monotonic()
            try:
                async with asyncio.timeout(_ROW_LIMIT_S):
                    found = await row.measure(bench)
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
                report.failed.update(dict.fromkeys(row.keys, text))
                say(f"{', '.join(row.keys)}: {text}")
            else:
                report.figures.update((one.key, one) for one in found)
                values = ", ".join(f"{one.key} {one.value:,.4g}" for one in found)
                say(f"{values} ({time.monotonic() - begin:.0f} s)")
        report.versions = {**bench.versions, **versions(bench.redis_url)}
    return report


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: under two minutes")
    parser.add_argument(
        "--only",
        metavar="KEY",
        choices=[key.name for key in KEYS],
        help="measure the row of this key, and store nothing",
    )
    return parser.parse_args()


def _plot() -> None:
    command = [str(apart()), "-m", "benchmarks.plots", str(reports.RESULTS), str(ROOT / "docs")]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
