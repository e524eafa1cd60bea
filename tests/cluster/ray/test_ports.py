"""Clients and actors agree: what is called has the signature that the protocol says."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields
from types import FunctionType
from typing import Protocol, cast, get_type_hints

import pytest

from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.memory_journal import MemoryJournal
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import HostPort, Registry, Stores
from retinue.actors.stores.table import MACHINES, STORES, THE_CLUSTER, P, StoreSpec, handles
from retinue.cluster.directory.audit_log import chains
from retinue.cluster.directory.hosts import HostControl
from retinue.cluster.directory.port import ClusterDirectoryPort
from retinue.cluster.names import workspace_of
from retinue.cluster.ray import roles

CALLED: list[tuple[type, object]] = [
    (HostPort, roles.SessionActor),
    (HostControl, roles.SessionActor),
    (ClusterDirectoryPort, roles.DirectoryActor),
    *((spec.port, roles.STORE_CLASSES[spec.name]) for spec in STORES),
]


@pytest.mark.parametrize(("port", "actor"), CALLED, ids=lambda one: one.__name__)
def test_an_actor_does_what_its_protocol_says(port: type, actor: object) -> None:
    assert list(disagreements(port, actor)) == []
    assert methods(port)


def test_a_disagreement_is_told() -> None:
    class Port(Protocol):
        async def kept(self, count: int) -> str: ...
        async def missing(self) -> None: ...
        async def blocks(self) -> None: ...
        async def longer(self, count: int) -> None: ...
        async def other(self, count: int) -> None: ...
        async def answers(self) -> int: ...

    class Actor:
        async def kept(self, count: int) -> str:
            return ""

        def blocks(self) -> None: ...
        async def longer(self, count: int, more: int) -> None: ...
        async def other(self, count: str) -> None: ...
        async def answers(self) -> str:
            return ""

    assert list(disagreements(Port, Actor)) == ["answers", "blocks", "longer", "missing", "other"]


# --- the table of stores -------------------------------------------------------------------------


def test_every_store_has_a_handle_of_its_kind() -> None:
    found: list[StoreSpec[object]] = []

    def find(spec: StoreSpec[P]) -> P:
        found.append(spec)
        return spec  # type: ignore[return-value]

    stores, hints = handles(find), get_type_hints(Stores)
    assert tuple(found) == STORES
    assert {hints[one.name]: getattr(stores, one.name) for one in fields(Stores)} == {
        spec.port: spec for spec in STORES
    }


@pytest.mark.parametrize("spec", STORES, ids=lambda spec: spec.name)
def test_a_store_is_started_called_and_told_idle_by_its_name(spec: StoreSpec[object]) -> None:
    name = spec.actor_name("some")
    assert workspace_of(name) == (None if spec.shared else "some")
    assert spec.owner("some") == (THE_CLUSTER if spec.shared else "some")
    made = roles.STORE_CLASSES[spec.name]
    assert hasattr(made, "idle_for") is not spec.shared
    assert pickle.loads(pickle.dumps(made)) is made  # nodes find it by its name


async def test_everything_a_store_keeps_is_audited() -> None:
    runtime = Runtime(MemoryJournal(), cast(Registry, None), Keyring(bytes(32)))
    audited = [chain.key for chain in await chains(runtime, "some")]
    assert audited == [key for spec in STORES for key in spec.keys("some")]
    assert {key.kind for key in audited} == MACHINES.keys() - {"session"}


# --- how it is found -----------------------------------------------------------------------------


def methods(port: type) -> list[str]:
    """The methods that a protocol has, its own and those it inherits."""
    return [
        name
        for name in dir(port)
        if isinstance(getattr(port, name), FunctionType) and not name.startswith("_")
    ]


def disagreements(port: type, actor: object) -> Iterator[str]:
    """The methods of a protocol that an actor does not have, or has otherwise."""
    for name in methods(port):
        own = getattr(actor, name, None)
        if not inspect.iscoroutinefunction(own) or _shape(own) != _shape(getattr(port, name)):
            yield name


def _shape(method: Callable[..., object]) -> object:
    hints = get_type_hints(method)
    parameters = inspect.signature(method).parameters.values()
    return [(one.name, one.kind, hints.get(one.name)) for one in parameters], hints["return"]
