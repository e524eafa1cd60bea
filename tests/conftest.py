"""What tests share: how hypothesis runs, one real Redis, and one real cluster."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import settings

from retinue import Retinue, connect
from retinue.cluster.local.reaper import MARK
from retinue.cluster.redis.server import EmbeddedRedis
from tests.kit.redis_outside import redis_cluster

settings.register_profile("retinue", deadline=None, max_examples=50)
settings.register_profile("retinue-ci", settings.get_profile("retinue"), derandomize=True)
settings.load_profile("retinue-ci" if os.environ.get("CI") else "retinue")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First the quick ones, then those that bring up clusters of their own, then the shared one.

    A process can be in one Ray cluster at a time, and the shared one stays until the end.
    """
    last = {"chaos": 1, "own_cluster": 2, "cluster": 3}
    items.sort(
        key=lambda item: max((last.get(one.name, 0) for one in item.iter_markers()), default=0)
    )


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Redis, started once: tests keep apart by a namespace of their own."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv(MARK, raising=False)  # it belongs to the run, not to a cluster in it
        server = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    try:
        yield server.url
    finally:
        server.stop()


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real Redis Cluster of three nodes, started once."""
    with redis_cluster(tmp_path_factory.mktemp("c")) as nodes:
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def retinue(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Retinue]:
    """A client of a real Ray with a real Redis, one for the whole test run."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RETINUE_HOME", str(tmp_path_factory.mktemp("retinue")))
        environment.setenv("RETINUE_AGENT_MEMORY_MB", "1024")
        async with connect() as client:
            yield client


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory to be a workspace, with a file in it."""
    (tmp_path / "a.txt").write_text("hello\n")
    return tmp_path
