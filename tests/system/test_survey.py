"""The main example: what it finds, and that its tree of agents finds the same as a loop."""

from __future__ import annotations

import ast
import io
import json
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import survey
from retinue import Retinue
from survey_report import Report, as_json, show, totals

STDLIB = Path(sysconfig.get_path("stdlib"))

SOURCE = b'''\
import os, os.path, sys
from json.decoder import JSONDecoder
from . import sibling

def first():
    """TODO: FIXMEs are not notes, a FIXME is."""
    def inner():
        import lazy
        return lambda: None

class Outer:
    class Inner:
        async def method(self):
            pass

if sys:
    try:
        def one(): pass
    except ValueError as error:
        def two(): pass
    else:
        def three(): pass
    finally:
        def four(): pass
match sys:
    case None:
        def five(): pass
'''

CONTENTS = (
    b"",
    b"import a\nimport b\n",
    b"import a.b\ndef f():\n    pass\n\n\n# TODO\n",
    b"class C:\n    def m(self):\n        return 1\n\n    def n(self): return 2\n",
    b"def broken(:\n",
    b"def f():\n    pass\n",
)


# --- one file ------------------------------------------------------------------------------------


def test_what_is_found_in_a_file() -> None:
    found = survey.findings_of("/a.py", SOURCE)
    assert found["files"] == 1
    assert found["bytes"] == len(SOURCE)
    assert found["lines"] == SOURCE.count(b"\n")
    assert found["functions"] == 8
    assert found["classes"] == 2
    assert found["todos"] == 2
    assert found["imports"] == {"json": 1, "lazy": 1, "os": 1, "sys": 1}
    assert found["skipped"] == []


def test_the_longest_functions_come_first_with_their_qualified_names() -> None:
    longest = survey.findings_of("/a.py", SOURCE)["longest"]
    assert [(one["name"], one["where"], one["lines"]) for one in longest[:3]] == [
        ("first", "/a.py:5", 5),
        ("first.inner", "/a.py:7", 3),
        ("Outer.Inner.method", "/a.py:13", 2),
    ]
    assert len(longest) == survey.LONGEST


@pytest.mark.parametrize("source", [b"def broken(:\n", b"nul = '\0'\n", b"\xff\xfe = 1\n"])
def test_a_file_that_does_not_parse_counts_and_is_named(source: bytes) -> None:
    found = survey.findings_of("/bad.py", source)
    assert found["files"] == 1
    assert found["bytes"] == len(source)
    assert found["functions"] == 0
    assert [line.partition(":")[0] for line in found["skipped"]] == ["/bad.py"]


@pytest.mark.parametrize("name", ["typing.py", "asyncio/base_events.py", "zipfile.py", "ast.py"])
def test_no_definition_is_missed(name: str) -> None:
    source = (STDLIB / name).read_bytes() if (STDLIB / name).exists() else SOURCE
    kinds = Counter(type(node) for node in ast.walk(ast.parse(source)))
    found = survey.findings_of(name, source)
    assert found["functions"] == kinds[ast.FunctionDef] + kinds[ast.AsyncFunctionDef]
    assert found["classes"] == kinds[ast.ClassDef]


@given(st.lists(st.lists(st.sampled_from(CONTENTS))))
def test_findings_merge_in_any_grouping_and_order(groups: list[list[bytes]]) -> None:
    each = [
        [survey.findings_of(f"/{a}/{b}.py", source) for b, source in enumerate(group)]
        for a, group in enumerate(groups)
    ]
    by_group = survey.merged(survey.merged(group) for group in reversed(each))
    assert by_group == survey.merged(found for group in each for found in group)


# --- a directory ---------------------------------------------------------------------------------


def test_which_files_are_surveyed(tmp_path: Path) -> None:
    for name in (
        "top.py",
        "package/module.py",
        "package/tests/test_module.py",
        "package/notes.txt",
        "package/__pycache__/module.py",
        ".venv/hidden.py",
        "lib/site-packages/other.py",
    ):
        _write(tmp_path / name, b"pass\n")
    (tmp_path / "link.py").symlink_to("/etc/hostname")
    (tmp_path / "package/loop").symlink_to(tmp_path)
    assert survey.files_below(str(tmp_path)) == [
        str(tmp_path / "package/module.py"),
        str(tmp_path / "package/tests/test_module.py"),
        str(tmp_path / "top.py"),
    ]
    assert survey.contents(str(tmp_path)) == [["package"], [str(tmp_path / "top.py")]]
    assert survey.contents(str(tmp_path / "package"), flat=True) == [
        [],
        survey.files_below(str(tmp_path / "package")),
    ]


