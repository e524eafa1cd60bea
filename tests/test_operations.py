"""The runbook, the alert rules and the dashboard: what they name exists, and all metrics are there.

PromQL is not parsed here: names, labels and parentheses are looked at.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

import pytest
import typer.main
import yaml

from docs import sizing
from retinue.actors.domain.permissions.approvals.machine import DEFERRED_US
from retinue.actors.domain.permissions.approvals.state import RETENTION_US
from retinue.actors.domain.permissions.capabilities.token import SKEW_US
from retinue.actors.domain.permissions.decision import Decision
from retinue.actors.domain.session.events import KEPT_OPERATIONS
from retinue.actors.domain.session.result import Status
from retinue.actors.domain.session.settings import Limits
from retinue.actors.durable.entity import _COMPACT_AFTER_ROWS
from retinue.actors.durable.singleton import UPKEEP_S
from retinue.actors.telemetry import metrics
from retinue.cluster.cli.app import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
RUNBOOK = (DOCS / "operations.md").read_text()
PROSE = " ".join(re.sub(r"^```.*?^```", "", RUNBOOK, flags=re.DOTALL | re.MULTILINE).split())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DOCS / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((DOCS / "grafana-dashboard.json").read_text())

HOUR_US = 3_600_000_000

COMMANDS_TO_COME: frozenset[str] = frozenset()
"""Commands that the runbook names and another branch brings: to be emptied with the merge."""

LABELS = {
    **{f"ray_{one.name}_total": one.label for one in metrics.COUNTERS},
    **{f"ray_{one.name}": one.label for one in metrics.GAUGES},
    **{f"ray_{one.name}_bucket": "le" for one in metrics.HISTOGRAMS},
    **{f"ray_{one.name}_{end}": "" for one in metrics.HISTOGRAMS for end in ("sum", "count")},
}
"""Our metrics as Prometheus sees them (`retinue.cluster.ray.metrics`), each with its label."""

OTHERS = {
    "redis_up": "",
    "redis_memory_used_bytes": "",
    "redis_memory_max_bytes": "",
    "redis_aof_last_write_status": "",
    "ray_node_mem_used": "",
    "ray_node_mem_total": "",
    "kube_cronjob_status_last_successful_time": "cronjob",
}
"""Those of the Redis exporter, of Ray and of kube-state-metrics."""

VALUES = {
    "status": frozenset(get_args(Status)) - {"initialising", "running"},
    "answer": frozenset(get_args(get_type_hints(Decision)["kind"])),
    "cronjob": frozenset({"session-backup"}),
}
WORDS = frozenset(
    {"and", "by", "increase", "max", "rate", "sum", "time", "unless"}
    | {"histogram_quantile", "label_values", "predict_linear"}
)


def panels() -> list[dict[str, Any]]:
    return [one for one in DASHBOARD["panels"] if one["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """All PromQL, each with where it stands."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


EXPRESSIONS = list(expressions())
each_expression = pytest.mark.parametrize(
    "promql", [promql for _, promql in EXPRESSIONS], ids=[where for where, _ in EXPRESSIONS]
)


def names(promql: str) -> set[str]:
    """The words outside of strings, durations and variables."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', " ", promql)
    return set(re.findall(r"(?<![\w.$])[a-zA-Z_]\w*", bare))


def anchors() -> set[str]:
    """Of the runbook's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", RUNBOOK, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


def spans() -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", PROSE)


def commands() -> list[str]:
    """All commands of ours that the runbook and the alerts tell to give."""
    shown = re.findall(r"^\$ (retinue [^#\n]*)", RUNBOOK, re.MULTILINE)
    told = [one for one in spans() if one.startswith("retinue ")]
    return sorted({one.strip() for one in (*shown, *told)})


# --- PromQL ------------------------------------------------------------------------------


@each_expression
def test_every_name_is_a_metric_of_ours_or_of_those_we_sit_on(promql: str) -> None:
    labels = {*LABELS.values(), *OTHERS.values()}

    assert names(promql) - WORDS - labels <= {*LABELS, *OTHERS}
    assert names(promql) & {*LABELS, *OTHERS}


