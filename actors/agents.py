"""Agents on their way to a worker: the one place that pickles and unpickles.

An agent's own module travels by value unless it is installed, so that a script or a notebook works
on every worker. Other modules it imports must be importable there; the sender's import path goes
along for workers that share its disk.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import pickle
import sys
import sysconfig
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias, cast

import cloudpickle
import msgspec

from actors.calls import Shipped
from actors.domain.errors import InvalidAgent

if TYPE_CHECKING:
    from actors.turn import Turn

AgentFunction: TypeAlias = "Callable[[Turn, str], Awaitable[object]]"
"""An agent: an async callable of (turn, prompt) that returns text, None or a JSON value."""

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_INSTALLED = tuple(
    str(Path(path).resolve())
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_path(name))
)


class _Parcel(msgspec.Struct, frozen=True):
    python: str
    paths: list[str]
    pickle: bytes


_shipped: weakref.WeakKeyDictionary[object, Shipped] = weakref.WeakKeyDictionary()


def ship(agent: AgentFunction) -> Shipped:
    """The agent as bytes. Raises InvalidAgent if it is no async callable or does not pickle.

    The globals of a function in an uninstalled module are those of the first time it is shipped.
    """
    if not inspect.isfunction(agent) or agent.__closure__ is not None:
        return _ship(agent)  # it holds values that may have changed since the last time
    shipped = _shipped.get(agent)
    if shipped is None:
        shipped = _shipped[agent] = _ship(agent)
    return shipped


def unship(blob: bytes) -> AgentFunction:
    """The agent in ``blob``, whose seal the caller has checked.

    Raises InvalidAgent if it comes from another Python version, or does not open here.
    """
    parcel = msgspec.msgpack.decode(blob, type=_Parcel)
    if parcel.python != _PYTHON:
        raise InvalidAgent(
            f"the agent was pickled by Python {parcel.python} and this worker runs {_PYTHON}: "
            "run client and workers on the same version",
            sender=parcel.python,
            worker=_PYTHON,
        )
    for path in parcel.paths:
        if path not in sys.path and Path(path).is_dir():
            sys.path.append(path)
    try:
        agent = pickle.loads(parcel.pickle)
    except Exception as error:
        raise InvalidAgent(
            f"the agent can't be opened at the worker: {type(error).__name__}: {error}; "
            "what it imports must be installed there"
        ) from error
    return cast(AgentFunction, agent)


def name_of(agent: AgentFunction) -> str:
    """A name for people."""
    plain = agent.func if isinstance(agent, functools.partial) else agent
    return getattr(plain, "__name__", type(plain).__name__)


def _ship(agent: AgentFunction) -> Shipped:
    _require_async(agent)
    paths = [path for path in sys.path if path and not _installed(path) and Path(path).is_dir()]
    parcel = _Parcel(_PYTHON, paths, _pickled(agent))
    blob = msgspec.msgpack.encode(parcel)
    return Shipped(hashlib.sha256(blob).hexdigest(), name_of(agent), blob)


def _require_async(agent: object) -> None:
    plain = agent.func if isinstance(agent, functools.partial) else agent
    if not callable(plain):
        raise InvalidAgent(f"agent: {plain!r} is not callable; give an async function")
    call = plain if inspect.isfunction(plain) or inspect.ismethod(plain) else type(plain).__call__
    if not inspect.iscoroutinefunction(call):
        raise InvalidAgent(
            f"agent: {getattr(plain, '__name__', plain)!s} is not async; write `async def`"
        )


def _pickled(agent: AgentFunction) -> bytes:
    plain = agent.func if isinstance(agent, functools.partial) else agent
    module = sys.modules.get(getattr(plain, "__module__", None) or type(plain).__module__)
    try:
        if module is None or module.__name__ == "__main__" or _is_installed(module):
            return cast(bytes, cloudpickle.dumps(agent))
        cloudpickle.register_pickle_by_value(module)
        try:
            return cast(bytes, cloudpickle.dumps(agent))
        finally:
            cloudpickle.unregister_pickle_by_value(module)
    except Exception as error:
        raise InvalidAgent(
            f"agent: {name_of(agent)} does not pickle: {type(error).__name__}: {error}; "
            "define it in a module of its own, without open files, locks or clients in globals"
        ) from error


def _is_installed(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is None or _installed(file)


def _installed(path: str) -> bool:
    return str(Path(path).resolve()).startswith(_INSTALLED) or path.endswith(".zip")
