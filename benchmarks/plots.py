"""The plots of the README, from `results/latest.json`: throughput and cost.

Run in the environment of the benchmarks: ``python -m benchmarks.plots FILE.json DIRECTORY``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib import pyplot

PLOTS = {
    "fanout_shared_vs_autogen_inprocess": (
        "spawn-throughput.png",
        "Sub-agents at once",
        "Sub-agents a second",
        "Fan-out of shared sub-agents: Retinue's are durable, authorised and audited",
    ),
    "turn_cost_10k_vs_10": (
        "turn-cost.png",
        "Messages stored",
        "Milliseconds a turn (p50)",
        "Cost of a turn against the history of its session",
    ),
}


def main(results: Path, directory: Path) -> None:
    document = json.loads(results.read_text())
    directory.mkdir(exist_ok=True)
    for key, (file, across, up, title) in PLOTS.items():
        lines = document["series"].get(key)
        if lines:
            _plot(lines, across, up, title, directory / file)


def _plot(
    lines: dict[str, list[tuple[float, float]]], across: str, up: str, title: str, file: Path
) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=150)
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xscale("log")
    if len(lines) > 1:
        axes.set_yscale("log")
        axes.legend()
    else:
        axes.set_ylim(0, 1.3 * max(y for points in lines.values() for _, y in points))
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_title(title, fontsize=10)
    axes.grid(visible=True, which="major", alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
