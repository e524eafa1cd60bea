"""`retinue doctor --cluster`: what is said of the nodes, and that they are asked."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from msgspec import structs
from rich.console import Console

from retinue import Retinue, connect
from retinue.actors.domain.errors import ClusterUnavailable, InvalidValue, StoreUnavailable
from retinue.actors.durable.journal import Append, Key
from retinue.actors.durable.machines import SESSION
from retinue.actors.stores.table import MACHINES
from retinue.cluster.cli.app import invoke
from retinue.cluster.cli.local import _nodes
from retinue.cluster.doctor.collect import collect, examine
from retinue.cluster.doctor.node_report import (
    NodeReport,
    RedisView,
    Software,
    node_report,
    software,
)
from retinue.cluster.doctor.nodes import Cluster, Examined, as_json, judge
from retinue.cluster.ray import actors as remote
from retinue.cluster.ray import bootstrap
from retinue.cluster.redis.connection import Connection
from retinue.cluster.redis.journal import RedisJournal
from retinue.cluster.redis.stored_versions import stored_versions
from retinue.cluster.settings import ClusterSettings
from retinue.cluster.status import Node
from tests.golden.files import fill_redis
from tests.kit import cluster_agents as agents

GIB = 1 << 30
UNREACHABLE = "redis://user:secret@127.0.0.1:1/0"
HERE = Software("0.1.0", "2.60.0", "3.11.7", "3.1.2")
WELL = NodeReport(HERE, RedisView(0.4, 3.0), 4 * GIB, "issuer")


def node(report: NodeReport | None = WELL, id: str = "one", error: str = "") -> Examined:
    return Examined(id, f"10.0.0.{len(id)}", report, error, hosts=1, agents=2)


def said(report: NodeReport | None, error: str = "") -> list[tuple[str, str, str]]:
    """What is said of a node among others that are well."""
    others = [node(id="two"), node(id="three")]
    findings = judge(Cluster(HERE, [*others, node(report, "odd", error)]))
    assert findings.nodes["two"] == findings.nodes["three"] == findings.cluster == []
    return [(one.name, one.verdict, f"{one.found} → {one.remedy}") for one in findings.nodes["odd"]]


# What is said


def test_of_nodes_that_are_well_nothing_is_said() -> None:
    assert said(WELL) == []
    assert judge(Cluster(HERE, [node()])).fine


@pytest.mark.parametrize(
    ("name", "version", "what", "verdict", "says"),
    [
        ("ray", "2.61.0", "Ray", "problem", "2.61.0, and 2.60.0 at the client"),
        ("python", "3.12.7", "Python", "problem", "it can't open its agents"),
        ("python", "3.11.9", "Python", "note", "3.11.9, and 3.11.7 at the client"),
        ("cloudpickle", "4.0.0", "cloudpickle", "problem", "agents don't open"),
        ("retinue", "0.2.0", "Retinue", "note", "finish the upgrade"),
        ("retinue", "", "Retinue", "note", "not installed, and 0.1.0 at the client"),
    ],
)
def test_another_version_is_named_with_the_clients(
    name: str, version: str, what: str, verdict: str, says: str
) -> None:
    ((found, judged, text),) = said(
        structs.replace(WELL, software=structs.replace(HERE, **{name: version}))
    )
    assert (found, judged) == (what, verdict)
    assert says in text


@pytest.mark.parametrize(
    ("view", "what", "verdict", "says"),
    [
        (RedisView(error="Redis at redis://r:6379 does not"), "Redis", "problem", "open the way"),
        (RedisView(0.4, 1500.0), "clock", "note", "1.5 s ahead of Redis's"),
        (RedisView(0.4, -90_000.0), "clock", "note", "90.0 s behind Redis's"),
        (RedisView(80.0, 0.0), "Redis", "note", "80 ms for a round trip"),
    ],
)
def test_what_is_wrong_between_a_node_and_redis_is_said(
    view: RedisView, what: str, verdict: str, says: str
) -> None:
    ((found, judged, text),) = said(structs.replace(WELL, redis=view))
    assert (found, judged) == (what, verdict)
    assert says in text


def test_a_clock_that_is_off_by_less_than_a_second_is_well() -> None:
    assert said(structs.replace(WELL, redis=RedisView(49.0, -999.0))) == []


def test_little_memory_is_said_and_unknown_memory_is_not() -> None:
    ((what, verdict, text),) = said(structs.replace(WELL, memory_free=GIB // 2))
    assert (what, verdict) == ("memory", "note")
    assert "0.5 GiB free" in text
    assert said(structs.replace(WELL, memory_free=None)) == []


def test_another_key_and_no_key_are_problems() -> None:
    ((what, verdict, text),) = said(structs.replace(WELL, issuer="another"))
    assert (what, verdict) == ("cluster key", "problem")
    assert "another one than elsewhere" in text
    ((what, verdict, text),) = said(structs.replace(WELL, issuer="", key_error="no cluster key"))
    assert (what, verdict) == ("cluster key", "problem")
    assert "no cluster key" in text


def test_a_node_that_says_nothing_is_a_problem() -> None:
    ((what, verdict, text),) = said(None, "no answer within 30 s")
    assert (what, verdict) == ("node", "problem")
    assert "can't be examined: no answer within 30 s" in text


def test_what_a_newer_version_stored_is_a_problem() -> None:
    stored = {"session": {SESSION.version: 3, SESSION.version + 1: 2}, "budget": {1: 1}}
    findings = judge(Cluster(HERE, [node()], stored))
    ((name, verdict, found, remedy),) = [structs.astuple(one) for one in findings.cluster]
    assert (name, verdict) == ("stored", "problem")
    assert found == f"session: 2 in form {SESSION.version + 1}, and we read up to {SESSION.version}"
    assert remedy.startswith("upgrade")
    assert not findings.fine


def test_what_could_not_be_asked_is_a_problem() -> None:
    findings = judge(Cluster(HERE, [], {}, "no node reaches Redis", "no directory"))
    assert [(one.name, one.found) for one in findings.cluster] == [
        ("stored", "no node reaches Redis"),
        ("pool", "no directory"),
    ]


def test_the_table_has_a_row_for_each_node_and_the_document_all_of_it() -> None:
    lost = node(None, "lost", "no answer")
    cluster = Cluster(HERE, [node(), lost], {"session": {1: 3}})
    console = Console(width=120)
    with console.capture() as captured:
        console.print(_nodes(cluster))
    head, first, second = captured.get().splitlines()
    assert head.split()[:4] == ["node", "Retinue", "Ray", "Python"]
    assert first.split() == ["10.0.0.3", "0.1.0", "2.60.0", "3.11.7", "0.4", "+3", "4.0", "1", "2"]
    assert second.split() == ["10.0.0.4", *6 * "?", "1", "2"]
    document = json.loads(json.dumps(as_json(cluster, judge(cluster))))
    assert document["ok"] is False
    assert document["stored"] == {"session": {"1": 3}}
    assert document["nodes"][0]["report"]["redis"]["round_trip_ms"] == 0.4
    assert document["nodes"][1]["checks"][0]["verdict"] == "problem"


# What a node reports


@pytest_asyncio.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    connection = Connection(redis_url, f"doctor-{uuid4()}")
    yield connection
    await connection.close()


def settings(redis_url: str, tmp_path: Path) -> ClusterSettings:
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    return ClusterSettings(redis_url, key_file=str(key))


def test_a_node_tells_what_it_sees(redis_url: str, tmp_path: Path) -> None:
    report = node_report(settings(redis_url, tmp_path))
    assert report.software == software()
    assert report.redis.error == ""
    assert 0 < report.redis.round_trip_ms < 1000
    assert abs(report.redis.skew_ms) < 1000
    assert len(report.issuer) == 64
    assert report.key_error == ""


def test_a_node_without_redis_or_key_says_why_and_no_secret(tmp_path: Path) -> None:
    report = node_report(ClusterSettings(UNREACHABLE, key_file=str(tmp_path / "nothing")))
    assert report.redis.error.startswith("Redis at redis://127.0.0.1:1/0 does not answer")
    assert "secret" not in report.redis.error
    assert "nothing can't be read" in report.key_error


async def test_stored_versions_are_those_of_the_newest_row_or_the_snapshot(
    connection: Connection,
) -> None:
    await fill_redis(connection)
    newest = {one.kind: {one.version: 1} for one in MACHINES.values()}
    assert await stored_versions(connection) == newest
    journal = RedisJournal(connection)
    newer = b"m" * 20 + bytes([0x93, SESSION.version + 1])
    for id, row, snapshot in (("b", newer, b""), ("c", b"", newer)):
        key = Key("a workspace", "session", id)
        await journal.append([Append(key, 1, 0, row or b"row", create="x")])
        if snapshot:
            await journal.snapshot(key, 1, 1, bytes(8) + snapshot)
    assert (await stored_versions(connection))["session"] == {
        SESSION.version: 1,
        SESSION.version + 1: 2,
    }
    few = await stored_versions(connection, 2)
    assert sum(count for counts in few.values() for count in counts.values()) == 2


async def test_without_a_cluster_there_is_nothing_to_examine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RETINUE_HOME", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ClusterUnavailable, match="`retinue up`, or set RAY_ADDRESS"):
        await examine()


def test_an_address_wants_a_redis(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.delenv("RETINUE_REDIS_URL", raising=False)
    assert invoke(["doctor", "--cluster", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == InvalidValue.__name__
    assert "give the cluster's Redis with RAY_ADDRESS (or RETINUE_REDIS_URL)" in error["message"]


# The whole


@pytest.mark.cluster
@pytest.mark.asyncio(loop_scope="session")
async def test_a_cluster_that_is_well_is_found_well(retinue: Retinue) -> None:
    session = await retinue.create_session(agents.echo, isolation="shared")
    assert (await session.run("hello")).success
    found = await collect(retinue.calls)
    (one,) = found.nodes
    assert one.report
    assert one.report.software == found.client
    assert one.report.redis.error == ""
    assert one.hosts >= 1
    assert one.agents >= 1
    assert found.stored["session"][SESSION.version] >= 1
    findings = judge(found)
    assert [
        one for one in [*findings.cluster, *findings.nodes[one.id]] if one.name != "memory"
    ] == []


@pytest.mark.cluster
@pytest.mark.asyncio(loop_scope="session")
async def test_redis_that_the_nodes_can_not_reach_is_named_with_the_node(retinue: Retinue) -> None:
    lost = connect(bootstrap.gcs_address(), redis_url=UNREACHABLE, namespace="lost")
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await lost.__aenter__()
    says = r"^node [\d.]+: Redis at redis://127\.0\.0\.1:1/0 does not answer: start it, or check"
    assert re.match(says, caught.value.message)
    assert "secret" not in str(caught.value.__dict__)
    assert time.monotonic() - began < 15
    assert (await retinue.status()).hosts  # who was connected before still is


@pytest.mark.cluster
@pytest.mark.asyncio(loop_scope="session")
async def test_nodes_without_the_key_say_so_to_who_joins(
    retinue: Retinue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RETINUE_HOME", str(tmp_path))  # without a key file of its own
    url = retinue.calls.settings.redis_url
    keyless = connect(bootstrap.gcs_address(), redis_url=url, namespace="keyless")
    with pytest.raises(ClusterUnavailable, match=r"directory: it can't start .*no cluster key"):
        await keyless.__aenter__()


@pytest.mark.cluster
@pytest.mark.asyncio(loop_scope="session")
async def test_a_client_of_another_process_joins_by_rays_address_and_token(
    retinue: Retinue,
) -> None:
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"RAY_ADDRESS": bootstrap.gcs_address(), "RAY_AUTH_TOKEN": token}
    environment["RETINUE_REDIS_URL"] = retinue.calls.settings.redis_url
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "retinue.cluster.cli.app", "doctor", "--cluster", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    document = json.loads(out)
    assert document["ok"]
    assert document["nodes"][0]["hosts"] >= 1


@pytest.mark.cluster
@pytest.mark.asyncio(loop_scope="session")
async def test_a_node_that_can_not_be_asked_says_so(retinue: Retinue) -> None:
    gone = Node("ab" * 28, "10.9.9.9")
    ((node, answer),) = remote.on_nodes(software, (), [gone], 10.0)
    assert node == gone
    assert isinstance(answer, str)
