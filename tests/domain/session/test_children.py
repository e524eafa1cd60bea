"""The table of a spawn's children: whatever happens, each of them ends once, and slots add up."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from retinue.actors.domain.session.children import Children
from retinue.actors.domain.session.result import Result, Status
from retinue.actors.domain.session.settings import Isolation
from retinue.actors.domain.session.state import Agent, Child, ChildSpec

HOSTS = ["a", "b", "c"]
ISOLATIONS: tuple[Isolation, ...] = ("process", "shared")
hosts = st.sampled_from(HOSTS)
picks = st.sets(st.integers(0, 7))


def child(at: int, result: Result | None = None) -> Child:
    isolation = ISOLATIONS[at % 2]
    return Child(ChildSpec(f"{at}", f"{at}", Agent("", ""), "", 0, isolation, ""), "run", result)


class Table(RuleBasedStateMachine):
    """A directory and hosts as a spawn meets them: answers are late, hosts die, results repeat."""

    @initialize(done=picks, begun=st.booleans())
    def begin(self, done: set[int], begun: bool) -> None:
        given = [Result(f"{at}", "completed") if at in done else None for at in range(8)]
        self.children = Children(
            [child(at, result) for at, result in enumerate(given)], begun=begun
        )
        self.ids = [f"{at}" for at in range(8)]
        self.results = {result.session_id: result for result in given if result}
        self.begun = set(self.ids) if begun else set[str]()
        self.granted: dict[str, str] = {}  # as the directory has it
        self.answers: dict[Isolation, dict[str, str]] = {}  # on their way

    @rule(isolation=st.sampled_from(ISOLATIONS), picked=picks, host=hosts)
    def ask(self, isolation: Isolation, picked: set[int], host: str) -> None:
        if isolation not in self.answers:
            self.give_back()
            want = [id for id in self.children.waiting(isolation) if int(id) in picked]
            self.answers[isolation] = dict.fromkeys(want, host)
            self.granted.update(self.answers[isolation])

    @rule(isolation=st.sampled_from(ISOLATIONS))
    def answer(self, isolation: Isolation) -> None:
        self.children.grant(self.answers.pop(isolation, {}))

    @rule()
    def give_back(self) -> None:
        for id in self.children.take_freed():
            del self.granted[id]  # so it is given back once

    @rule()
    def start(self) -> None:
        held = self.children.hosts("held")
        starts = self.children.start()
        assert {spec.id: host for host, specs in starts.items() for spec in specs} == held
        self.begun.update(held)
        assert not self.children.hosts("held")

    @rule(picked=picks, status=st.sampled_from(["completed", "failed"]))
    def finish(self, picked: set[int], status: Status) -> None:
        results = [Result(f"{at}", status) for at in picked] + [Result("another's", "failed")]
        first = [one for one in results[:-1] if one.session_id not in self.results]
        assert self.children.finish(results) == first
        self.results.update({result.session_id: result for result in first})

    @rule(host=hosts, picked=picks)
    def lose(self, host: str, picked: set[int]) -> None:
        lost = [spec for spec in self.children.started(host) if int(spec.id) in picked]
        others = [child(at).spec for at in picked]  # that are elsewhere, or done
        self.children.lose(host, [*lost, *others])
        for spec in lost:
            assert spec.id in self.children.waiting(spec.isolation)

    @rule()
    def cancel(self) -> None:
        ended = self.children.cancel()
        assert {one.session_id for one in ended} == set(self.ids) - self.begun - set(self.results)
        assert all(one.status == "cancelled" for one in ended)
        self.results.update({result.session_id: result for result in ended})

    @invariant()
    def every_child_is_in_one_place(self) -> None:
        waiting = [id for isolation in ISOLATIONS for id in self.children.waiting(isolation)]
        held, started = self.children.hosts("held"), self.children.hosts("started")
        assert sorted([*waiting, *held, *started, *self.results]) == self.ids

    @invariant()
    def a_slot_is_held_for_what_is_held_or_started_and_for_nothing_else(self) -> None:
        slots = self.children.hosts("held", "started")
        coming = {id: host for answer in self.answers.values() for id, host in answer.items()}
        assert sorted(self.granted) == sorted([*slots, *self.children.freed, *self._spare(coming)])
        assert slots.items() <= self.granted.items()

    @invariant()
    def a_result_stays_as_it_was_and_the_spawn_is_over_with_the_last(self) -> None:
        assert self.children.results() == [
            self.results[id] for id in self.ids if id in self.results
        ]
        assert self.children.over == (len(self.results) == len(self.ids))

    def _spare(self, coming: dict[str, str]) -> list[str]:
        """Slots that the table has not heard of yet."""
        return [id for id in coming if id in self.granted]


TestTable = Table.TestCase


def test_what_is_begun_is_not_cancelled_out_of_hand() -> None:
    children = Children([child(at) for at in range(3)])
    children.grant({"0": "a", "1": "a"})
    children.start()
    children.finish([Result("0", "failed")])
    children.lose("a", children.started("a"))
    assert [result.session_id for result in children.cancel()] == ["2"]
    assert not children.over
    children.grant({"1": "b"})
    children.start()
    children.finish([Result("1", "cancelled")])
    assert children.over


def test_a_slot_that_comes_too_late_is_free_at_once() -> None:
    children = Children([child(0)])
    children.cancel()
    children.grant({"0": "a"})
    assert children.take_freed() == ["0"]
    assert children.take_freed() == []
