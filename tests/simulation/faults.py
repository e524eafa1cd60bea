"""What can go wrong between processes: the weather, a journal that fails, a network that fails."""

from __future__ import annotations

import asyncio
import contextvars
import enum
import itertools
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TypeVar

from retinue.actors.agent.process.supervisor import AgentDied
from retinue.actors.calling import calling
from retinue.actors.domain.errors import ClusterUnavailable, RetinueError, StoreUnavailable
from retinue.actors.durable.journal import Append, Journal, Key, Loaded, Outcome, Outcomes
from tests.simulation.loop import Process

T = TypeVar("T")
P = TypeVar("P")

_PATIENCE_S = 30.0
_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


class Fate(enum.Enum):
    """What becomes of one message or one operation."""

    FINE = "fine"
    LOST = "lost"
    """It never arrives, and its sender learns only that something failed."""
    UNANSWERED = "unanswered"
    """It is carried out, and its sender learns only that something failed."""
    LATE = "late"
    """Its sender hears that it failed; some time later it is carried out all the same."""
    TWICE = "twice"
    """It is carried out twice; its sender gets one of the answers."""
    FATAL = "fatal"
    """Its sender dies while it is under way."""


_OF_CALLS = (Fate.LOST, Fate.UNANSWERED, Fate.LATE, Fate.TWICE)
_OF_JOURNALS = (*_OF_CALLS, Fate.FATAL)


class Weather:
    """Decides what goes wrong, from the randomness of the schedule. Calm weather has no faults."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._journal = rng.choice((0.0, 0.0, 0.01, 0.05))
        self._network = rng.choice((0.0, 0.02, 0.08))
        self._slow = rng.choice((0.0, 0.02, 0.1))
        self._outage = 0.0
        self._loop_time: Callable[[], float] = lambda: 0.0
        self.calm = False
        self.counts: dict[str, int] = {}

    def begin(self, time: Callable[[], float]) -> None:
        """Give it a clock."""
        self._loop_time = time

    def outage(self, seconds: float) -> None:
        """Let every operation of the journal fail for a while."""
        self._outage = self._loop_time() + seconds
        self.count("outage")

    def count(self, what: str) -> None:
        """Note a fault, for the report."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def delay(self) -> float:
        """How long something is under way, in seconds."""
        rng = self._rng
        if not self.calm and rng.random() < self._slow:
            return rng.uniform(0.02, 0.6)
        return rng.uniform(0.0, 0.002)

    def is_slow(self) -> bool:
        """Whether an answer takes its time; otherwise it is there at once."""
        return self._rng.random() < 0.5

    def of_journal(self) -> Fate:
        """The fate of one operation of the journal."""
        if not self.calm and self._loop_time() < self._outage:
            return self._fault("journal", (Fate.LOST, Fate.UNANSWERED))
        return self._fate("journal", self._journal, _OF_JOURNALS)

    def of_call(self) -> Fate:
        """The fate of one call to another actor."""
        return self._fate("call", self._network, _OF_CALLS)

    def _fate(self, what: str, odds: float, among: Sequence[Fate]) -> Fate:
        if self.calm or self._rng.random() >= odds:
            return Fate.FINE
        return self._fault(what, among)

    def _fault(self, what: str, among: Sequence[Fate]) -> Fate:
        fate = self._rng.choice(among)
        self.count(f"{what} {fate.value}")
        return fate


