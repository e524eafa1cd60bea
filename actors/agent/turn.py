"""What agent code sees: a turn of its session.

Everything that a turn does through this object is journaled before it returns. When a turn is
resumed after a crash the agent is called again, and what had been done is not done again: it
returns what it returned before.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeAlias, TypeVar, cast, overload

import msgspec

from retinue.actors.agent import calls
from retinue.actors.agent.shipping import name_of, ship
from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.permissions.actions import Action
from retinue.actors.domain.permissions.decision import Decision, NotAuthorized
from retinue.actors.domain.session.messages import Message
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.settings import DEFAULT_TIMEOUT_S, Isolation
from retinue.actors.domain.values.money import Usd, to_nano

T = TypeVar("T")

AgentFunction: TypeAlias = "Callable[[Turn, str], Awaitable[object]]"
"""An agent: an async callable of (turn, prompt) that returns text, None or a JSON value."""

APPROVAL_TIMEOUT_S = 300.0
"""How long an action waits for a person, in seconds, before it is deferred."""

_LABEL_LENGTH = 80


class Task:
    """A piece of work for a sub-agent."""

    __slots__ = ("agent", "spec")

    def __init__(
        self,
        agent: AgentFunction,
        prompt: str = "",
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        allotment_usd: Usd | None = None,
        capabilities: Sequence[str] | None = None,
        model: str | None = None,
        isolation: Isolation | None = None,
        label: str | None = None,
    ) -> None:
        """Describes work for one sub-agent.

        Args:
            agent: An async callable of (turn, prompt).
            prompt: What it is called with; empty by default.
            timeout: How long it may run, in seconds (default: 300).
            allotment_usd: Caps it and all below it, in USD (default: the session budget alone
                does).
            capabilities: The ids of the only tokens that it may use (default: the parent's).
            model: The name of the model to use (default: none is named).
            isolation: ``process`` or ``shared`` (default: the parent's).
            label: What trees show, cut at 80 characters (default: the agent's name and the prompt).

        Raises InvalidValue or InvalidAgent, naming what is wrong.
        """
        _require(isinstance(prompt, str), "prompt", "must be a str")
        _require(isinstance(timeout, int | float) and timeout > 0, "timeout", "must be over 0 s")
        _require(isolation in (None, "process", "shared"), "isolation", "is process or shared")
        self.agent: AgentFunction = agent
        self.spec: calls.TaskSpec = calls.TaskSpec(
            agent=ship(agent),
            prompt=prompt,
            timeout=int(timeout * 1_000_000),
            label=(label or f"{name_of(agent)} {prompt}").strip()[:_LABEL_LENGTH],
            allotment=None if allotment_usd is None else to_nano(allotment_usd, "allotment_usd"),
            capabilities=None if capabilities is None else list(capabilities),
            model=model,
            isolation=isolation,
        )


class Engine(Protocol):
    """Carries calls to the session's actor; ``branch`` tells the turn's parallel tasks apart."""

    async def handle(self, branch: int, call: calls.Call) -> calls.Answer: ...


class Permit:
    """Leave to act, from ``turn.authorized``."""

    def __init__(self, decision: Decision) -> None:
        """Wraps the ``decision`` that gave leave."""
        self.decision = decision
        self.actual: int | None = None

    def settle(self, actual_usd: Usd) -> None:
        """Says what the action really cost; that is charged when the block ends.

        Without this the reservation is the cost.

        Args:
            actual_usd: The cost in USD. Less than reserved gives the rest back; more is charged in
                full, even past a cap, since the money is gone.

        Raises InvalidValue for a cost of an action that was authorised as free.
        """
        actual = to_nano(actual_usd, "actual_usd")
        free = self.decision.amount == 0
        _require(not (free and actual), "actual_usd", "nothing was reserved: give cost_usd before")
        self.actual = actual


class Turn:
    """The turn of one run of a session; made in the task that runs the agent."""

    def __init__(self, engine: Engine, info: calls.TurnInfo) -> None:
        self._engine = engine
        self._info = info
        self._branches: weakref.WeakKeyDictionary[asyncio.Task[object], int] = (
            weakref.WeakKeyDictionary()
        )
        self._next_branch = 0
        self._branch()

    @property
    def session_id(self) -> str:
        """The id of this session."""
        return self._info.session_id

    @property
    def run_id(self) -> str:
        """The id of this run."""
        return self._info.run_id

    @property
    def family_id(self) -> str:
        """The id of the tree's root session."""
        return self._info.family_id

    @property
    def parent_id(self) -> str | None:
        """The id of the session that spawned this one; None in a root session."""
        return self._info.parent_id

    @property
    def user_id(self) -> str:
        """The user whose tokens this session may use."""
        return self._info.user_id

    @property
    def depth(self) -> int:
        """0 in a root session."""
        return self._info.depth

    @property
    def workspace(self) -> str | None:
        """The workspace's path."""
        return self._info.workspace

    @property
    def system_prompt(self) -> str:
        """The session's system prompt; empty if it has none."""
        return self._info.system_prompt

    @property
    def model(self) -> str | None:
        """The name of the model that was asked for; None if nobody did."""
        return self._info.model

    async def authorize(
        self,
        action: Action,
        *,
        cost_usd: Usd = 0,
        context: str = "",
        timeout: float = APPROVAL_TIMEOUT_S,
    ) -> Decision:
        """Asks whether ``action`` is allowed, and reserves what it may cost.

        The answer is a value, also when it is no. What is reserved stays so until `settle` or
        `release`, and is charged in full when the run ends.

        Args:
            action: What is about to be done; exactly this.
            cost_usd: The most that it may cost, in USD (default: it is free).
            context: Why, for the person who is asked; empty by default.
            timeout: How long to wait for a person where one is needed, in seconds (default: 300).
                After that the decision is ``deferred``.

        Raises InvalidValue, naming the field, for an amount that is none.
        """
        cost = to_nano(cost_usd, "cost_usd")
        call = calls.Authorize(action, cost, context, int(timeout * 1_000_000))
        answer = await self._call(call)
        return cast(calls.Decided, answer).decision

    @asynccontextmanager
    async def authorized(
        self,
        action: Action,
        *,
        cost_usd: Usd = 0,
        context: str = "",
        timeout: float = APPROVAL_TIMEOUT_S,
    ) -> AsyncIterator[Permit]:
        """Opens a block that runs only if ``action`` is allowed.

        At its end the cost is settled; an exception before `Permit.settle` releases it.

        Args:
            action: What is about to be done; exactly this.
            cost_usd: The most that it may cost, in USD (default: it is free).
            context: Why, for the person who is asked; empty by default.
            timeout: How long to wait for a person where one is needed, in seconds (default: 300).

        Raises NotAuthorized, with the decision, if it is not allowed; InvalidValue for an amount
        that is none.
        """
        decision = await self.authorize(action, cost_usd=cost_usd, context=context, timeout=timeout)
        if not decision.allowed:
            what = f"{action.describe()}: {decision.kind}: {decision.reason}"
            raise NotAuthorized(what, decision)
        permit = Permit(decision)
        try:
            yield permit
        except BaseException:
            if decision.amount:
                await self._call(calls.Settle(decision.operation, permit.actual or 0))
            raise
        if decision.amount:
            await self._call(calls.Settle(decision.operation, permit.actual))

    async def settle(self, decision: Decision, actual_usd: Usd | None = None) -> None:
        """Charges what an authorised action cost.

        Args:
            decision: What `authorize` returned for it.
            actual_usd: What it cost, in USD (default: all that was reserved).

        Raises InvalidValue for a cost of an action that was authorised as free.
        """
        actual = None if actual_usd is None else to_nano(actual_usd, "actual_usd")
        free = decision.amount == 0
        _require(not (free and actual), "actual_usd", "nothing was reserved: give cost_usd before")
        await self._call(calls.Settle(decision.operation, actual))

    async def release(self, decision: Decision) -> None:
        """Gives back all that was reserved for ``decision``: the action was not taken."""
        await self._call(calls.Settle(decision.operation, 0))

    async def add_message(self, message: Message) -> None:
        """Appends ``message`` to the session's history; durable when it returns."""
        _require(isinstance(message, Message), "message", "must be a Message")
        await self._call(calls.AddMessage(message))

    async def messages(self, last: int | None = None) -> list[Message]:
        """Returns the ``last`` messages of the history (default: all), oldest first."""
        answer = await self._call(calls.LastMessages(last))
        return cast(calls.Messages, answer).messages

    async def clear_messages(self) -> None:
        """Forgets the history; the system prompt stays."""
        await self._call(calls.ClearMessages())

    @overload
    async def step(
        self, name: str, function: Callable[[], Awaitable[T]], *, idempotent: bool = True
    ) -> T: ...

    @overload
    async def step(self, name: str, function: Callable[[], T], *, idempotent: bool = True) -> T: ...

    async def step(
        self,
        name: str,
        function: Callable[[], T | Awaitable[T]],
        *,
        idempotent: bool = True,
    ) -> T:
        """Calls ``function`` once in this turn, and journals its result.

        A resumed turn gets the recorded result.

        Args:
            name: What the step is called in errors and traces, and what a resumed turn knows it by.
            function: What is done, sync or async. Its result must be made of what MessagePack holds
                (None, bool, int, float, str, bytes, list, dict); tuples come back as lists.
            idempotent: Whether it may run again if the process died while it ran (default). If not,
                StepInterrupted is raised then, and the agent decides.

        Raises InvalidValue for a result that can't be journaled; what ``function`` raises as it is.
        """
        state = cast(calls.StepState, await self._call(calls.BeginStep(name, idempotent)))
        payload = state.payload
        if payload is None:
            value = function()
            if inspect.isawaitable(value):
                value = await value
            payload = _encoded(name, value)
            await self._call(calls.EndStep(name, state.key, payload))
        return cast(T, msgspec.msgpack.decode(payload))

    async def spawn(
        self,
        tasks: Sequence[Task],
        *,
        max_concurrent: int | None = None,
        fail_fast: bool = False,
        queue: bool = True,
        near: bool = True,
    ) -> list[Result]:
        """Runs sub-agents in parallel; their results are in the order of the tasks.

        One that fails, times out or meets a cap is a result, not an exception.

        Args:
            tasks: What to run.
            max_concurrent: How many of the family may run at once (default: the family's limit).
            fail_fast: Whether the first failure cancels the rest.
            queue: Whether tasks wait for room (default). If not, a spawn that does not fit at once
                raises LimitReached.
            near: Whether they run on this node, where the session's data is, until others have much
                less to do (default). If not, all nodes are alike.

        Raises LimitReached, naming the limit, if the family may have no such sub-agents; then none
        was started. InvalidValue for a task or a number that is none.
        """
        for at, task in enumerate(tasks):
            _require(isinstance(task, Task), f"tasks[{at}]", "must be a Task")
        _require(
            max_concurrent is None or (isinstance(max_concurrent, int) and max_concurrent > 0),
            "max_concurrent",
            "must be 1 or more",
        )
        if not tasks:
            return []
        specs = [task.spec for task in tasks]
        answer = await self._call(calls.Spawn(specs, max_concurrent, fail_fast, queue, near))
        return cast(calls.Results, answer).results

    async def describe(
        self,
        *,
        title: str | None = None,
        tags: Sequence[str] | None = None,
        custom: dict[str, str] | None = None,
    ) -> None:
        """Sets what is given of the session's ``title``, ``tags`` and ``custom`` metadata.

        What is None stays as it is. Raises InvalidValue for text that is too long.
        """
        await self._call(calls.Describe(title, None if tags is None else list(tags), custom))

    async def _call(self, call: calls.Call) -> calls.Answer:
        return await self._engine.handle(self._branch(), call)

    def _branch(self) -> int:
        task = asyncio.current_task()
        if task is None:
            raise InvalidValue("a turn is used inside a task only")
        known = self._branches.get(task)
        if known is None:
            known = self._branches[task] = self._next_branch
            self._next_branch += 1
        return known


def _encoded(name: str, value: object) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidValue(
            f"step {name!r}: its result ({type(value).__name__}) can't be journaled: {error}"
        ) from error


def _require(condition: bool, field: str, problem: str) -> None:
    if not condition:
        raise InvalidValue(f"{field}: {problem}", field=field)