@each_expression
def test_labels_are_those_of_the_metric_and_values_can_be(promql: str) -> None:
    for metric, label, value in re.findall(r'(\w+)\{(\w+)=~?"([^"]*)"\}', promql):
        assert label == {**LABELS, **OTHERS}[metric]
        if not value.startswith("$"):
            assert set(value.split("|")) <= VALUES[label]
    for label in re.findall(r"by \((\w+)\)", promql):
        assert label in {LABELS.get(name) for name in names(promql)}


@each_expression
def test_counters_and_buckets_are_read_as_rates(promql: str) -> None:
    for name in names(promql) & set(LABELS):
        if name.endswith(("_total", "_bucket", "_sum", "_count")):
            assert promql.count(name) == len(re.findall(rf"(?:rate|increase)\({name}\b", promql))
    for inner in re.findall(r"histogram_quantile\([\d.]+, (.*)", promql):
        assert re.match(r"sum by \(le\) \(rate\(\w+_bucket\[", inner)


@each_expression
def test_parentheses_are_balanced(promql: str) -> None:
    depth = 0
    for one in re.sub(r'"[^"]*"', "", promql):
        depth += (one in "([{") - (one in ")]}")
        assert depth >= 0
    assert depth == 0


@pytest.mark.parametrize(
    "wrong",
    [
        "sum(ray_retinue_live)",
        "rate(ray_retinue_activations[5m])",
        "ray_retinue_fenced_total_total",
    ],
)
def test_a_wrong_name_is_found(wrong: str) -> None:
    assert names(wrong) - WORDS - set(LABELS) - set(OTHERS)


# --- the alerts and the dashboard ---------------------------------------------------------


def test_every_alert_says_what_to_do_and_has_its_place_in_the_runbook() -> None:
    for rule in RULES:
        notes = rule["annotations"]
        file, _, anchor = notes["runbook_url"].partition("#")
        assert notes["summary"]
        assert notes["action"]
        assert file == "operations.md"
        assert anchor == rule["alert"].lower()
        assert anchor in anchors()
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_runbook_has_no_alert_that_is_not_there() -> None:
    told = re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)

    assert told == [rule["alert"] for rule in RULES]


def test_the_dashboard_asks_the_data_source_that_was_chosen() -> None:
    (variable,) = (one for one in DASHBOARD["templating"]["list"] if one["name"] == "datasource")
    asked = [one["datasource"] for one in panels()]
    asked += [target["datasource"] for one in panels() for target in one["targets"]]

    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    assert all(one == {"type": "prometheus", "uid": "${datasource}"} for one in asked)


def test_the_dashboard_has_rows_and_no_id_twice() -> None:
    titles = [one["title"] for one in DASHBOARD["panels"] if one["type"] == "row"]
    ids = [one["id"] for one in DASHBOARD["panels"]]

    assert titles == ["Sessions", "Authorisation", "Commits", "Budget", "Pool"]
    assert len(ids) == len(set(ids))


def test_every_metric_is_exported() -> None:
    kinds = metrics.Counter | metrics.Gauge | metrics.Histogram
    made = {name for name, one in vars(metrics).items() if isinstance(one, kinds)}
    exported = [*metrics.COUNTERS, *metrics.GAUGES, *metrics.HISTOGRAMS]
    assert [name for name in made if getattr(metrics, name) not in exported] == []


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(promql for _, promql in EXPRESSIONS)
    every = (*metrics.COUNTERS, *metrics.GAUGES, *metrics.HISTOGRAMS)

    assert [one.name for one in every if f"ray_{one.name}" not in shown] == []


# --- the runbook --------------------------------------------------------------------------


