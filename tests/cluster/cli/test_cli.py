"""The command line: what it refuses, what it draws, and what its commands do to a real cluster."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest
from rich.console import Console, RenderableType

from retinue import (
    ClusterUnavailable,
    ExecuteCommand,
    InvalidAgent,
    InvalidValue,
    NotFound,
    Retinue,
    RetinueError,
)
from retinue.actors.agent.shipping import name_of
from retinue.actors.domain.budget.state import Hold
from retinue.actors.domain.session.result import Result
from retinue.actors.views import FeedEvent, SessionSummary
from retinue.cluster.cli.agent_file import load_agent
from retinue.cluster.cli.app import invoke
from retinue.cluster.cli.lookup import check_fragment, the_only_one
from retinue.cluster.client.client import SessionList
from retinue.cluster.client.inbox import Answer, InboxRequest
from retinue.cluster.client.times import parse_moment, to_micros
from retinue.cluster.client.tree import build_tree
from retinue.cluster.doctor import machine as doctor
from retinue.cluster.local.running import Running, announce, hold, running, withdraw
from retinue.cluster.redis.server import holder
from retinue.cluster.settings import ClusterSettings
from retinue.cluster.terminal import approver
from retinue.cluster.terminal.display import PlainDisplay, tally
from retinue.cluster.terminal.follow import conclusion
from retinue.cluster.terminal.outcome import report
from retinue.cluster.terminal.overview import (
    Filters,
    list_sessions,
    result_json,
    summed_up,
    tree_json,
)
from retinue.cluster.terminal.progress import Counts, Progress
from retinue.cluster.terminal.render import (
    Folding,
    clean,
    lasting,
    one_line,
    sessions_table,
    tree_view,
)
from tests.kit.shell import AGENTS, Shell
from tests.kit.waiting import until
from tests.kit.warm import ROOT, Command

ONE = "01900000-0000-7000-8000-00000000000a"
OTHER = "01900000-0000-7000-8000-00000000000b"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test looks into the state of the person who runs it."""
    monkeypatch.setenv("RETINUE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RETINUE_REDIS_URL", raising=False)


# --- agents in files -----------------------------------------------------------------------------


@pytest.fixture
def agent_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file to write an agent into; what loading it does to this process is undone."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path / "my_agent.py"
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_an_agent_is_loaded_from_its_file(agent_file: Path) -> None:
    (agent_file.parent / "my_helper.py").write_text("WORD = 'hello'\n")
    agent_file.write_text(
        "import my_helper\nasync def greet(turn, prompt):\n    return my_helper.WORD\n"
    )
    assert name_of(load_agent(f"{agent_file}:greet")) == "greet"


def test_an_agent_in_a_package_may_import_its_siblings(agent_file: Path) -> None:
    package = agent_file.parent / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "words.py").write_text("WORD = 'hello'\n")
    (package / "main.py").write_text(
        "from .words import WORD\nasync def greet(turn, prompt):\n    return WORD\n"
    )
    agent = load_agent(f"{package / 'main.py'}:greet")
    assert agent.__module__ == "my_package.main"


def test_an_agent_file_may_be_called_like_a_module_of_python(agent_file: Path) -> None:
    file = agent_file.with_name("json.py")
    file.write_text("async def greet(turn, prompt):\n    return prompt\n")
    load_agent(f"{file}:greet")
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("source", "name", "said"),
    [
        ("x = 1", "greet", "has no 'greet'; it has no async function"),
        ("async def a(t, p): ...\nasync def b(t, p): ...", "c", "has no 'c'; it has a, b"),
        ("def greet(turn, prompt): ...", "greet", "greet is not async"),
        ("greet = 3", "greet", "3 is not callable"),
        ("x = 1\nimport nowhere_at_all", "greet", "my_agent.py:2: can't be imported: ModuleNotFou"),
        ("x = 1\n\ny = 1 / 0", "greet", "my_agent.py:3: can't be imported: ZeroDivisionError: div"),
        ("async def greet(:", "greet", "my_agent.py:1: can't be imported: SyntaxError: "),
        ("import sys\nsys.exit(4)", "greet", "my_agent.py:2: can't be imported: SystemExit: 4"),
        (
            "import threading\nlock = threading.Lock()\nasync def greet(t, p): return lock",
            "greet",
            "greet does not pickle",
        ),
    ],
)
def test_a_bad_agent_is_one_line(agent_file: Path, source: str, name: str, said: str) -> None:
    agent_file.write_text(source)
    with pytest.raises(InvalidAgent) as caught:
        load_agent(f"{agent_file}:{name}")
    assert said in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("nowhere.py:agent", NotFound),
        ("tests:agent", NotFound),
        ("pyproject.toml:agent", InvalidAgent),
        ("tests/kit/cluster_agents.py", InvalidAgent),
        (":agent", InvalidAgent),
        ("", InvalidAgent),
    ],
)
def test_what_names_no_agent_file_is_refused(text: str, error: type[RetinueError]) -> None:
    with pytest.raises(error):
        load_agent(str(ROOT / text) if text.startswith(("tests", "pyproject")) else text)


