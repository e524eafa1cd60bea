"""What the benchmark program does with what it measures; measuring is not tested here."""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.catalog import ROWS, rows
from benchmarks.figures import KEYS, figure
from benchmarks.harness import in_turns, ratios
from benchmarks.report import Report, show, write


def test_every_key_is_measured_by_one_row() -> None:
    assert sorted(key for row in ROWS for key in row.keys) == sorted(key.name for key in KEYS)


def test_a_row_is_found_by_any_of_its_keys() -> None:
    assert rows("leased_stranded") == rows("leased_overspend") != rows(None)
    with pytest.raises(KeyError):
        rows("unknown")


async def test_sides_take_turns_and_the_warm_up_does_not_count() -> None:
    order: list[str] = []

    def side(name: str) -> Callable[[], Awaitable[float]]:
        async def measure() -> float:
            order.append(name)
            return float(len(order))

        return measure

    found = await in_turns(2, side("a"), side("b"))
    assert "".join(order) == "ab" + "ba" + "ab"
    assert found == [[4.0, 5.0], [3.0, 6.0]]


def test_a_figure_is_the_median_of_its_rounds() -> None:
    found = figure("k", ratios([3.0, 8.0, 5.0], [1.0, 2.0, 1.0]), {})
    assert (found.value, found.low, found.high) == (4.0, 3.0, 5.0)


@pytest.mark.parametrize(
    ("key", "value", "met"),
    [
        ("authorize_vs_ray_call", 8.0, True),
        ("authorize_vs_ray_call", 7.9, False),
        ("leased_stranded", 0.0, True),
        ("leased_stranded", 1.0, False),
        ("activation_p50_ms", 1e9, True),
    ],
)
def test_targets(key: str, value: float, met: bool) -> None:
    (found,) = (one for one in KEYS if one.name == key)
    assert found.met(value) is met


@pytest.fixture
def report() -> Report:
    """One figure, one failure, the rest not measured."""
    measured = figure("authorize_vs_ray_call", [9.0, 10.5, 9.87654], {"ray_per_s": 1500.0}, ("n",))
    return Report(
        {measured.key: measured},
        {"activation_p50_ms": "TimeoutError: "},
        {"quick": True, "seconds": 3},
        {"processors": 2, "processor": "chip", "memory_gib": 8.0, "system": "system"},
        {"python": "3"},
    )


def test_the_file_has_every_key_with_its_spread_and_what_it_came_from(
    report: Report, tmp_path: Path
) -> None:
    write(report, tmp_path / "results" / "latest.json")
    document = json.loads((tmp_path / "results" / "latest.json").read_text())
    assert document["authorize_vs_ray_call"] == 9.877
    assert document["spread"]["authorize_vs_ray_call"] == [9, 10.5]
    assert document["absolute"]["authorize_vs_ray_call"] == {"ray_per_s": 1500}
    assert document["activation_p50_ms"] is None
    assert "TimeoutError" in document["failed"]["activation_p50_ms"]
    assert {key.name for key in KEYS} <= set(document)


def test_the_table_is_plain_text_without_a_terminal(report: Report) -> None:
    out = io.StringIO()
    show(report, Console(file=out, width=150))
    text = out.getvalue()
    assert "\x1b" not in text
    for part in ("authorize_vs_ray_call", "9.877", "9 - 10.5", "≥ 8", "yes", "2 x chip"):
        assert part in text
    assert "activation_p50_ms: not measured: TimeoutError" in text