def test_every_metric_is_explained_once() -> None:
    explained = re.findall(r"^\| `(ray_\w+)` \|", RUNBOOK, re.MULTILINE)
    exported = {
        *(name for name, label in LABELS.items() if not re.search("_(bucket|sum|count)$", name)),
        *(f"ray_{one.name}" for one in metrics.HISTOGRAMS),
    }

    assert sorted(explained) == sorted(exported)
    assert set(re.findall(r"ray_retinue_\w+", RUNBOOK)) <= exported


def test_labels_and_their_values_are_explained() -> None:
    for one in (*metrics.COUNTERS, *metrics.GAUGES):
        (line,) = (row for row in RUNBOOK.splitlines() if row.startswith(f"| `ray_{one.name}"))
        for word in filter(None, (one.label, *VALUES.get(one.label, ()))):
            assert f"`{word}`" in line or word == "cancelled"


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one(command: str) -> None:
    group = cast(Any, typer.main.get_command(app))
    _, *words = shlex.split(command)
    while words and words[0] in getattr(group, "commands", {}):
        group = group.commands[words.pop(0)]
    if words and words[0] in COMMANDS_TO_COME and hasattr(group, "commands"):
        return

    assert not hasattr(group, "commands"), f"{command}: no such command"
    group.make_context("retinue", words)  # raises for an option, a choice or a number of arguments


def test_commands_to_come_are_told_of_and_have_not_come() -> None:
    known = set(cast(Any, typer.main.get_command(app)).commands)

    assert all(
        any(command.startswith(f"retinue {one}") for command in commands())
        for one in COMMANDS_TO_COME
    )
    assert not COMMANDS_TO_COME & known, "it has come: take it out of COMMANDS_TO_COME"


def test_every_target_module_path_and_variable_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    sources = "".join(
        file.read_text()
        for folder in ("actors", "cluster")
        for file in (ROOT / folder).rglob("*.py")
    )
    variables = set(re.findall(r"\bRETINUE_[A-Z_]+", RUNBOOK + (DOCS / "alerts.yaml").read_text()))

    assert set(re.findall(r"`make ([a-z-]+)", RUNBOOK)) <= targets
    for module in re.findall(r"python -m ([\w.]+)", RUNBOOK):
        assert importlib.util.find_spec(module), module
    for path in re.findall(r"`((?:k8s|docs|tests|benchmarks|actors|cluster)/[\w./-]+)`", RUNBOOK):
        assert (ROOT / path).exists(), path
    assert {one for one in variables if one not in sources} == set()


def test_what_is_trimmed_is_what_the_code_trims() -> None:
    growth = " ".join(RUNBOOK.partition("## What grows\n")[2].split())
    assert f"after {_COMPACT_AFTER_ROWS} rows" in growth
    assert f"the last {Limits().max_results} of a session" in growth
    assert f"operations: the last {KEPT_OPERATIONS}." in growth
    assert f"{DEFERRED_US // HOUR_US} hours after its agent stopped waiting" in growth
    assert f"is forgotten {RETENTION_US // HOUR_US} hours later" in growth
    assert f"capability tokens {SKEW_US // 1_000_000} s after" in growth
    assert UPKEEP_S == 60
    assert "once a minute" in growth


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", RUNBOOK):
        file, _, anchor = target.partition("#")
        assert not file or (DOCS / file).exists(), target
        assert not anchor or anchor in anchors(), target


@pytest.mark.skipif(
    not (sizing.RESULTS / "latest.json").exists(), reason="make bench has left no results here"
)
def test_the_tables_are_those_of_the_last_runs() -> None:
    now = sizing.written(RUNBOOK, sizing.measured())

    assert now == RUNBOOK, "python -m docs.sizing --write puts the figures of the last runs there"


def test_a_figure_that_could_not_be_measured_is_said_so() -> None:
    bench = {"run": {"quick": False, "date": "today"}, "absolute": {}, "live_session_kib": None}
    machine = {"processors": 2, "processor": "chip", "memory_gib": 8.0}
    found = sizing.Measured({**bench, "machine": machine}, {"date": "today"})

    for table in sizing.TABLES.values():
        assert "not measured" in table(found)