def test_what_an_agent_file_prints_does_not_mix_with_results(
    agent_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent_file.write_text("print('loading')\nasync def greet(turn, prompt): ...\n")
    load_agent(f"{agent_file}:greet")
    assert capsys.readouterr() == ("", "loading\n")


# --- ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [ONE, ONE.upper(), ONE.replace("-", ""), f" {ONE}\n"])
def test_a_whole_id_is_an_id(text: str) -> None:
    assert check_fragment(text, "session") == ONE


@pytest.mark.parametrize("text", ["01900000", "00000a", "0-7000-8000"])
def test_a_part_of_an_id_may_stand_for_it(text: str) -> None:
    assert check_fragment(text, "session") == text


@pytest.mark.parametrize("text", ["", "0190", "*", "0190000*", "héllo!", "../../x", ONE + "0"])
def test_what_is_no_part_of_an_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="session: "):
        check_fragment(text, "session")


def test_one_that_fits_is_taken() -> None:
    assert the_only_one("00000a", [ONE], "session", "retinue ps") == ONE


def test_none_that_fits_is_told_with_the_way_out() -> None:
    with pytest.raises(NotFound, match="session 00000c: there is none; `retinue ps` lists them"):
        the_only_one("00000c", [], "session", "retinue ps")


def test_several_that_fit_are_listed() -> None:
    with pytest.raises(InvalidValue, match=f"019000 fits 2 of them: {ONE}, {OTHER}$"):
        the_only_one("019000", [OTHER, ONE], "session", "retinue ps")
    with pytest.raises(InvalidValue, match=r"and 92 more$"):
        the_only_one("019000", [str(at) for at in range(100)], "session", "retinue ps")


# --- times as they are typed ---------------------------------------------------------------------

NOW = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("text", "before_now_s"),
    [
        ("90s", 90),
        ("30min", 1800),
        (" 2h ", 7200),
        ("7d", 604_800),
        ("2025-12-31T23:00:00Z", 3600),
        ("2026-01-01T01:00:00+02:00", 3600),
    ],
)
def test_a_time_is_how_long_ago_or_a_date(text: str, before_now_s: int) -> None:
    moment = parse_moment(text, "--since", NOW)
    assert to_micros(moment, "since") == NOW - before_now_s * 1_000_000


@pytest.mark.parametrize("text", ["", "2", "h", "-2h", "2 weeks", "999999999d", "2026-01-01T00:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="is no time: give how long ago"):
        parse_moment(text, "--since", NOW)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(InvalidValue, match="since: give a time with its zone"):
        to_micros(datetime(2026, 1, 1), "since")


# --- errors and wrong calls ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidValue("no"), 2),
        (NotFound("no"), 2),
        (ClusterUnavailable("no"), 3),
        (ValueError("no"), 3),
    ],
)
def test_an_error_has_its_exit_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error, as_json=False) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("retinue: ")
    assert err.count("\n") == 1


def test_an_error_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    report(InvalidValue("budget: is\nwrong", field="budget"), as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "error": {
            "kind": "InvalidValue",
            "message": "budget: is wrong",
            "details": {"field": "budget"},
        }
    }


