"""Ray, applied to plain classes: the one place that makes actors and calls them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import ray
from ray import ObjectRef
from ray.actor import ActorClass, ActorHandle
from ray.exceptions import (
    GetTimeoutError,
    RayActorError,
    RayError,
    RayTaskError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from retinue.actors.calling import calling
from retinue.actors.domain.errors import ClusterUnavailable, RetinueError
from retinue.cluster.ray.tie import TIE
from retinue.cluster.settings import STORE_CPUS, ClusterSettings
from retinue.cluster.status import Node

T = TypeVar("T")
P = TypeVar("P")

_AT_ONCE_S = 20.0
_PATIENCE_S = 30.0
_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_MOST_CALLS = 100_000


def start_store(
    cls: type, name: str, settings: ClusterSettings, *arguments: object, node: str | None = None
) -> ActorHandle[object]:
    """Start a store actor unless it is there, on ``node`` if there is room.

    Ray brings it back when it dies, on another node if that one is gone.
    """
    needs = {"num_cpus": STORE_CPUS, "memory": settings.store_memory}
    where = {"scheduling_strategy": _at(node, "DEFAULT")}
    return _start(cls, name, settings.namespace, arguments, max_restarts=-1, **needs, **where)


def start_host(
    cls: type, name: str, settings: ClusterSettings, node: str | None, *arguments: object
) -> None:
    """Start a host, on ``node`` if there is room; without room anywhere it waits for some.

    A host that dies is replaced, not brought back: its sessions move.
    """
    needs = {"num_cpus": settings.host_cpus, "memory": settings.host_memory}
    where = {"scheduling_strategy": _at(node, "SPREAD")}
    _start(cls, name, settings.namespace, arguments, max_restarts=0, **needs, **where)


def ask_at_once(actor: ActorHandle[object], name: str, method: str, *arguments: object) -> object:
    """The answer of a store that was just started.

    Raises the actor's error, or ClusterUnavailable with the reason if the store did not start.
    """
    try:
        return ray.get(getattr(actor, method).remote(*arguments), timeout=_AT_ONCE_S)
    except RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, RetinueError):
            raise cause from None
        raise ClusterUnavailable(f"actor {name}: {_reason(error)}", actor=name) from error


def kill(name: str, namespace: str) -> None:
    """End an actor of ours; harmless if it is gone."""
    with contextlib.suppress(ValueError, RayError):
        ray.kill(ray.get_actor(name, namespace=namespace))


def named(namespace: str) -> list[str]:
    """The names of our actors that Ray knows."""
    found = ray.util.list_named_actors(all_namespaces=True)
    return [one["name"] for one in found if one["namespace"] == namespace]


def node() -> Node:
    """The node that this process runs on."""
    return Node(ray.get_runtime_context().get_node_id(), _address())


def was_restarted() -> bool:
    """Returns whether Ray has restarted this process's actor."""
    again: bool = ray.get_runtime_context().was_current_actor_reconstructed
    return again


def nodes() -> list[Node]:
    """The living nodes."""
    found: list[dict[str, str]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [Node(one["NodeID"], one["NodeManagerAddress"]) for one in found if one["Alive"]]


def on_nodes(
    function: Callable[..., T], arguments: tuple[object, ...], nodes: Sequence[Node], limit_s: float
) -> list[tuple[Node, T | str]]:
    """The results of ``function`` on each node; a text where it failed or took too long."""
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    answers = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(one.id, soft=False)).remote(
            *arguments
        )
        for one in nodes
    ]
    ready, _ = ray.wait(answers, num_returns=len(answers), timeout=limit_s) if answers else ([], [])
    return [
        (one, _outcome(answer) if answer in ready else f"no answer within {limit_s:g} s")
        for one, answer in zip(nodes, answers, strict=True)
    ]


def _outcome(answer: ObjectRef[T]) -> T | str:
    try:
        return ray.get(answer)
    except RayError as error:
        cause = getattr(error, "cause", None)
        return cause.message if isinstance(cause, RetinueError) else _reason(error)


def _address() -> str:
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


def processors() -> int:
    """The number of processors of the cluster, at least one."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(int(resources.get("CPU", 1)), 1)


def proxy(
    port: type[P],
    name: str,
    namespace: str,
    *,
    restarts: bool = True,
    start: Callable[[], Awaitable[None]] | None = None,
) -> P:
    """Calls a named actor as if it were local.

    The actor's errors are raised unchanged. If the actor is away, a store's call is
    repeated until it is back (every command of ours may be), for 30 s at most; a host's is not:
    its sessions have moved, and ClusterUnavailable says so at once. ``start`` starts the actor if
    it is not there, and is harmless if it is.
    """
    return calling(port, _Proxy(name, namespace, _PATIENCE_S if restarts else 0.0, start).call)


@dataclass
class _Proxy:
    name: str
    namespace: str
    patience_s: float
    start: Callable[[], Awaitable[None]] | None
    handle: ActorHandle[object] | None = None
    joined: int = 0

    async def call(self, method: str, /, *arguments: object) -> object:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience_s
        pause = _PAUSE_S
        while True:
            TIE.require()
            try:
                handle = await self._find()
                return await TIE.answer(getattr(handle, method).remote(*arguments))
            except RayTaskError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, RetinueError):
                    raise cause from None
                raise
            except (
                RayError,
                ValueError,
            ) as error:  # it died, of too little memory also, or is away
                self.handle = None
                TIE.require()
                if loop.time() + pause > deadline:
                    raise ClusterUnavailable(
                        f"actor {self.name} does not answer: {_reason(error)}",
                        actor=self.name,
                    ) from error
            if self.start is not None:
                await self.start()
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def _find(self) -> ActorHandle[object]:
        """Looks the actor up in a thread: while Ray's head is away, only the look-up waits."""
        handle = self.handle
        if handle is None or self.joined != TIE.joined:
            joined = TIE.joined
            look_up = functools.partial(ray.get_actor, self.name, namespace=self.namespace)
            handle = cast("ActorHandle[object]", await TIE.find(look_up))
            self.handle, self.joined = handle, joined
        return handle


def _at(node: str | None, otherwise: str) -> object:
    if node is None:
        return otherwise
    return NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)


def _start(
    cls: type, name: str, namespace: str, arguments: tuple[object, ...], **options: object
) -> ActorHandle[object]:
    given = {name: value for name, value in options.items() if name != "memory" or value}
    decorate = cast("Callable[..., Callable[[type], ActorClass[object]]]", ray.remote)
    actor = decorate(**given)(cls)
    handle = actor.options(
        name=name,
        namespace=namespace,
        lifetime="detached",
        get_if_exists=True,
        max_concurrency=_MOST_CALLS,
    ).remote(*arguments)
    return cast("ActorHandle[object]", handle)


def _reason(error: BaseException) -> str:
    """The constructor's error, if that was the cause, else Ray's message, in one line."""
    if isinstance(error, GetTimeoutError):
        return f"no answer within {_AT_ONCE_S:g} s: has the cluster room for another actor?"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, RayTaskError):
        return lines[-1]
    if isinstance(error, RayActorError) and error.actor_init_failed:
        return f"it can't start at its node: {lines[-1]}"
    return lines[0]
