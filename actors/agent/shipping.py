"""Agents on their way to a worker: the one place that pickles and unpickles.

An agent's own module travels by value unless it is installed, so that a script or a notebook works
on every worker. Other modules it imports must be importable there; the sender's import path goes
along for workers that share its disk.

Agents are kept, and outlive the layout of this code: a pickle names public objects of Retinue by
their public names alone, and modules that it names are looked up in `MOVED`.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import pickle
import sys
import sysconfig
import weakref
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TypeAlias, cast

import cloudpickle
import msgspec

from retinue.actors.agent.calls import Shipped
from retinue.actors.agent.versions import PYTHON, installed
from retinue.actors.domain.errors import InvalidAgent

Agent: TypeAlias = Callable[..., Awaitable[object]]
"""Any async callable; `retinue.actors.agent.turn.AgentFunction` has its parameters."""

_INSTALLED = tuple(
    str(Path(sysconfig.get_path(name)).resolve())
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


_FRONT_DOOR = "retinue"
"""The package of the public names; those of the client are imported on demand."""

MOVED: Mapping[str, str] = {
    "retinue.actors.domain.budget": "retinue.actors.domain.budget.machine",
    "retinue.actors.domain.budget:Cap": "retinue.actors.domain.budget.state:Cap",
    "retinue.actors.domain.budget:CapWarning": "retinue.actors.domain.budget.commands:CapWarning",
    "retinue.actors.domain.budget:Exceeded": "retinue.actors.domain.budget.commands:Exceeded",
    "retinue.actors.domain.budget:Hold": "retinue.actors.domain.budget.state:Hold",
    "retinue.actors.domain.budget:Level": "retinue.actors.domain.budget.totals:Level",
}
"""The present place of each module, or name in one (``module:name``), that old pickles may name."""
BEFORE: Mapping[str, str] = {
    "actors": "retinue",
    "actors.agents": "retinue.actors.agent.shipping",
    "actors.calls": "retinue.actors.agent.calls",
    "actors.domain.actions": "retinue.actors.domain.permissions.actions",
    "actors.domain.allowance": "retinue.actors.domain.permissions.allowances.allowance",
    "actors.domain.allowances": "retinue.actors.domain.permissions.allowances.machine",
    "actors.domain.boundary": "retinue.actors.domain.permissions.boundary",
    "actors.domain.boundary:Mode": "retinue.actors.domain.permissions.boundary:BoundaryMode",
    "actors.domain.budget": "retinue.actors.domain.budget.machine",
    "actors.domain.budget:Cap": "retinue.actors.domain.budget.state:Cap",
    "actors.domain.budget:Exceeded": "retinue.actors.domain.budget.commands:Exceeded",
    "actors.domain.budget:Granted": "retinue.actors.domain.budget.commands:LeaseGranted",
    "actors.domain.budget:Hold": "retinue.actors.domain.budget.state:Hold",
    "actors.domain.budget:Level": "retinue.actors.domain.budget.totals:Level",
    "actors.domain.budget:Want": "retinue.actors.domain.budget.commands:LeaseRequest",
    "actors.domain.budget:Warning": "retinue.actors.domain.budget.commands:CapWarning",
    "actors.domain.decision": "retinue.actors.domain.permissions.decision",
    "actors.domain.errors": "retinue.actors.domain.errors",
    "actors.domain.errors:TroupeError": "retinue.actors.domain.errors:RetinueError",
    "actors.domain.ids": "retinue.actors.domain.values.ids",
    "actors.domain.json_value": "retinue.actors.domain.values.json_value",
    "actors.domain.messages": "retinue.actors.domain.session.messages",
    "actors.domain.money": "retinue.actors.domain.values.money",
    "actors.domain.patterns": "retinue.actors.domain.permissions.patterns",
    "actors.domain.policy": "retinue.actors.domain.permissions.policy",
    "actors.domain.result": "retinue.actors.domain.session.result",
    "actors.domain.settings": "retinue.actors.domain.session.settings",
    "actors.ports": "retinue.actors.ports",
    "actors.ports:FeedEvent": "retinue.actors.views:FeedEvent",
    "actors.ports:Place": "retinue.actors.views:SessionKey",
    "actors.ports:SessionPage": "retinue.actors.views:SessionPage",
    "actors.ports:SessionQuery": "retinue.actors.views:SessionQuery",
    "actors.ports:SessionSummary": "retinue.actors.views:SessionSummary",
    "actors.ports:SessionView": "retinue.actors.views:SessionView",
    "actors.ports:Slot": "retinue.actors.ports:HostName",
    "actors.ports:WorkspaceSettings": "retinue.actors.views:WorkspaceSettings",
    "actors.turn": "retinue.actors.agent.turn",
    "cluster": "retinue",
    "cluster.client": "retinue.cluster.client.client",
    "cluster.client:Troupe": "retinue.cluster.client.client:Retinue",
    "cluster.handles:Answer": "retinue.cluster.client.inbox:Answer",
    "cluster.handles:ApprovalHandler": "retinue.cluster.client.inbox:ApprovalHandler",
    "cluster.handles:ApprovalScope": "retinue.cluster.client.inbox:ApprovalScope",
    "cluster.handles:BudgetStatus": "retinue.cluster.client.budgets:BudgetStatus",
    "cluster.handles:InboxRequest": "retinue.cluster.client.inbox:InboxRequest",
    "cluster.handles:Session": "retinue.cluster.client.session:Session",
    "cluster.handles:Workspace": "retinue.cluster.client.workspace:Workspace",
    "cluster.handles:cap_of": "retinue.cluster.client.budgets:cap_of",
    "cluster.handles:cap_text": "retinue.cluster.client.budgets:cap_text",
    "cluster.tree": "retinue.cluster.client.tree",
}
"""As `MOVED`, for pickles made before `retinue`; others use these names for modules of theirs."""
_WAY_OUT = "submit it again from what the worker runs, or run the same versions on both sides"


class Parcel(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pickled agent as it is stored, with the versions that it was made with."""

    python: str
    paths: list[str]
    pickle: bytes
    cloudpickle: str = ""
    troupe: str = ""  # version, in parcels made under the former name
    retinue: str = ""


