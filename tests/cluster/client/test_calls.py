"""A client's calls to sessions find the host, and find it again when the session has moved."""

from __future__ import annotations

from typing import cast

import pytest

from retinue.actors.domain.errors import ClusterUnavailable, InvalidValue, StoreUnavailable
from retinue.actors.domain.values.ids import derived_id
from retinue.actors.ports import HostPort
from retinue.actors.requests import Close, SessionAt
from retinue.cluster.client import calls as client
from retinue.cluster.client.calls import Calls
from retinue.cluster.directory.port import ClusterDirectoryPort
from retinue.cluster.settings import ClusterSettings

ID = derived_id("a session")


class Cluster:
    """Hosts of which one has the session; ``dead`` ones do not answer."""

    def __init__(self, *dead: str) -> None:
        self.hosts = [*dead, "there"]
        self.dead = set(dead)
        self.heard: list[str] = []
        self.error: Exception | None = None

    async def locate(self, session_id: str) -> tuple[str, str]:
        assert session_id == ID
        return "workspace", self.hosts[0]

    async def lost(self, host: str) -> None:
        self.hosts.remove(host)

    async def end(self, close: Close) -> None:
        self.heard.append(f"{close.by} ends {close.session_id} of {close.workspace_id}")
        if self.error:
            raise self.error

    def host(self, name: str) -> HostPort:
        return cast(HostPort, _Dead() if name in self.dead else self)


class _Dead:
    async def end(self, close: Close) -> None:
        raise ClusterUnavailable("it does not answer")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    monkeypatch.setattr(client, "_PAUSE_S", 0.0)
    return Calls(ClusterSettings("redis://nowhere"), "ann")


def _of(calls: Calls, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "directory", cast(ClusterDirectoryPort, cluster))
    monkeypatch.setattr(calls, "host", cluster.host)


async def test_a_call_goes_on_until_a_host_has_the_session(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster("one", "two")
    _of(calls, cluster, monkeypatch)
    await calls.sessions.end(Close(ID, by="ann"))
    assert cluster.heard == [f"ann ends {ID} of workspace"]
    assert cluster.hosts == ["there"]


async def test_an_error_of_the_session_is_raised_as_it_is(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster()
    cluster.error = StoreUnavailable("Redis is away")
    _of(calls, cluster, monkeypatch)
    with pytest.raises(StoreUnavailable):
        await calls.sessions.end(Close(ID))
    assert len(cluster.heard) == 1


async def test_an_id_that_is_none_is_told_before_anybody_is_asked(calls: Calls) -> None:
    with pytest.raises(InvalidValue, match="session"):
        await calls.sessions.view(SessionAt("nobody"))