class FaultyJournal:
    """A `retinue.actors.durable.journal.Journal`, behind a connection that may fail.

    A real connection repeats an operation whose answer it missed; that is `Fate.TWICE`. What it
    gives up on is the StoreUnavailable of the others.
    """

    def __init__(
        self,
        stored: Journal,
        weather: Weather,
        outside: contextvars.Context,
        die: Callable[[], None],
    ) -> None:
        """``die()`` ends the process that this connection belongs to."""
        self._stored = stored
        self._weather = weather
        self._outside = outside
        self._die = die

    async def activate(self, key: Key, newest: int | None = None) -> Loaded:
        return await self.send(lambda: self._stored.activate(key, newest))

    async def read(self, key: Key) -> Loaded:
        return await self.send(lambda: self._stored.read(key))

    async def append(self, batch: Sequence[Append]) -> Outcomes:
        by_workspace: dict[str, list[Append]] = {}
        for one in batch:
            by_workspace.setdefault(one.key.workspace_id, []).append(one)
        if len(by_workspace) == 1:
            return await self.send(lambda: self._stored.append(batch))
        groups = await asyncio.gather(*map(self.append, by_workspace.values()))
        outcomes = {
            one.key: outcome
            for group, results in zip(by_workspace.values(), groups, strict=True)
            for one, outcome in zip(group, results, strict=True)
        }
        brakes = {
            workspace_id: brake for group in groups for workspace_id, brake in group.brakes.items()
        }
        return Outcomes([outcomes[one.key] for one in batch], brakes)

    async def brake(self, workspace_id: str) -> bytes:
        return await self.send(lambda: self._stored.brake(workspace_id))

    async def stop(self, workspace_id: str, why: str) -> None:
        await self._stored.stop(workspace_id, why)

    async def snapshot(self, key: Key, epoch: int, seq: int, data: bytes) -> Outcome:
        return await self.send(lambda: self._stored.snapshot(key, epoch, seq, data))

    async def messages(self, key: Key, start: int, stop: int) -> Sequence[bytes]:
        return await self.send(lambda: self._stored.messages(key, start, stop))

    async def audit(self, key: Key, start: int, stop: int) -> Sequence[bytes]:
        return await self.send(lambda: self._stored.audit(key, start, stop))

    async def send(self, operation: Callable[[], Coroutine[None, None, T]]) -> T:
        """Carry out one operation, as its fate has it."""
        weather = self._weather
        fate = weather.of_journal()
        await asyncio.sleep(weather.delay())
        if fate is Fate.LOST:
            raise StoreUnavailable("simulated: the journal was not reached")
        if fate is Fate.LATE:
            self._carry_out_later(operation)
            raise StoreUnavailable("simulated: the journal was slow")
        if fate is Fate.FATAL:
            await self._carry_out_and_die(operation)
        answer = await operation()
        if fate is Fate.TWICE:
            await asyncio.sleep(weather.delay())
            answer = await operation()
        if fate is not Fate.FINE or weather.is_slow():
            await asyncio.sleep(weather.delay())
        if fate is Fate.UNANSWERED:
            raise StoreUnavailable("simulated: the journal's answer was lost")
        return answer

    async def _carry_out_and_die(self, operation: Callable[[], Coroutine[None, None, T]]) -> None:
        """Or die before it arrives. Does not return: the dead do nothing."""
        if self._weather.is_slow():
            await operation()
        self._die()
        await asyncio.get_running_loop().create_future()

    def _carry_out_later(self, operation: Callable[[], Coroutine[None, None, T]]) -> None:
        """Also if the process that sent it is dead by then."""
        loop = asyncio.get_running_loop()

        loop.call_later(
            5 * self._weather.delay(),
            lambda: loop.create_task(operation(), context=self._outside),
            context=self._outside,
        )


class Actor:
    """An object that lives in a process and is called by name."""

    def __init__(self, name: str, process: Process, target: object) -> None:
        self.name = name
        self.process = process
        self.target = target
        self.waiting: dict[asyncio.Future[object], None] = {}


