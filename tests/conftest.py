"""What tests share: one real cluster for all that need one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cluster import Troupe, connect


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def troupe(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Troupe]:
    """A client of a real Ray with a real Redis, one for the whole test run."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TROUPE_HOME", str(tmp_path_factory.mktemp("troupe")))
        async with connect() as client:
            yield client


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory to be a workspace, with a file in it."""
    (tmp_path / "a.txt").write_text("hello\n")
    return tmp_path