_shipped: weakref.WeakKeyDictionary[object, Shipped] = weakref.WeakKeyDictionary()


def ship(agent: Agent) -> Shipped:
    """The agent as bytes. Raises InvalidAgent if it is no async callable or does not pickle.

    The globals of a function in an uninstalled module are those of the first time it is shipped.
    """
    if not inspect.isfunction(agent) or agent.__closure__ is not None:
        return _ship(agent)  # it holds values that may have changed since the last time
    shipped = _shipped.get(agent)
    if shipped is None:
        shipped = _shipped[agent] = _ship(agent)
    return shipped


def unship(blob: bytes) -> Agent:
    """The agent in ``blob``, whose seal the caller has checked.

    Raises InvalidAgent if it comes from another Python, or from a cloudpickle of another major
    version, which is not even opened; or if it does not open here.
    """
    parcel = msgspec.msgpack.decode(blob, type=Parcel)
    if parcel.python != PYTHON:
        raise _foreign("Python", parcel.python, PYTHON)
    ours = cloudpickle.__version__
    if parcel.cloudpickle and _major(parcel.cloudpickle) != _major(ours):
        raise _foreign("cloudpickle", parcel.cloudpickle, ours)
    for path in parcel.paths:
        if path not in sys.path and Path(path).is_dir():
            sys.path.append(path)
    try:
        moved = MOVED if parcel.retinue else {**BEFORE, **MOVED}
        agent = _Unpickler(io.BytesIO(parcel.pickle), moved).load()
    except Exception as error:
        raise InvalidAgent(
            f"the agent can't be opened at the worker: {type(error).__name__}: {error}; "
            f"what it imports must be installed there{_unlike(parcel)}"
        ) from error
    return cast(Agent, agent)


def name_of(agent: Agent) -> str:
    """A name for people."""
    plain = agent.func if isinstance(agent, functools.partial) else agent
    return getattr(plain, "__name__", type(plain).__name__)


