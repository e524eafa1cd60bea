"""Cancelling what a session leaves behind, whoever dies meanwhile, and parting from it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from retinue.actors.domain.errors import ClusterUnavailable, Fenced
from retinue.actors.domain.session.machine import Agent, Child, ChildSpec
from retinue.actors.domain.session.result import Result
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import Batch, HostProvider, StoreProvider
from retinue.actors.session import live
from retinue.actors.session.activation import Activation
from retinue.actors.session.agents import Agents
from retinue.actors.session.host import SessionHost
from retinue.actors.session.live import LiveSession


class Hosts:
    """``gone`` is dead; the directory says so when it has been asked ``slow`` times."""

    def __init__(self, slow: int) -> None:
        self.cancelled: list[str] = []
        self._slow = slow

    @property
    def directory(self) -> Hosts:
        return self

    async def locate(self, session_id: str) -> tuple[str, str]:
        self._slow -= 1
        return "scope", "gone" if self._slow >= 0 else "there"

    def host(self, name: str) -> Host:
        return Host(self, name)


class Host:
    def __init__(self, hosts: Hosts, name: str) -> None:
        self._hosts = hosts
        self._name = name

    async def cancel_children(self, batch: Batch) -> None:
        if self._name == "gone":
            raise ClusterUnavailable("actor gone does not answer")
        self._hosts.cancelled += [spec.id for spec in batch.children]


class Entity:
    """A parent with two children that have no result; fenced after ``fenced_after`` questions."""

    def __init__(self, fenced_after: int) -> None:
        specs = [ChildSpec(id, id, Agent("", ""), "", 0, "shared", "") for id in ("one", "two")]
        self.state = SimpleNamespace(children={spec.id: Child(spec, "run") for spec in specs})
        self._left = fenced_after

    async def confirmed(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Fenced("taken over")


async def _cancel(hosts: Hosts, entity: Entity) -> None:
    activation = SimpleNamespace(
        id="parent",
        profile=None,
        entity=entity,
        host=SimpleNamespace(hosts=hosts),
        runtime=SimpleNamespace(clock=lambda: 0),
    )
    await LiveSession(cast(Activation, activation), cast(Agents, None)).cancel_children()


async def test_a_child_whose_host_is_gone_is_cancelled_where_it_is_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "_RETRY_S", 0.001)
    hosts = Hosts(slow=3)
    await _cancel(hosts, Entity(fenced_after=100))
    assert sorted(hosts.cancelled) == ["one", "two"]


async def test_a_parent_that_was_taken_over_cancels_nothing() -> None:
    hosts = Hosts(slow=0)
    with pytest.raises(Fenced):
        await _cancel(hosts, Entity(fenced_after=0))
    assert hosts.cancelled == []


class Parting:
    """A sub-agent without runs left; what is done with it last is still on its way."""

    def __init__(self) -> None:
        self.id = "child"
        self.calls = 1
        self.profile = SimpleNamespace(parent_id="parent")
        self.activation = self.entity = self.budget_lease = self
        self.result_for_parent: Result | None = None
        self.stored = asyncio.Event()
        self.reported = asyncio.Event()

    async def committed(self) -> None:
        await self.stored.wait()

    async def report(self) -> None:
        await self.reported.wait()


def _host() -> SessionHost:
    runtime = SimpleNamespace(registry=None)
    return SessionHost(
        cast(Runtime, runtime), cast(StoreProvider, None), cast(HostProvider, None), "here"
    )


async def test_a_result_is_handed_over_when_it_is_stored_and_its_cost_was_reported() -> None:
    catalog, child = _host()._catalog, Parting()
    child.result_for_parent = Result("child", "completed")
    parting = asyncio.create_task(catalog._done(cast(LiveSession, child)))
    for happens in (child.stored, child.reported):
        await asyncio.sleep(0.01)
        assert not catalog.outboxes
        happens.set()
    await parting
    assert await catalog.outboxes["parent"].collect(1, [], 0) == [Result("child", "completed")]


async def test_a_result_that_another_call_gives_it_meanwhile_is_for_that_call_to_hand_over() -> (
    None
):
    catalog, child = _host()._catalog, Parting()
    child.stored.set()
    parting = asyncio.create_task(catalog._done(cast(LiveSession, child)))
    await asyncio.sleep(0.01)
    child.result_for_parent = Result("child", "cancelled")  # and not stored yet
    child.reported.set()
    await parting
    assert not catalog.outboxes


class Crowd:
    """Many hosts, one of which is dead."""

    def __init__(self, *names: str) -> None:
        self.abandoned: dict[str, list[str]] = {}
        self._names = names

    @property
    def directory(self) -> Crowd:
        return self

    async def hosts(self) -> list[str]:
        return list(self._names)

    def host(self, name: str) -> SimpleNamespace:
        async def abandon(session_ids: list[str]) -> None:
            if name == "dead":
                raise ClusterUnavailable("actor dead does not answer")
            self.abandoned[name] = session_ids

        return SimpleNamespace(abandon=abandon)


async def test_every_other_host_ends_what_it_has_of_a_session_that_was_taken_over() -> None:
    crowd = Crowd("here", "dead", "one", "two")
    runtime = SimpleNamespace(registry=None)
    host = SessionHost(
        cast(Runtime, runtime), cast(StoreProvider, None), cast(HostProvider, crowd), "here"
    )
    await host._stop_elsewhere(["session"])
    assert crowd.abandoned == {"one": ["session"], "two": ["session"]}
