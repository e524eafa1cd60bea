"""Where sessions go and when hosts are started: decided without a loop, Ray or a clock."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from retinue.actors.domain.session.settings import Isolation
from retinue.cluster.directory.placement import PATIENCE_S, Placement
from retinue.cluster.directory.pool import PROCESSES_PER_HOST, Pool
from retinue.cluster.status import Node

MOST, WARM, IDLE_S = 4, 1, 60.0


class Started:
    """The hosts that were asked for, in order, with their nodes."""

    def __init__(self) -> None:
        self.hosts: list[tuple[str, str | None]] = []

    def __call__(self, node: str | None) -> str:
        name = f"h{len(self.hosts)}"
        self.hosts.append((name, node))
        return name


def node(id: str, cpus: float = 2.0, *, draining: bool = False) -> Node:
    return Node(id, f"10.0.0.{id}", id, True, draining, cpus, cpus, 1e9)


def placed(*nodes: Node, most: int = MOST) -> tuple[Placement, Started]:
    started = Started()
    placement = Placement(Pool(most, 0.25, 1e6), WARM, started)
    placement.see(nodes or (node("1"),), 0.0, IDLE_S)
    return placement, started


def runs(placement: Placement, *names: str) -> None:
    for name in names:
        placement.pool.hosts[name].ready = True


def test_a_root_gets_a_host_of_its_own_and_waits_until_it_runs() -> None:
    placement, started = placed()
    assert placement.root("one", "process", 0.0) is None
    assert placement.root("one", "process", 1.0) is None
    assert started.hosts[0] == ("h0", "1")
    runs(placement, "h0")
    assert placement.root("one", "process", 2.0) == "h0"


def test_one_host_more_is_started_behind_those_in_use_as_soon_as_they_run() -> None:
    placement, started = placed()
    placement.root("one", "process", 0.0)
    assert len(started.hosts) == 1  # one at a time
    runs(placement, "h0")
    placement.granted({}, "process", 1.0)
    assert [name for name, _ in started.hosts] == ["h0", "h1"]


def test_where_hosts_fail_to_start_roots_share_one() -> None:
    placement, _ = placed()
    placement.keep_warm(0.0)
    runs(placement, "h0")
    assert placement.root("one", "process", 1.0) == "h0"  # and h1 is on its way
    assert placement.root("two", "process", 2.0) is None
    placement.pool.forget("two")  # its caller gave up
    assert placement.root("two", "process", 2.0 + PATIENCE_S) == "h0"


def test_any_host_is_where_a_session_is_or_the_one_that_it_gets() -> None:
    placement, started = placed()
    assert placement.any_host("one", 0.0) == "h0"
    assert placement.any_host("one", 1.0) == "h0"
    assert len(started.hosts) == 1


def test_too_few_hosts_for_sub_agents_ask_for_another_one_once() -> None:
    placement, started = placed()
    placement.keep_warm(0.0)
    runs(placement, "h0")
    want = PROCESSES_PER_HOST + 1
    assert placement.for_children("process", "h0", want, 1.0) == ["h0"] * PROCESSES_PER_HOST
    assert placement.for_children("process", "h0", want, 2.0) == ["h0"] * PROCESSES_PER_HOST
    assert [name for name, _ in started.hosts] == ["h0", "h1"]


def test_a_host_is_told_once_that_it_is_to_go_and_another_one_stays_warm() -> None:
    placement, started = placed(node("1"), node("2"))
    placement.keep_warm(0.0)
    runs(placement, "h0")
    assert started.hosts == [("h0", "1")]
    leaving = node("1", draining=True), node("2")
    assert placement.see(leaving, 1.0, IDLE_S) == ["h0"]
    assert placement.see(leaving, 2.0, IDLE_S) == []
    placement.keep_warm(3.0)
    assert started.hosts[1:] == [("h1", "2")]


def test_idle_hosts_are_told_to_go_and_as_many_stay_as_should() -> None:
    placement, _ = placed()
    for name in ("a", "b", "c"):
        placement.pool.add(name, 0.0, "1").ready = True
    assert len(placement.see([node("1")], IDLE_S + 1, IDLE_S)) == 2
    assert placement.see([node("1")], IDLE_S + 2, IDLE_S) == []


class Cluster(RuleBasedStateMachine):
    """Sessions that come and end, hosts that start and die, nodes that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.started = Started()
        self.placement = Placement(Pool(MOST, 0.25, 1e6), WARM, self.started)
        self.now = 0.0
        self.nodes = {"1": node("1")}
        self.told: set[str] = set()
        self.sessions = 0
        self.look()

    def look(self) -> None:
        told = self.placement.see(self.nodes.values(), self.now, IDLE_S)
        assert self.told.isdisjoint(told)  # each once
        self.told.update(told)

    def is_new_at(self, host: str) -> None:
        """A host that a session was just given is there, and stays."""
        assert not self.placement.pool.hosts[host].leaving

    @rule(isolation=st.sampled_from(["process", "shared"]))
    def a_root_comes(self, isolation: Isolation) -> None:
        self.sessions += 1
        name = f"s{self.sessions}"
        if host := self.placement.root(name, isolation, self.now):
            self.is_new_at(host)

    @rule(isolation=st.sampled_from(["process", "shared"]), count=st.integers(1, 40))
    def sub_agents_come(self, isolation: Isolation, count: int) -> None:
        near = next(iter(self.placement.pool.hosts), "")
        hosts = self.placement.for_children(isolation, near, count, self.now)
        granted = {f"s{self.sessions + at}": host for at, host in enumerate(hosts, 1)}
        self.sessions += len(granted)
        for host in granted.values():
            self.is_new_at(host)
        self.placement.granted(granted, isolation, self.now)

    @rule()
    def a_session_is_called(self) -> None:
        self.sessions += 1
        self.is_new_at(self.placement.any_host(f"s{self.sessions}", self.now))

    @rule(at=st.integers(0, 200))
    def a_session_ends(self, at: int) -> None:
        self.placement.pool.forget(f"s{at}")

    @rule()
    def hosts_start(self) -> None:
        runs(self.placement, *self.placement.pool.hosts)

    @precondition(lambda self: self.placement.pool.hosts)
    @rule(data=st.data())
    def a_host_dies(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.placement.pool.hosts)))
        held = self.placement.pool.remove(name)
        assert all(self.placement.pool.locate(id) is None for id in held)
        self.placement.keep_warm(self.now)

    @rule(id=st.sampled_from("123"), draining=st.booleans())
    def a_node_comes_or_is_to_go(self, id: str, draining: bool) -> None:
        self.nodes[id] = node(id, draining=draining)
        self.look()

    @rule(seconds=st.sampled_from([1.0, PATIENCE_S, 2 * IDLE_S]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.look()

    @invariant()
    def every_session_is_at_one_host(self) -> None:
        pool = self.placement.pool
        held = [(id, host.name) for host in pool.hosts.values() for id in host.sessions]
        assert len(held) == len(dict(held))
        assert all(pool.locate(id) == host for id, host in held)

    @invariant()
    def no_host_has_too_much(self) -> None:
        hosts = self.placement.pool.hosts.values()
        assert all(host.count("process") <= PROCESSES_PER_HOST for host in hosts)
        assert len([host for host in hosts if not host.leaving]) <= MOST

    def teardown(self) -> None:
        """Where hosts start, every root gets one."""
        self.nodes = {"1": node("1")}
        for name in list(self.told & self.placement.pool.hosts.keys()):
            self.placement.pool.remove(name)
        self.look()
        self.placement.root("last", "shared", self.now)
        self.hosts_start()
        assert self.placement.root("last", "shared", self.now + 1.0)


Cluster.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestCluster = Cluster.TestCase