def _ship(agent: Agent) -> Shipped:
    _require_async(agent)
    paths = [path for path in sys.path if path and not _installed(path) and Path(path).is_dir()]
    versions = {"cloudpickle": cloudpickle.__version__, "retinue": installed("retinue")}
    parcel = Parcel(PYTHON, paths, _pickled(agent), **versions)
    blob = msgspec.msgpack.encode(parcel)
    return Shipped(hashlib.sha256(blob).hexdigest(), name_of(agent), blob)


def _foreign(what: str, sender: str, worker: str) -> InvalidAgent:
    return InvalidAgent(
        f"the agent was pickled by {what} {sender} and this worker runs {worker}: {_WAY_OUT}",
        sender=sender,
        worker=worker,
    )


def _unlike(parcel: Parcel) -> str:
    """Other possible reasons why a parcel does not open: versions that differ from those here."""
    pairs = (
        ("cloudpickle", parcel.cloudpickle, cloudpickle.__version__),
        ("Retinue", parcel.retinue, installed("retinue")),
    )
    unlike = [
        f"{what} {theirs} (here {ours})" for what, theirs, ours in pairs if theirs not in ("", ours)
    ]
    return f"; it was made with {' and '.join(unlike)}: {_WAY_OUT}" if unlike else ""


def _major(version: str) -> str:
    return version.partition(".")[0]


def _require_async(agent: object) -> None:
    plain = agent.func if isinstance(agent, functools.partial) else agent
    if not callable(plain):
        raise InvalidAgent(f"agent: {plain!r} is not callable; give an async function")
    call = plain if inspect.isfunction(plain) or inspect.ismethod(plain) else type(plain).__call__
    if not inspect.iscoroutinefunction(call):
        raise InvalidAgent(
            f"agent: {getattr(plain, '__name__', plain)!s} is not async; write `async def`"
        )


def _pickled(agent: Agent) -> bytes:
    plain = agent.func if isinstance(agent, functools.partial) else agent
    module = sys.modules.get(getattr(plain, "__module__", None) or type(plain).__module__)
    try:
        if module is None or module.__name__ == "__main__" or _is_installed(module):
            return _dumps(agent)
        cloudpickle.register_pickle_by_value(module)
        try:
            return _dumps(agent)
        finally:
            cloudpickle.unregister_pickle_by_value(module)
    except Exception as error:
        raise InvalidAgent(
            f"agent: {name_of(agent)} does not pickle: {type(error).__name__}: {error}; "
            "define it in a module of its own, without open files, locks or clients in globals"
        ) from error


def _dumps(agent: Agent) -> bytes:
    with io.BytesIO() as file:
        _Pickler(file).dump(agent)
        return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it says nothing about its types
    """Pickles public names of Retinue by those names, and everything else as cloudpickle does."""

    def persistent_id(self, value: object) -> str | None:
        if isinstance(value, type | FunctionType) and _of_ours(value):
            return value.__name__ if _public(value.__name__) is value else None
        return None


class _Unpickler(pickle.Unpickler):
    """Reads pickles written by `_Pickler`, and those written before modules moved."""

    def __init__(self, file: io.BytesIO, moved: Mapping[str, str]) -> None:
        super().__init__(file)
        self._moved = moved

    def persistent_load(self, name: str) -> object:
        found = _public(name)
        if found is None:
            raise pickle.UnpicklingError(f"there is no public {name} in this version")
        return found

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == (cloudpickle.cloudpickle.subimport.__module__, "subimport"):
            return self._import
        found = self._moved.get(f"{module}:{name}") or f"{self._moved.get(module, module)}:{name}"
        return super().find_class(found.partition(":")[0], found.partition(":")[2])

    def _import(self, module: str) -> ModuleType:
        return import_module(self._moved.get(module, module))


def _public(name: str) -> object:
    door = import_module(_FRONT_DOOR)
    return getattr(door, name) if name in door.__all__ else None


def _of_ours(value: type | FunctionType) -> bool:
    return str(value.__module__).partition(".")[0] == _FRONT_DOOR


def _is_installed(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is None or _installed(file)


def _installed(path: str) -> bool:
    return str(Path(path).resolve()).startswith(_INSTALLED) or path.endswith(".zip")
