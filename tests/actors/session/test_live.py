"""Cancelling what a session leaves behind, whoever dies meanwhile, and parting from it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from retinue.actors.agent.process import wire
from retinue.actors.domain.errors import ClusterUnavailable, Fenced
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.state import Agent, Child, ChildSpec, Run
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import Batch, HostProvider, StoreProvider
from retinue.actors.session import live
from retinue.actors.session.activation import Activation
from retinue.actors.session.agents import Agents
from retinue.actors.session.host import SessionHost
from retinue.actors.session.live import LiveSession
from tests.kit.waiting import until


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


class Busy:
    """An agent that is at work, and does not end at once when it is told to."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.ended = False

    async def __call__(self, *arguments: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            async with asyncio.timeout(1):
                await self.may_end.wait()
            self.ended = True


def _live(call: object, before: LiveSession | None = None) -> LiveSession:
    """A session that has one run, and an agent that ``call`` is."""
    state = SimpleNamespace(
        runs={"run": Run("run", "prompt", 0)}, closed="", children={}, results={}
    )

    async def at_once() -> None:
        return None

    entity = SimpleNamespace(
        state=state,
        key=SimpleNamespace(workspace_id="workspace"),
        epoch=1,
        broken=None,
        do=lambda command: None,
        committed=at_once,
        confirmed=at_once,
    )
    brakes = SimpleNamespace(
        hold=lambda workspace_id: None,
        is_clear=lambda workspace_id: True,
        clear=lambda workspace_id: at_once(),
        held=lambda workspace_id, now: 0,
    )

    async def finish(run_id: str, result: Result) -> Result:
        del state.runs[run_id]
        return result

    activation = SimpleNamespace(
        id="session",
        entity=entity,
        host=SimpleNamespace(hosts=None, name="here"),
        runtime=SimpleNamespace(clock=lambda: 0, brakes=brakes),
        notify=lambda *arguments: None,
        finish=finish,
        stand_still=at_once,
    )
    processes = SimpleNamespace(left=lambda session_id: at_once())
    agents = SimpleNamespace(call=call, processes=processes)
    return LiveSession(cast(Activation, activation), cast(Agents, agents), before)


async def test_an_agent_begins_when_that_of_the_activation_before_has_ended() -> None:
    agent, called = Busy(), list[bool]()

    async def call(*arguments: object) -> wire.Outcome:
        called.append(agent.ended)
        return wire.Outcome(output="done")

    old = _live(agent)
    old.worker = asyncio.create_task(old.work())
    await until(lambda: old._turn is not None)
    await asyncio.sleep(0)
    old.entity.broken = Fenced("taken over")
    old.entity.on_break()
    new = _live(call, old)
    new.worker = asyncio.create_task(new.work())
    waiting = asyncio.create_task(new.wait("run", 10))
    await asyncio.sleep(0.01)
    assert not called
    agent.may_end.set()
    await waiting
    assert called == [True]


async def test_stopping_a_session_ends_the_agent_of_the_activation_before_as_well() -> None:
    agent = Busy()
    old = _live(agent)
    old.worker = asyncio.create_task(old.work())
    await until(lambda: old._turn is not None)
    await asyncio.sleep(0)
    old.entity.broken = Fenced("taken over")
    stopping = asyncio.create_task(_live(Busy(), old).stop())
    await asyncio.sleep(0.01)
    assert not stopping.done()
    agent.may_end.set()
    await stopping
    assert agent.ended


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


async def test_a_run_that_comes_while_the_session_parts_from_the_last_one_is_run_as_well() -> None:
    catalog, child, ran = _host()._catalog, Parting(), list[str]()

    async def call(*arguments: object) -> wire.Outcome:
        ran.append("run")
        return wire.Outcome(output="done")

    live = _live(call)
    live.activation.profile = child.profile  # type: ignore[misc, assignment]
    live.activation.budget_lease = child  # type: ignore[assignment]
    live.calls = 1
    state = live.entity.state
    again = dict(state.runs)
    catalog.work(live)
    await until(lambda: ran == ["run"] and not state.runs)
    await asyncio.sleep(0)
    state.runs.update(again)
    catalog.work(live)
    child.reported.set()
    await until(lambda: ran == ["run", "run"] and not state.runs)


async def test_an_idle_session_that_was_taken_over_is_let_go() -> None:
    catalog, broken = _host()._catalog, _live(Busy())
    broken.entity.state.runs.clear()
    broken.entity.broken = Fenced("taken over")

    async def refused() -> None:
        raise Fenced("taken over")

    broken.entity.compact = refused  # type: ignore[method-assign]
    catalog.live["session"] = broken
    assert await catalog.deactivate("session")
    assert not catalog.live


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