def test_the_standard_library_is_surveyed_without_its_tests() -> None:
    files = survey.files_below(survey.STDLIB)
    assert len(files) > 300
    assert not [path for path in files if "/test/" in path or "/site-packages/" in path]


def test_a_directory_that_is_none_is_a_wrong_call(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        survey.arguments_of(["/no/such/place"])
    assert "/no/such/place is not a directory" in capsys.readouterr().err


# --- the tree of agents --------------------------------------------------------------------------

cluster = pytest.mark.cluster
on_the_cluster = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source tree of 40 files, nested deeper than a family may be."""
    root = tmp_path_factory.mktemp("sources")
    places = ("", "one", "two", "two/nested", "two/nested/deeper", "two/nested/deeper/deepest")
    for at in range(40):
        _write(root / places[at % 6] / f"module_{at}.py", CONTENTS[at % 5] * (1 + at // 5))
    return root.resolve()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def report(retinue: Retinue, sources: Path) -> Report:
    """What the example's program comes to."""
    return await survey.run(retinue, str(sources))


@cluster
@on_the_cluster
async def test_the_agents_find_what_a_loop_finds(report: Report, sources: Path) -> None:
    assert report.result.value == survey.survey_plainly(str(sources))
    assert report.complete
    assert report.levels == [3 + len(survey.ELSEWHERE), 7 + 7 + 7 + 1, 7 + 6 + 6]


@cluster
@on_the_cluster
async def test_the_costs_of_all_sub_agents_add_up(report: Report, sources: Path) -> None:
    size = sum(path.stat().st_size for path in sources.rglob("*.py"))
    assert sum(node.summary.spent for node in report.tree.walk()) == size
    assert report.tree.total == report.result.cost == size
    assert report.session.spent == report.workspace.spent == size
    assert report.session.reserved == report.workspace.reserved == 0
    branches = {node.summary.label: node for node in report.tree.walk() if node.children}
    for place in ("one", "two", "nested"):
        directory = next(sources.rglob(place))
        assert branches[place].total == sum(p.stat().st_size for p in directory.rglob("*.py"))


@cluster
@on_the_cluster
async def test_parsing_is_asked_for_once_and_no_yes_and_later_happen(report: Report) -> None:
    assert report.answers == {
        "call survey/parse": "yes, for the workspace",
        f"list {survey.TEMPORARY}": "yes, for the session",
        "list /": "nothing",
    }
    decisions = {what: said for what, _, said in (line.partition(": ") for line in report.said)}
    assert decisions["call survey/parse"] == "allowed by approval"
    assert decisions["read /etc/shadow"].startswith("denied, ")
    assert decisions["list /usr/bin"].startswith("denied, ")
    assert decisions[f"list {survey.TEMPORARY}"].startswith("allowed by approval, ")
    assert decisions["list /"] == "deferred, nobody answered in time"
    assert report.waiting == ["list /"]


@cluster
@on_the_cluster
async def test_the_report_shows_all_of_it(report: Report) -> None:
    console = Console(file=io.StringIO(), width=200)
    show(report, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("two", "nested", "module_", "denied", "deferred", "yes, for the workspace"):
        assert text in shown
    assert f"{report.tree.total_usd:.9f}" in shown
    assert f"{sum(report.levels)} sub-agents on 3 levels" in totals(report, 1.0)
    told = json.loads(as_json(report, 1.0))
    assert told["success"] is True
    assert told["survey"] == report.result.value


@cluster
@on_the_cluster
async def test_it_runs_with_nobody_there_and_without_a_prompt(
    retinue: Retinue, tmp_path: Path
) -> None:
    _write(tmp_path / "package/module.py", SOURCE)
    workspace = await retinue.workspace(tmp_path)
    session = await retinue.create_session(survey.survey, workspace=workspace)
    result = await session.run("")
    assert result.value == survey.survey_plainly(str(tmp_path))
    assert "list /: deferred, nobody is there to answer" in [
        message.text for message in await session.messages()
    ]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