class Network:
    """Calls between actors, by name: lost, repeated, reordered, delayed, or gone to a zombie."""

    def __init__(self, rng: random.Random, weather: Weather, outside: contextvars.Context) -> None:
        self._rng = rng
        self._weather = weather
        self._outside = outside
        self.actors: dict[str, Actor] = {}
        self.former: dict[str, list[Actor]] = {}

    def add(self, actor: Actor) -> None:
        """Make an actor known under its name, in place of the one before."""
        if before := self.actors.get(actor.name):
            self.former.setdefault(actor.name, []).append(before)
        self.actors[actor.name] = actor

    def all_of(self, process: Process) -> list[Actor]:
        """The actors that live, or have lived, in a process."""
        known = [*self.actors.values(), *itertools.chain(*self.former.values())]
        return [actor for actor in known if actor.process is process]

    def remove(self, actor: Actor) -> None:
        """The actor counts as dead: those who wait for it hear so, at some time."""
        if self.actors.get(actor.name) is actor:
            del self.actors[actor.name]
            self.former.setdefault(actor.name, []).append(actor)
        waiting, actor.waiting = actor.waiting, {}
        loop = asyncio.get_running_loop()
        for reply in waiting:
            delay = 10 * self._weather.delay()
            loop.call_later(delay, _fail, reply, actor.name, context=self._outside)

    def proxy(self, port: type[P], name: str, *, patient: bool = True) -> P:
        """Calls a named actor; a patient caller repeats a call whose actor does not answer."""

        def send(method: str, /, *arguments: object) -> Awaitable[object]:
            return self._call(name, method, arguments, patient)

        return calling(port, send)

    async def _call(
        self, name: str, method: str, arguments: tuple[object, ...], patient: bool
    ) -> object:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (_PATIENCE_S if patient else 0.0)
        pause = _PAUSE_S
        while True:
            try:
                return await self._attempt(name, method, arguments)
            except ClusterUnavailable:
                if loop.time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _attempt(self, name: str, method: str, arguments: tuple[object, ...]) -> object:
        fate = self._weather.of_call()
        actor = self._route(name)
        if actor is None or not actor.process.alive or fate is Fate.LOST:
            await asyncio.sleep(self._weather.delay())
            raise ClusterUnavailable(f"simulated: {name} is not there")
        reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        actor.waiting[reply] = None
        if fate in (Fate.UNANSWERED, Fate.LATE):
            self._after(2 * self._weather.delay(), _fail, reply, name)
        slower = 5 if fate is Fate.LATE else 1
        self._deliver(actor, method, arguments, reply, slower * self._weather.delay())
        if fate is Fate.TWICE:
            self._deliver(actor, method, arguments, reply, 2 * self._weather.delay())
        return await reply

    def _route(self, name: str) -> Actor | None:
        """The actor of that name, or now and then one that was it before and is not dead yet."""
        former = self.former.get(name)
        if former and not self._weather.calm and self._rng.random() < 0.3:
            return self._rng.choice(former)
        return self.actors.get(name)

    def _deliver(
        self,
        actor: Actor,
        method: str,
        arguments: tuple[object, ...],
        reply: asyncio.Future[object],
        delay: float,
    ) -> None:
        loop = asyncio.get_running_loop()

        def arrive() -> None:
            call: Callable[..., Coroutine[None, None, object]] = getattr(actor.target, method)
            loop.create_task(call(*arguments)).add_done_callback(answer)

        def answer(task: asyncio.Task[object]) -> None:
            cancelled = ClusterUnavailable("simulated: cancelled") if task.cancelled() else None
            self._after(self._weather.delay(), settle, task, cancelled or task.exception())

        def settle(task: asyncio.Task[object], error: BaseException | None) -> None:
            actor.waiting.pop(reply, None)
            if reply.done():
                return
            if error is None:
                reply.set_result(task.result())
            else:
                reply.set_exception(error)

        loop.call_later(delay, arrive, context=actor.process.context)

    def _after(self, delay: float, callback: Callable[..., None], *arguments: object) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(delay, callback, *arguments, context=self._outside)


def _fail(reply: asyncio.Future[object], name: str) -> None:
    if not reply.done():
        reply.set_exception(ClusterUnavailable(f"simulated: {name} does not answer"))


def unexpected(error: BaseException) -> bool:
    """Whether an error is none of those that callers are told to expect."""
    return not isinstance(error, RetinueError | AgentDied | asyncio.CancelledError)
