"""The figures for people, as a table, and for machines, as `results/latest.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.figures import KEYS, Figure, Key

RESULTS = Path(__file__).resolve().parent / "results" / "latest.json"
_PLAIN_WIDTH = 150


@dataclass
class Report:
    """One run: its figures, what could not be measured, and under what circumstances."""

    figures: dict[str, Figure] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    about: dict[str, object] = field(default_factory=dict)
    machine: dict[str, object] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def write(report: Report, file: Path = RESULTS) -> None:
    """Store a run; a figure that could not be measured is null, and ``failed`` says why."""
    figures = report.figures
    values = {key.name: _value(figures.get(key.name)) for key in KEYS}
    document = {
        **values,
        "reach": {key.name: key.reach for key in KEYS},
        "spread": {name: [_short(one.low), _short(one.high)] for name, one in figures.items()},
        "absolute": {
            name: {what: _short(number) for what, number in one.absolute.items()}
            for name, one in figures.items()
        },
        "series": {
            name: {line: [[x, _short(y)] for x, y in points] for line, points in one.series.items()}
            for name, one in figures.items()
            if one.series
        },
        "notes": {name: list(one.notes) for name, one in figures.items()},
        "failed": report.failed,
        "run": report.about,
        "machine": report.machine,
        "versions": report.versions,
    }
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def show(report: Report, console: Console | None = None) -> None:
    """Print the table, and below it what each side does and does not do."""
    console = console or _console()
    console.print(_table(report, console.is_terminal))
    for notes, numbers in _notes(report).items():
        for at, note in enumerate(notes):
            lead = f"[{', '.join(map(str, numbers))}] " if at == 0 else "    "
            console.print(Text(lead + note), soft_wrap=not console.is_terminal)
    for name, error in report.failed.items():
        console.print(Text(f"{name}: not measured: {error}"))
    machine, about = report.machine, report.about
    console.print(
        Text(
            f"{machine['processors']} x {machine['processor']}, {machine['memory_gib']} GiB, "
            f"{machine['system']}; {about['seconds']} s in all"
        )
    )


def _console() -> Console:
    plain = Console()
    return plain if plain.is_terminal else Console(width=_PLAIN_WIDTH)


def _table(report: Report, terminal: bool) -> Table:
    table = Table(box=box.SIMPLE if terminal else box.ASCII, title=_title(report))
    table.add_column("", justify="right")
    table.add_column("figure", overflow="fold")
    table.add_column("median", justify="right")
    table.add_column("rounds", justify="right")
    table.add_column("reach", justify="right")
    table.add_column("")
    table.add_column("absolute", overflow="fold")
    for number, key in enumerate(KEYS, 1):
        figure = report.figures.get(key.name)
        if figure:
            table.add_row(str(number), *_cells(key, figure))
    return table


def _cells(key: Key, figure: Figure) -> tuple[str, str, str, str, Text, str]:
    met = key.met(figure.value)
    verdict = Text("") if key.reach == "report" else _verdict(met)
    absolute = ", ".join(f"{name} {_number(one)}" for name, one in figure.absolute.items())
    spread = f"{_number(figure.low)} - {_number(figure.high)}"
    unit = "" if key.unit == "x" else f" {key.unit}"
    return (
        f"{key.name}\n{key.what}",
        f"{_number(figure.value)}{unit}",
        spread if figure.low != figure.high else "",
        key.reach,
        verdict,
        absolute,
    )


def _verdict(met: bool) -> Text:
    return Text("yes", "green") if met else Text("no", "bold red")


def _title(report: Report) -> str:
    return "Retinue, side by side" + (" (quick)" if report.about.get("quick") else "")


def _notes(report: Report) -> Mapping[tuple[str, ...], list[int]]:
    """Notes, and the numbers of the rows that they are about."""
    found: dict[tuple[str, ...], list[int]] = {}
    for number, key in enumerate(KEYS, 1):
        if key.name in report.figures:
            found.setdefault(tuple(report.figures[key.name].notes), []).append(number)
    return found


def _value(figure: Figure | None) -> float | None:
    return None if figure is None else _short(figure.value)


def _short(number: float) -> float:
    """Four significant digits, and whole numbers whole."""
    return int(number) if number == int(number) else float(f"{number:.4g}")


def _number(number: float) -> str:
    short = _short(number)
    return f"{short:,}" if abs(short) < 1000 else f"{short:,.0f}"
