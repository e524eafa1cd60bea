"""Survey Python's standard library on the Ray cluster that this job runs on.

Its report is one JSON document on standard output; exit code 0 if all went well, else 1.
"""

from __future__ import annotations

import asyncio
import sys
import time

from retinue import connect
from survey import STDLIB, run
from survey_report import as_json


async def main() -> int:
    """Join, survey, report."""
    began = time.monotonic()
    async with connect("auto") as retinue:
        report = await run(retinue, STDLIB)
    print(as_json(report, time.monotonic() - began))
    return 0 if report.complete else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
