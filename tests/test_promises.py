"""README and SECURITY name the tests that hold what they promise, and these tests are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_NAMED = re.compile(r"`(tests/[\w/.]+)(?:::(\w+))?`")


def _section(file: str, heading: str) -> str:
    text = (ROOT / file).read_text()
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def _promises() -> Iterator[str]:
    """Each row and each line of what is promised."""
    for file, heading in (
        ("README.md", "What is promised when things die"),
        ("SECURITY.md", "Promised when things die"),
        ("SECURITY.md", "Promised of caps and permissions"),
    ):
        section = _section(file, heading)
        rows = [line for line in section.splitlines() if line.startswith("| ")]
        lines = re.findall(r"^- .*(?:\n  .*)*", section, re.MULTILINE)
        assert rows or lines, f"{file} has no {heading}"
        yield from (row for row in rows if not row.startswith(("| what dies", "| ---")))
        yield from lines


@pytest.mark.parametrize("promise", list(_promises()))
def test_a_promise_names_tests_that_are_there(promise: str) -> None:
    named = _NAMED.findall(promise)
    assert named, promise
    for file, name in named:
        path = ROOT / file
        assert path.exists(), file
        if name:
            assert re.search(rf"^(async )?def {name}\(", path.read_text(), re.MULTILINE), name