_ECHO = f"{ROOT / AGENTS}:echo"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fly"], "No such command 'fly'"),
        (["run"], "Missing argument 'FILE:AGENT'"),
        (["run", "nowhere.py:agent"], "nowhere.py: there is no such file"),
        (["run", _ECHO, "--workspace", "/nowhere"], "--workspace: /nowhere is not a directory"),
        (["run", _ECHO, "--budget", "lots"], "--budget: 'lots' is not a decimal number"),
        (["run", _ECHO, "--budget", "-1"], "--budget: '-1' is negative"),
        (["run", _ECHO, "--per-action", "nan"], "--per-action: 'nan' is not a finite amount"),
        (["run", _ECHO, "--isolation", "jail"], "'jail' is not one of 'process', 'shared'"),
        (["run", _ECHO, "--approve", "me"], "'me' is not one of 'ask', 'all', 'none'"),
        (["run", _ECHO, "--run-id", "7"], "--run-id: '7' is not a UUID"),
        (["run", _ECHO, "--session", "x"], "--session: 'x' is no id"),
        (["ps", "--limit", "0"], "--limit"),
        (["ps", "--state", "asleep"], "'asleep' is not one of 'idle'"),
        (["ps", "--user", "me"], "--user: 'me' is not 16 lower-case hex digits"),
        (["ps", "--since", "soon"], "--since: 'soon' is no time"),
        (["ps", "--until", "2026-01-31"], "--until: '2026-01-31' is no time"),
        (["ps", "--after", ONE], "--after: give the cursor"),
        (["tree"], "Missing argument 'ID'"),
        (["budget", "--set", "3"], "--set: whose cap?"),
        (["budget", ONE, "--workspace", "."], "not both"),
        (["budget", ONE, "--set", "a"], "--set: 'a' is not a decimal number"),
        (["budget", "--workspace", "/nowhere"], "--workspace: /nowhere is not a directory"),
        (["approvals", ONE], f"approve or deny {ONE}?"),
        (["approvals", ONE, "maybe"], "'maybe' is not one of 'approve', 'deny'"),
        (["approvals", ONE, "deny", "--scope", "once"], "--scope goes with approve"),
        (["resume"], "give the id of a session, or --all"),
        (["resume", ONE, "--all"], "give the id of a session, or --all"),
        (["export", ONE, "-o", "/nowhere/x.json"], "/nowhere is not a directory"),
        (["import", "/nowhere.json"], "/nowhere.json: there is no such file"),
        (["import", str(AGENTS.parent)], "can't be read: Is a directory"),
    ],
)
def test_a_wrong_call_is_one_line_and_starts_nothing(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("retinue.connect", None, raising=False)
    assert invoke(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("retinue: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_bad_document_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "session.json"
    file.write_text('{"id": "me"}')
    assert invoke(["import", str(file), "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "InvalidValue"


def test_a_wrong_option_with_json_is_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["ps", "--json", "--fast"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "UsageError"


# --- what is drawn -------------------------------------------------------------------------------


def summary(id: str, parent: str | None = None, **given: object) -> SessionSummary:
    values: dict[str, object] = {
        "family_id": ONE,
        "depth": 0,
        "user_id": "0" * 16,
        "label": id,
        "status": "completed",
        "created_at": 0,
        "updated_at": 0,
        **given,
    }
    return SessionSummary(id=id, parent_id=parent, **values)  # type: ignore[arg-type]


def family(children: int, grandchildren: int = 0) -> list[SessionSummary]:
    """A root that spent 1 nano, children 10 each, grandchildren 100 each."""
    found = [summary("root", spent=1)]
    for at in range(children):
        found.append(summary(f"child{at:03}", "root", spent=10))
        found += [
            summary(f"leaf{at:03}-{number:03}", f"child{at:03}", spent=100)
            for number in range(grandchildren)
        ]
    return found


def drawn(renderable: RenderableType, width: int = 200) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(renderable)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_a_tree_shows_own_cost_and_what_the_branch_cost() -> None:
    lines = drawn(tree_view(build_tree("root", family(2, 1)), True, Folding()))
    assert lines == [
        "root  completed  0.000000001 USD  branch 0.000000221 USD  root",
        "├── child000  completed  0.00000001 USD  branch 0.00000011 USD  child000",
        "│   └── leaf000-000  completed  0.0000001 USD  leaf000-000",
        "└── child001  completed  0.00000001 USD  branch 0.00000011 USD  child001",
        "    └── leaf001-000  completed  0.0000001 USD  leaf001-000",
    ]


def test_long_lists_of_siblings_are_folded_with_what_they_cost() -> None:
    lines = drawn(tree_view(build_tree("root", family(125, 2)), True, Folding(siblings=5)))
    assert lines[-1] == "└── … and 120 more with 240 below them, 0.0000252 USD"
    assert sum("child" in line for line in lines) == 5 + 0


def test_a_tree_ends_at_the_depth_asked_for() -> None:
    lines = drawn(tree_view(build_tree("root", family(2, 3)), True, Folding(depth=1)))
    assert lines[2] == "│   └── … 3 more, 0.0000003 USD"
    assert len(lines) == 5


def test_the_tree_as_json_adds_up() -> None:
    document = tree_json(build_tree("root", family(3, 4)), True)

    def total(node: object) -> Decimal:
        one = cast("dict[str, object]", node)
        children = cast("list[object]", one["children"])
        return Decimal(str(one["cost_usd"])) + sum(map(total, children))

    assert total(document) == Decimal(str(cast("dict[str, object]", document)["total_usd"]))


def test_a_narrow_terminal_still_shows_whole_ids() -> None:
    one = summed_up(ONE, [summary(ONE, workspace_path="/some/where", label="x" * 100)], set())
    assert ONE in drawn(sessions_table([one], 80), 80)[1]
    assert "/some/where" in drawn(sessions_table([one], 200), 200)[1]


def test_what_an_agent_says_can_not_draw_on_the_terminal() -> None:
    assert clean("a\x1b[2Jb\rc\nd\u202e") == "a\ufffd[2Jb\ufffdc\nd\ufffd"
    assert one_line("a\x1b\n\n  b") == "a\ufffd b"
    assert one_line("x" * 100, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.05, "0.05 s"), (1, "1 s"), (59.9, "59 s"), (61, "1:01"), (3600 * 2 + 65, "2:01:05")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert lasting(seconds) == text


def test_a_result_is_told_in_a_line() -> None:
    good = Result("s", "completed", cost=5 * 10**8, duration=2_000_000)
    bad = Result("s", "failed", error="ValueError: no")
    assert conclusion(good, 3) == "completed in 2 s with 3 sub-agents, 0.5 USD"
    assert conclusion(bad, 0) == "failed in 0.00 s, 0 USD: ValueError: no"


def test_a_result_is_a_document_with_the_value_that_was_returned() -> None:
    result = Result("s", "completed", output='{"a": [1]}', structured=True, run_id="r")
    assert result_json(result)["output"] == {"a": [1]}
    failed = Result("s", "failed", output="last words", error="no")
    assert result_json(failed)["output"] == "last words"


# --- who is interrupted --------------------------------------------------------------------------


class FakeDirectory:
    """A directory with two families, of which ``working`` are at work, and its parts."""

    def __init__(self, working: Sequence[str]) -> None:
        self._working = list(working)

    async def running(self) -> list[str]:
        return [ONE, OTHER]

    async def working(self) -> list[str]:
        return self._working

    async def holds(self) -> dict[str, Hold]:
        return {}

    async def family(self, id: str) -> list[SessionSummary]:
        return [summary(id, status="running", spent=1), summary("c", id, spent=2)]


class FakeRetinue:
    def __init__(self, directory: FakeDirectory) -> None:
        self.calls = SimpleNamespace(directory=directory, queries=directory, registry=directory)

    async def sessions(self, **asked: object) -> SessionList:
        self.asked = asked
        return SessionList([summary(OTHER, status="running")], "there")


async def test_a_session_that_runs_nowhere_was_interrupted() -> None:
    retinue = cast(Retinue, FakeRetinue(FakeDirectory([OTHER])))
    listed, _ = await list_sessions(retinue, 1)
    assert [(one.summary.id, one.status) for one in listed] == [
        (OTHER, "running"),
        (ONE, "interrupted"),
    ]
    assert [(one.agents, one.total) for one in listed] == [(1, 3), (1, 3)]


@pytest.mark.parametrize(
    ("state", "stored", "shown"),
    [
        ("running", ("running",), [OTHER]),
        ("interrupted", ("running", "initialising"), []),
        ("failed", ("failed",), []),
    ],
)
async def test_a_filter_goes_by_what_is_shown(
    state: str, stored: tuple[str, ...], shown: list[str]
) -> None:
    """And what else is at work is no part of it."""
    retinue = FakeRetinue(FakeDirectory([OTHER]))
    listed, _ = await list_sessions(cast(Retinue, retinue), 1, Filters(state=state))
    assert [one.summary.id for one in listed] == shown
    assert retinue.asked["state"] == stored


async def test_what_follows_a_cursor_is_no_place_for_what_is_at_work() -> None:
    retinue = cast(Retinue, FakeRetinue(FakeDirectory([OTHER])))
    listed, following = await list_sessions(retinue, 1, after="here")
    assert [one.summary.id for one in listed] == [OTHER]
    assert following == "there"


def test_a_finished_session_is_never_called_interrupted() -> None:
    assert summed_up(ONE, [summary(ONE, status="failed")], set()).status == "failed"


# --- progress ------------------------------------------------------------------------------------


def event(kind: str, id: str, **given: object) -> FeedEvent:
    return FeedEvent(kind, id, "root", 0, **given)  # type: ignore[arg-type]


def test_progress_counts_sub_agents_from_events() -> None:
    progress = Progress(["root"])
    for one in (
        event("run_started", "root"),
        event("spawned", "root", count=5),
        event("run_started", "a", label="first"),
        event("run_started", "b"),
        event("run_started", "c"),
        event("spent", "a", cost=7),
        event("run_finished", "b", cost=100),
        event("run_finished", "c", text="ValueError"),
    ):
        progress.apply(one)
    assert progress.counts() == Counts(running=1, finished=1, failed=1, queued=2)
    assert progress.spent == 7
    assert [one.label for one in progress.running(3)] == ["first"]
    assert tally(progress) == (
        "sub-agents: 1 running, 1 finished, 1 failed, 2 queued, 0.000000007 USD"
    )


def test_progress_is_put_right_by_summaries() -> None:
    progress = Progress(["root"])
    progress.apply(event("spawned", "root", count=50))
    progress.reset(
        [
            summary("root", status="running", spawned=4, spent=1),
            summary("a", "root", status="running", spent=2),
            summary("b", "root", status="timed_out", spawned=9),  # it left nine behind
            summary("c", "root", status="completed"),
        ]
    )
    assert progress.counts() == Counts(running=1, finished=1, failed=1, queued=1)
    assert progress.spent == 3


def test_plain_progress_is_a_line_when_anything_has_changed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display, progress = PlainDisplay(), Progress(["root"])
    for _ in range(3):
        display.update(progress)
    progress.apply(event("spent", "root", cost=10**9))
    for _ in range(3):
        display.update(progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.rpartition(",")[0] for line in err.splitlines()] == ["retinue: running, 1 USD"]


# --- asking --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "asked"), [("workspace", 2), ("deny", 2), ("once", 4), (None, 4)]
)
async def test_who_was_waiting_for_the_same_answer_gets_it(
    answer: Answer, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[InboxRequest] = []

    async def ask(request: InboxRequest) -> Answer:
        questions.append(request)
        return answer

    monkeypatch.setattr(approver, "_ask", ask)
    asker = approver.Asker(PlainDisplay())
    push, pull = ExecuteCommand("git", ("push",)), ExecuteCommand("git", ("pull",))
    requests = [
        cast(InboxRequest, SimpleNamespace(action=action, created_at=1))
        for action in (push, push, pull, push)
    ]
    answers = [await asker(request) for request in requests]
    assert answers == [answer] * 4
    assert len(questions) == asked


# --- what is up ----------------------------------------------------------------------------------


def test_only_a_living_daemon_is_running() -> None:
    found = Running(os.getpid(), "127.0.0.1:1", ClusterSettings("redis://nowhere"))
    with hold():
        assert running() is None
        announce(found)
        assert running() == found
        with pytest.raises(ClusterUnavailable, match="another `retinue up` runs"), hold():
            pass
    assert running() is None
    with hold():
        withdraw()
        assert running() is None


def test_down_without_up_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["down"]) == 0
    assert invoke(["down", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"stopped": False, "pid": None}


# --- the doctor ----------------------------------------------------------------------------------


def test_the_doctor_finds_this_machine_well(capsys: pytest.CaptureFixture[str]) -> None:
    code = invoke(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    names = [one["name"] for one in document["checks"]]
    assert {"Python", "Ray", "Redis", "state directory", "memory", "retinue up"} <= set(names)
    assert code == (0 if document["ok"] else 3)
    assert [one for one in document["checks"] if one["name"] in ("Ray", "Redis", "Python")] == [
        one
        for one in document["checks"]
        if one["name"] in ("Ray", "Redis", "Python") and one["verdict"] == "ok"
    ]


def test_the_doctor_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    (home / "key").write_text("secret")
    (home / "key").chmod(0o644)
    monkeypatch.setenv("RETINUE_HOEM", "typo")
    monkeypatch.setenv("RETINUE_KEY", "sesame")
    monkeypatch.setattr(doctor, "find_binary", lambda: "/nowhere/redis-server")
    found = {one.name: one for one in doctor.examine()}
    assert found["state directory"].remedy == f"chmod go-w {home}"
    assert found["cluster key"].remedy == f"chmod 600 {home / 'key'}"
    assert "does not run" in found["Redis"].found
    assert found["RETINUE_HOEM"].verdict == "note"
    assert "sesame" not in str(found)


def test_the_doctor_asks_an_outside_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETINUE_REDIS_URL", "unix:///nowhere/redis.sock")
    found = {one.name: one for one in doctor.examine()}
    assert found["Redis (RETINUE_REDIS_URL)"].verdict == "problem"
    assert "does not answer" in found["Redis (RETINUE_REDIS_URL)"].found


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("Redis server v=6.2.14 sha=00000000:0 malloc=libc bits=64", "6.2.14"),
        ("Valkey server v=8.0.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", "8.0.1"),
        ("something else v=now", None),
        ("", None),
    ],
)
def test_the_version_of_a_server_is_read(said: str, version: str | None) -> None:
    assert doctor.server_version(said) == version


# --- a real cluster ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A cluster that `up` brings up and `down` takes down, leaving nothing behind."""
    home = tmp_path_factory.mktemp("home")
    shell = Shell(home, tmp_path_factory.mktemp("workspace"))
    up = shell.retinue("up", "--json")
    assert up.code == 0, up.err
    yield shell
    daemon = psutil.Process(cast(int, up.document["pid"]))
    processes = [daemon, *daemon.children(recursive=True)]
    down = shell.retinue("down", "--json")
    assert down.document == {"stopped": True, "pid": daemon.pid}
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert alive == []
    assert not (home / "up.json").exists()
    assert holder(home) is None


@pytest.mark.cluster
def test_a_second_up_says_that_it_is_up(shell: Shell) -> None:
    again = shell.retinue("up", "--json")
    assert again.code == 0
    assert again.document["started"] is False


@pytest.mark.cluster
def test_run_tells_the_session_then_prints_the_output(shell: Shell) -> None:
    done = shell.run("echo", "hello")
    assert done.code == 0
    assert done.out == "hello\n"
    assert len(done.session) == 36
    assert "completed in " in done.err


@pytest.mark.cluster
def test_a_failed_run_says_why(shell: Shell) -> None:
    done = shell.run("fails")
    assert done.code == 1
    assert done.out == ""
    assert "ValueError: on purpose" in done.err
    assert "Traceback" not in done.err


@pytest.mark.cluster
def test_the_same_run_id_in_the_same_session_is_one_run(shell: Shell) -> None:
    options = ["--session", OTHER, "--run-id", ONE, "--json"]
    first = shell.run("echo", "once", *options)
    same = ["--session", OTHER, "--run-id", ONE, "--json"]
    again = shell.retinue("run", f"{AGENTS}:echo", "--prompt", "twice", *same)
    assert first.code == again.code == 0
    assert first.document == again.document
    assert again.document["output"] == "once"
    refused = shell.run("echo", "", "--session", OTHER, "--budget", "3")
    assert refused.code == 2
    assert "keeps what it was made with" in refused.err


@pytest.mark.cluster
def test_ps_tree_and_budget_tell_the_same_story(shell: Shell) -> None:
    done = shell.run("hammering_family", "3", "--budget", "1", "--json")
    assert done.code == 0, done.err
    id, cost = done.session, Decimal(str(done.document["cost_usd"]))
    assert cost > 0

    listed = cast("list[dict[str, object]]", shell.retinue("ps", "--json").document["sessions"])
    (row,) = [one for one in listed if one["id"] == id]
    assert (row["status"], row["agents"]) == ("completed", 5)
    assert Decimal(str(row["total_usd"])) == cost

    tree = shell.retinue("tree", id[-8:], "--json").document
    children = cast("list[dict[str, object]]", tree["children"])
    assert len(children) == 5
    assert sum(Decimal(str(one["total_usd"])) for one in children) == cost
    assert f"branch {cost.normalize()} USD" in shell.retinue("tree", id).out.splitlines()[0]

    (budget,) = shell.retinue("budget", id, "--json").budgets
    assert Decimal(str(budget["spent_usd"])) == cost
    assert budget["max_usd"] == "1"


@pytest.mark.cluster
def test_ps_shows_what_is_asked_for_a_page_at_a_time(shell: Shell) -> None:
    good, bad = shell.run("echo").session, shell.run("fails").session

    def listed(*options: str) -> tuple[list[str], str | None]:
        document = shell.retinue("ps", "--json", *options).document
        rows = cast("list[dict[str, str]]", document["sessions"])
        return [one["id"] for one in rows], cast("str | None", document["next"])

    here = ["--workspace", str(shell.workspace), "--since", "1h", "--user", "0" * 16]
    first, cursor = listed(*here, "--limit", "1")
    assert cursor
    second, _ = listed(*here, "--limit", "1", "--after", cursor)
    assert (first, second) == ([bad], [good])
    failed, _ = listed(*here, "--state", "failed")
    assert bad in failed
    assert good not in failed
    assert listed(*here, "--until", "1h") == ([], None)
    assert listed("--user", "f" * 16) == ([], None)
    assert shell.retinue("ps", "--workspace", "/nowhere").code == 2


@pytest.mark.cluster
def test_an_id_that_fits_several_or_none_is_refused(shell: Shell) -> None:
    one, another = shell.run("echo").session, shell.run("echo").session
    alike = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, another, strict=True))
    )
    many = shell.retinue("show", one[:alike])
    assert many.code == 2
    assert "fits " in many.err
    unknown = shell.retinue("tree", "01900000-0000-7000-8000-0000000000ff", "--json")
    assert unknown.code == 2
    assert cast("dict[str, object]", unknown.document["error"])["kind"] == "NotFound"


@pytest.mark.cluster
def test_caps_are_changed_while_things_run(shell: Shell) -> None:
    workspace = ["budget", "--workspace", str(shell.workspace)]
    capped = shell.retinue(*workspace, "--set", "7.5", "--json")
    (one,) = capped.budgets
    assert one["max_usd"] == "7.5"
    shell.retinue(*workspace, "--set", "none")
    every = shell.retinue("budget", "--json").budgets
    assert {"name": str(shell.workspace), "max_usd": None}.items() <= every[0].items()


@pytest.mark.cluster
def test_a_workspace_is_held_until_it_is_released(shell: Shell) -> None:
    where = ["--workspace", str(shell.workspace)]
    done = shell.run("echo", "before")
    with shell.started("run", *shell.arguments("sleeps", ""), "--by", "ann") as sleeper:
        session = shell.until_at_work()
        held = shell.retinue("hold", *where, "--why", "it spends", "--by", "ada", "--json")
        assert held.code == 0, held.err
        hold = cast("dict[str, str]", held.document["held"])
        assert (hold["by"], hold["why"], held.document["cancelled"]) == ("ada", "it spends", 0)

        refused = shell.run("echo", "hello")
        assert refused.code == 3
        assert "on hold since" in refused.err
        assert "by ada: it spends. Nothing begins there until `retinue release" in refused.err
        ps = shell.retinue("ps", "--state", "held", "--json").document
        assert ps["held"] == [{"workspace": str(shell.workspace), **hold}]
        (one,) = cast("list[dict[str, object]]", ps["sessions"])
        assert (one["id"], one["status"]) == (session, "held")
        assert "by ada: it spends" in shell.retinue("ps").err
        (budget,) = shell.retinue("budget", *where, "--json").budgets
        assert budget["held"] == hold
        doctor = shell.retinue("doctor")
        assert f"workspace {shell.workspace}" in doctor.out
        assert "by ada: it spends" in doctor.out

        again = shell.retinue("hold", *where, "--why", "enough", "--cancel", "--by", "ada")
        assert "1 session cancelled" in again.err
        assert shell.finish(sleeper).code == 1
    released = shell.retinue("release", *where, "--by", "ben")
    assert "it was on hold since" in released.err
    assert "was not on hold" in shell.retinue("release", *where).err
    assert shell.run("echo", "hello").out == "hello\n"
    shell.retinue("end", done.session, "--by", "cleo")
    log = shell.retinue("audit", "show", *where, "--last", "200").out
    for name in ("ada", "ben", "cleo"):
        assert f"by {name}: " in log


@pytest.mark.cluster
def test_an_approval_given_later_lets_the_retried_action_pass(shell: Shell) -> None:
    done = shell.run("runs_command", "git push")
    assert done.out == "deferred\n"
    assert "1 action waits for a decision" in done.err
    listed = cast(
        "list[dict[str, str]]", shell.retinue("approvals", "--json").document["approvals"]
    )
    (request,) = [one for one in listed if one["session"] == done.session]

    approved = shell.retinue(
        "approvals", request["id"][:8], "approve", "--scope", "session", "--json"
    )
    assert approved.document == {"id": request["id"], "approved": True, "scope": "session"}
    same = [f"{AGENTS}:runs_command", "--prompt", "git push", "--session", done.session]
    assert shell.retinue("run", *same).out == "allowed\n"


@pytest.mark.cluster
def test_everything_may_be_approved_at_once(shell: Shell) -> None:
    assert shell.run("runs_command", "make all", "--approve", "all").out == "allowed\n"


@pytest.mark.cluster
def test_a_session_goes_out_and_comes_in_as_a_document(shell: Shell, tmp_path: Path) -> None:
    done, file = shell.run("echo", "kept"), tmp_path / "session.json"
    assert shell.retinue("export", done.session, "-o", str(file)).code == 0
    document = json.loads(file.read_text())

    twice = shell.retinue("import", str(file))
    assert twice.code == 2
    assert "is here already" in twice.err

    document["id"] = ONE
    document["messages"].append({"role": "nobody"})
    file.write_text(json.dumps(document))
    strict = shell.retinue("import", str(file))
    assert strict.code == 2
    assert "messages[2]" in strict.err
    lax = shell.retinue(
        "import", str(file), "--skip-bad-messages", "--agent", f"{AGENTS}:echo", "--json"
    )
    assert lax.document["session"] == ONE
    assert [one["index"] for one in cast("list[dict[str, object]]", lax.document["skipped"])] == [2]
    again = shell.retinue("run", f"{AGENTS}:echo", "--prompt", "more", "--session", ONE)
    assert again.out == "more\n"


@pytest.mark.cluster
def test_who_leaves_a_run_is_told_how_to_come_back(shell: Shell) -> None:
    with shell.started("run", *shell.arguments("sleeps", "")) as watching:
        id = _first_line(watching).removeprefix("retinue: session ")
        asyncio.run(until(lambda: _status(shell, id) == "running", 60))
        watching.send_signal(signal.SIGTERM)
        left = shell.finish(watching)
    assert left.code == 130
    assert f"`retinue resume {id}`" in left.err
    assert _status(shell, id) == "running"

    with shell.started("resume", id, "--json", "--approve", "none") as back:
        assert _first_line(back) == f"retinue: session {id}"
        cancelled = shell.retinue("cancel", id, "--json")
        assert cancelled.document == {"session": id, "status": "cancelled"}
        result = shell.finish(back)
    assert result.code == 1
    (came_to,) = cast("list[dict[str, object]]", result.document["results"])
    assert came_to["status"] == "cancelled"


@pytest.mark.cluster
def test_an_ended_session_takes_no_more_runs(shell: Shell) -> None:
    done = shell.run("echo", "first")
    assert shell.retinue("end", done.session).code == 0
    refused = shell.retinue("run", f"{AGENTS}:echo", "--session", done.session)
    assert refused.code == 2
    assert "ended" in refused.err


@pytest.mark.cluster
def test_the_doctor_sees_the_running_cluster(shell: Shell) -> None:
    found = shell.retinue("doctor", "--json")
    checks = cast("list[dict[str, str]]", found.document["checks"])
    verdicts = {one["name"]: one["verdict"] for one in checks}
    assert verdicts["retinue up"] == verdicts["Redis (embedded, running)"] == "ok"
    assert "state directory in use" not in verdicts


def _first_line(process: Command) -> str:
    return process.stderr.readline().strip()


def _status(shell: Shell, id: str) -> object:
    return shell.retinue("tree", id, "--json").document.get("status")
