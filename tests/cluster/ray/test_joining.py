"""What a client outside the cluster hears when it can't join: the cause, and what to do."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import ray

from retinue.actors.domain.errors import ClusterUnavailable, InvalidValue
from retinue.cluster.ray.joining import (
    ADDRESS,
    address_or_none,
    require_reachable,
    require_same_versions,
)
from tests.kit.ray_head import TOKEN, RayHead

ROOT = Path(__file__).parents[3]

# Joins again and again, in one process since Ray's import takes a second: what it is told, it says.
CLIENT = """
import asyncio, json, os, sys, time
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient
from retinue.cluster.ray import head; from retinue import connect
from retinue.actors.domain.errors import RetinueError

head._ANSWERS_S = 3
head._NODE_STARTS_S = 1

async def join(address):
    async with connect(address, redis_url="redis://user:secret@127.0.0.1:1/0"):
        raise SystemExit("it joined")

for case in json.load(sys.stdin):
    for name in [name for name in os.environ if name.startswith("RAY_AUTH")]:
        del os.environ[name]
    os.environ.update(case["environment"])
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    if case["metadata"]:
        GcsClient(address=case["address"]).internal_kv_put(
            b"CLUSTER_METADATA", json.dumps(case["metadata"]).encode(), True, b"cluster")
    began = time.monotonic()
    try:
        asyncio.run(join(case["address"]))
    except RetinueError as error:
        told = [case["name"], type(error).__name__, str(error), time.monotonic() - began]
        print(json.dumps(told))
"""
GIVEN = {"RAY_AUTH_TOKEN": TOKEN}
SAME = {"ray_version": ray.__version__, "python_version": sys.version.split()[0]}


def case(
    name: str, address: str, environment: Mapping[str, str], metadata: object = None
) -> dict[str, object]:
    return {"name": name, "address": address, "environment": environment, "metadata": metadata}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, float]]:
    """What a client was told in each case: the error's class, its text, and after how long."""
    home = tmp_path_factory.mktemp("home")
    token = home / "token"
    token.write_text("b" * 64)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(home), "RETINUE_HOME": str(home / "state"), "PYTHONPATH": str(ROOT)}
    directory = tmp_path_factory.mktemp("ray")
    with RayHead(directory) as head, socket.socket() as closed, socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        closed.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
        cases = [
            case("nobody there", nobody, GIVEN),
            case("no token", head.address, {}),
            case("mode, no token", head.address, {"RAY_AUTH_MODE": "token"}),
            case("wrong token", head.address, {"RAY_AUTH_TOKEN": "b" * 64}),
            case("wrong token file", head.address, {"RAY_AUTH_TOKEN_PATH": str(token)}),
            case("no such file", head.address, {"RAY_AUTH_TOKEN_PATH": str(home / "nothing")}),
            case(
                "other Ray",
                head.address,
                GIVEN | {"RAY_AUTH_MODE": "token"},
                SAME | {"ray_version": "2.99.0"},
            ),
            case(
                "other Python",
                head.address,
                GIVEN | {"RAY_AUTH_MODE": "token"},
                {"python_version": "3.99.1"},
            ),
            case("no node", head.address, GIVEN | {"RAY_AUTH_MODE": "token"}, SAME),
            case("not Ray", f"127.0.0.1:{mute.getsockname()[1]}", GIVEN),
        ]
        done = subprocess.run(
            [sys.executable, "-c", CLIENT],
            input=json.dumps(cases),
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (kind, text, took) for name, kind, text, took in lines}


