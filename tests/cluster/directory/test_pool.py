"""Where sessions and hosts go: pure bookkeeping, without a cluster."""

from __future__ import annotations

from collections import Counter

import pytest

from retinue.actors.domain.errors import InvalidValue, NotFound
from retinue.actors.domain.session.settings import Isolation
from retinue.cluster.directory.nodes import find_node
from retinue.cluster.directory.pool import (
    HOST_WORTH,
    NODE_WORTH,
    ON_ITS_WAY_S,
    PROCESSES_PER_HOST,
    Pool,
)
from retinue.cluster.status import Node

A, B, C = "aa11", "bb22", "bb33"


def node(id: str, cpus: float = 1.0, free: float = 1.0, *, draining: bool = False) -> Node:
    return Node(id, f"10.0.0.{int(id[2:])}", id, True, draining, cpus, free, 1e9)


def pool(*hosts: tuple[str, str], most: int = 16, nodes: tuple[Node, ...] = ()) -> Pool:
    """A pool with ready hosts, given with the nodes that they are on."""
    made = Pool(most, host_cpus=0.25, host_memory=1e6)
    made.see(nodes or (node(A), node(B)), 0.0)
    for name, where in hosts:
        made.add(name, 0.0, where).ready = True
    return made


def children(made: Pool, near: str, count: int, isolation: Isolation = "shared") -> Counter[str]:
    return Counter(made.for_children(isolation, near, count))


def test_sub_agents_stay_on_their_parents_node_until_others_have_much_less_to_do() -> None:
    made = pool(("a1", A), ("b1", B))
    assert children(made, "a1", NODE_WORTH) == {"a1": NODE_WORTH}
    assert children(made, "a1", 100) == {"a1": 55, "b1": 45}
    assert children(made, "", 100) == {"a1": 50, "b1": 50}


def test_on_their_parents_node_sub_agents_are_spread() -> None:
    made = pool(("a1", A), ("a2", A), ("b1", B), nodes=(node(A, 2), node(B)))
    assert children(made, "a1", 9) == {"a1": 5, "a2": 4}


def test_processes_stay_at_their_parents_host_until_others_have_much_less_to_do() -> None:
    made = pool(("a1", A), ("a2", A), nodes=(node(A, 2), node(B)))
    assert children(made, "a2", HOST_WORTH, "process") == {"a2": HOST_WORTH}
    assert children(made, "a2", HOST_WORTH + 4, "process") == {"a2": HOST_WORTH + 2, "a1": 2}


def test_a_host_takes_only_so_many_processes() -> None:
    made = pool(("a1", A), ("b1", B))
    found = children(made, "a1", 100, "process")
    assert found == {"a1": PROCESSES_PER_HOST, "b1": PROCESSES_PER_HOST}


def test_a_host_goes_where_the_fewest_are_for_each_processor() -> None:
    made = pool(("a1", A), ("b1", B), nodes=(node(A, 4, 3.0), node(B, 1, 0.75)))
    assert made.node_for_host() == A
    for name in ("a2", "a3", "a4"):
        made.add(name, 0.0, A)
    made.add("a5", 0.0, A)
    assert made.node_for_host() == B


def test_a_node_without_room_gets_no_host() -> None:
    made = pool(("a1", A), nodes=(node(A, 1, 0.4), node(B, 1, 0.2)))
    assert made.node_for_host() == A
    made.take_room(A)
    assert made.node_for_host() is None
    assert not made.wants_another


def test_a_root_goes_to_an_idle_host_where_least_is_going_on() -> None:
    made = pool(("a1", A), ("a2", A), ("b1", B))
    made.put("one", "a1", "process")
    assert made.for_root("process") == "b1"
    made.put("two", "b1", "process")
    made.put("three", "a2", "process")
    assert made.for_root("process") is None  # another host is started for it
    assert made.for_root("process", grows=False) == "a1"  # unless that does not work


def test_a_host_that_waits_for_room_takes_nothing_from_those_that_run() -> None:
    made = pool(("a1", A))
    made.add("b1", 5.0)
    assert made.starting_since() == 5.0
    assert children(made, "b1", 20) == {"a1": 20}


def test_shared_sessions_are_packed_on_hosts_of_all_nodes() -> None:
    made = pool(("a1", A), ("a2", A), ("b1", B))
    assert set(children(made, "", 10)) == {"a1", "b1"}  # for two processors


def test_a_joined_node_gets_a_host() -> None:
    made = pool(("a1", A), ("b1", B), ("b2", B))
    assert not made.see((node(A), node(B)), 1.0)
    made.put("one", "a1", "shared")
    assert not made.wants_another
    assert made.see((node(A), node(B), node(C)), 2.0)
    assert made.wants_another
    assert made.node_for_host() == C
    made.add("c1", 2.0, C)
    assert not made.see((node(A), node(B), node(C)), 3.0)


def test_a_draining_node_gets_nothing() -> None:
    made = pool(("a1", A), ("b1", B))
    made.see((node(A), node(B, draining=True)), 1.0)
    assert [host.name for host in made.hosts.values() if host.leaving] == ["b1"]
    assert children(made, "b1", 50) == {"a1": 50}
    assert made.node_for_host() == A
    assert made.processors == 1


def test_idle_hosts_go_first_where_least_is_going_on_and_some_stay() -> None:
    made = pool(("a1", A), ("a2", A), ("b1", B), ("a3", A))
    made.put("one", "a1", "shared")
    assert made.spare(before=10.0, keep=1) == ["b1", "a3", "a2"]
    assert made.spare(before=10.0, keep=3) == ["b1"]
    assert made.spare(before=0.0, keep=1) == []  # not idle for long enough
    made.see((node(A), node(B)), 20.0)
    made.forget("one")
    assert "a1" not in made.spare(before=10.0, keep=0)


def test_a_node_is_found_by_what_it_is_called() -> None:
    nodes = [node(A), node(B), node(C)]
    for name in (A, "aa", "10.0.0.11"):
        assert find_node(name, nodes).id == A
    with pytest.raises(InvalidValue, match="2 nodes"):
        find_node("bb", nodes)
    with pytest.raises(NotFound, match=r"10\.0\.0\.11"):
        find_node("nowhere", nodes)


def test_a_session_that_never_comes_to_its_host_is_not_waited_for_for_ever() -> None:
    made = pool(("a1", A))
    made.put("came", "a1", "shared")
    made.put("never", "a1", "shared")
    made.sync("a1", [("came", "shared")], 10.0)
    made.sync("a1", [("came", "shared")], 10.0 + ON_ITS_WAY_S)
    assert made.locate("never") == "a1"
    made.sync("a1", [("came", "shared")], 10.1 + ON_ITS_WAY_S)
    assert made.locate("never") is None
    assert made.locate("came") == "a1"
