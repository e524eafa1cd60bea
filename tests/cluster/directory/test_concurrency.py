"""Slots for sub-agents: limits hold, and a family gets on whatever dies."""

from __future__ import annotations

import asyncio

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from retinue.cluster.directory.concurrency import ConcurrencyLimit
from retinue.cluster.directory.slots import Slots

LIMIT = 2
A_LONG_TIME_S = 60.0
LIMIT_S = 10.0

ROOT, PARENT, OTHER = "root/1", "parent/1", "other/1"


def test_a_parent_that_waits_for_its_sub_agents_needs_no_slot() -> None:
    limit = ConcurrencyLimit()
    limit.open(ROOT, "root", 1)
    assert limit.grant(ROOT, ["parent"], lambda n: ["a"] * n) == {"parent": "a"}
    limit.open(PARENT, "root", 1)
    assert limit.grant(PARENT, ["child"], lambda n: ["a"] * n) == {"child": "a"}
    assert limit.active("root") == 1
    assert limit.grant(PARENT, ["child", "next"], lambda n: ["a"] * n) == {"child": "a"}
    assert limit.close(PARENT) == ["child"]
    assert limit.active("root") == 1


def test_a_spawn_whose_parent_and_sub_agents_died_is_over() -> None:
    limit = ConcurrencyLimit()
    limit.open(ROOT, "root", 2)
    assert limit.grant(ROOT, ["parent"], lambda n: ["a"] * n) == {"parent": "a"}
    limit.open(PARENT, "root", 2)
    assert limit.grant(PARENT, ["child"], lambda n: ["b"] * n) == {"child": "b"}
    limit.lost("a", ["parent"])
    limit.lost("b", ["child"])
    assert limit.grant(ROOT, ["parent"], lambda n: ["a"] * n) == {"parent": "a"}
    assert limit.active("root") == 1  # the parent that came back waits for nobody


async def test_a_parent_that_died_is_not_kept_waiting_for_the_slots_of_its_sub_agents() -> None:
    slots = Slots()

    async def ask(spawner: str, want: list[str], host: str, limit_s: float) -> dict[str, str]:
        return await slots.acquire(spawner, "root", [], want, 2, lambda n: [host] * n, limit_s)

    assert await ask(ROOT, ["parent"], "a", 0) == {"parent": "a"}
    assert await ask(PARENT, ["one", "two"], "b", 0) == {"one": "b", "two": "b"}
    waiting = asyncio.create_task(ask(PARENT, ["three", "four"], "b", A_LONG_TIME_S))
    await asyncio.sleep(0)
    slots.lost("a", ["parent"])  # with the process that waits for that answer
    assert await waiting == {}
    asking = asyncio.create_task(ask(ROOT, ["parent"], "b", A_LONG_TIME_S))
    await asyncio.sleep(0)
    assert not asking.done()  # two run, and they are two too many for another one
    slots.seen("b", ["one"])
    async with asyncio.timeout(LIMIT_S):
        assert await asking == {"parent": "b"}
    assert await ask(PARENT, ["one", "two"], "c", 0) == {"one": "b", "two": "c"}


class Family(RuleBasedStateMachine):
    """A root at a host that lives, its sub-agents and theirs, and hosts that die."""

    hosts = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        self.limit = ConcurrencyLimit()
        self.places: dict[str, str] = {}
        self.root_wants = [f"p{number}" for number in range(2)]
        self.ended: set[str] = set()

    def children(self, parent: str) -> list[str]:
        return [f"{parent}.{number}" for number in range(2)]

    def ask(self, parent: str, want: list[str], host: str) -> None:
        """What a parent that lives asks for; what is granted is started."""
        name = f"{parent}/1"
        self.limit.open(name, "root", LIMIT)
        self.limit.done(name, [one for one in want if one in self.ended])
        want = [one for one in want if one not in self.ended and one not in self.places]
        self.places.update(self.limit.grant(name, want, lambda n: [host] * n))

    @rule(host=st.sampled_from(hosts))
    def the_root_asks(self, host: str) -> None:
        self.ask("root", self.root_wants, host)

    @rule(number=st.integers(0, 1), host=st.sampled_from(hosts))
    def a_parent_asks(self, number: int, host: str) -> None:
        if (parent := f"p{number}") in self.places:
            self.ask(parent, self.children(parent), host)

    @rule(number=st.integers(0, 1), host=st.sampled_from(hosts))
    def a_parent_dies_before_it_can_start_what_was_granted(self, number: int, host: str) -> None:
        name = f"p{number}/1"
        if self.places.get(f"p{number}") not in (None, host) and self.limit.is_open(name):
            self.limit.grant(name, self.children(f"p{number}"), lambda n: [host] * n)
            self.a_host_dies(self.places[f"p{number}"])

    @rule(number=st.integers(0, 1), child=st.integers(0, 1))
    def a_child_ends(self, number: int, child: int) -> None:
        self.end(f"p{number}.{child}")

    def end(self, child: str) -> None:
        if self.places.pop(child, None):
            self.ended.add(child)
            parent = child.partition(".")[0]
            if parent in self.places:
                self.limit.done(f"{parent}/1", [child])

    @rule(host=st.sampled_from(hosts))
    def a_host_dies(self, host: str) -> None:
        lost = [one for one, where in self.places.items() if where == host]
        for one in lost:
            del self.places[one]
        self.limit.lost(host, lost)
        for parent in {one.partition(".")[0] for one in lost if "." in one}:
            if parent in self.places:  # it hears of it
                self.limit.done(f"{parent}/1", [one for one in lost if one.startswith(parent)])

    @rule(host=st.sampled_from(hosts))
    def a_host_says_what_it_has(self, host: str) -> None:
        self.limit.seen(host, {one for one, where in self.places.items() if where == host})

    @invariant()
    def no_more_run_than_may(self) -> None:
        assert self.limit.active("root") <= LIMIT
        leaves = [one for one in self.places if "." in one]
        assert len(leaves) <= LIMIT

    def teardown(self) -> None:
        """From anywhere a family comes to its end."""
        for _ in range(40):
            for host in self.hosts:
                self.a_host_says_what_it_has(host)
            self.the_root_asks("a")
            for parent in self.root_wants:
                if parent in self.places:
                    self.ask(parent, self.children(parent), "b")
            for child in [one for one in self.places if "." in one]:
                self.end(child)
            for parent in self.root_wants:
                if parent in self.places and self.ended.issuperset(self.children(parent)):
                    self.limit.close(f"{parent}/1")
                    del self.places[parent]
                    self.ended.add(parent)
                    self.limit.done("root/1", [parent])
        assert self.ended.issuperset(self.root_wants)


Family.TestCase.settings = settings(max_examples=200, stateful_step_count=30)
TestFamily = Family.TestCase