WANTS = r"the Ray cluster at .*:\d+ wants a token, and this client has none: set RAY_AUTH_TOKEN, or"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "nobody there",
            r"nothing listens at .*:\d+ \(Connection refused\): is Ray's head running",
        ),
        ("no token", WANTS),
        ("mode, no token", WANTS),
        ("wrong token", r"refuses the token from RAY_AUTH_TOKEN: set RAY_AUTH_TOKEN"),
        ("wrong token file", r"refuses the token from \S+/token: set RAY_AUTH_TOKEN"),
        ("no such file", r"Ray's token can't be used: .*/nothing: set RAY_AUTH_TOKEN"),
        ("not Ray", r"does not answer as Ray's head: give the port of its control service \(6379"),
        (
            "no node",
            r"this machine is no node of the Ray cluster at .*: submit the client as a job",
        ),
        ("other Ray", r"runs Ray 2\.99\.0, and this client has Ray .*: install ray==2\.99\.0 here"),
        ("other Python", r"runs Python 3\.99\.1, and this client Python .*in the cluster's image$"),
    ],
)
def test_who_can_not_join_hears_the_cause_in_seconds(
    told: dict[str, tuple[str, str, float]], name: str, says: str
) -> None:
    kind, text, took = told[name]
    assert kind == "ClusterUnavailable"
    assert re.search(says, text)
    assert "\n" not in text
    assert "secret" not in text
    assert TOKEN not in text
    assert "bbbb" not in text
    assert took < 8


# Addresses


@pytest.mark.parametrize(
    ("given", "environment", "address"),
    [
        (None, None, None),
        (None, "", None),
        (None, "local", None),
        ("local", "head:6379", None),
        (None, "head:6379", "head:6379"),
        ("other:6379", "head:6379", "other:6379"),
        ("auto", None, "auto"),
        ("[fd00::1]:6379", None, "[fd00::1]:6379"),
    ],
)
def test_the_address_is_the_one_given_else_rays(
    monkeypatch: pytest.MonkeyPatch, given: str | None, environment: str | None, address: str | None
) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)
    if environment is not None:
        monkeypatch.setenv(ADDRESS, environment)
    assert address_or_none(given) == address


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265", "head", "head:ray"])
def test_an_address_of_another_kind_is_refused_by_the_name_of_where_it_was_given(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    with pytest.raises(InvalidValue, match=r"^address: "):
        address_or_none(address)
    monkeypatch.setenv(ADDRESS, address)
    with pytest.raises(InvalidValue, match=r"^RAY_ADDRESS: "):
        address_or_none(None)


def test_a_host_without_a_name_is_said() -> None:
    began = time.monotonic()
    with pytest.raises(
        ClusterUnavailable, match=r"nothing listens at no-such-host\.invalid:6379 \("
    ):
        require_reachable("no-such-host.invalid:6379")
    assert time.monotonic() - began < 10


# Versions


@pytest.mark.parametrize(
    ("cluster", "level", "says"),
    [
        (("2.60.0", "3.11.7"), "patch", None),
        (("2.60.0", "3.11.9"), "minor", None),
        (("2.60.0", "3.11.9"), "patch", "for the last number alone, set RAY_DEFAULT_PYTHON_"),
        (("2.60.0", "3.12.7"), "patch", "runs Python 3.12.7, and this client Python 3.11.7"),
        (("2.60.0", "3.12.7"), "minor", "run the client with Python 3.12.7, or in the "),
        (("2.60.1", "3.11.7"), "minor", "runs Ray 2.60.1, and this client has Ray 2.60.0"),
        (("2.60.1", "3.12.7"), "patch", "Ray"),
    ],
)
def test_other_versions_are_named_with_the_way_out(
    cluster: tuple[str, str], level: str, says: str | None
) -> None:
    metadata = dict(zip(("ray_version", "python_version"), cluster, strict=True))
    if says is None:
        require_same_versions("head:6379", metadata, "2.60.0", "3.11.7", level)
        return
    with pytest.raises(ClusterUnavailable, match=re.escape(says)):
        require_same_versions("head:6379", metadata, "2.60.0", "3.11.7", level)


def test_a_cluster_that_does_not_say_its_versions_is_tried() -> None:
    require_same_versions("head:6379", {}, "2.60.0", "3.11.7", "patch")
