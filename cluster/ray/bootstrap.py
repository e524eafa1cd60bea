"""Joins a cluster, or brings up one of its own: Ray, Redis, and the directory in front."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from retinue.actors.domain.errors import InvalidValue, RetinueError
from retinue.cluster.local.reaper import Reaper, mark_process
from retinue.cluster.local.running import Part, part
from retinue.cluster.local.state import ensure_key, state_directory
from retinue.cluster.names import DIRECTORY
from retinue.cluster.ray import actors as remote
from retinue.cluster.ray import head, private, roles, tokens
from retinue.cluster.ray.tie import TIE
from retinue.cluster.redis import watermarks
from retinue.cluster.redis.connection import Connection
from retinue.cluster.redis.deployment import FORMS, SCHEMES
from retinue.cluster.redis.server import EmbeddedRedis
from retinue.cluster.settings import DEFAULT_NAMESPACE, ClusterSettings, DiskWait

_RAY_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # an actor for each store is the design, not a mistake to warn of
    "RAY_worker_maximum_startup_concurrency": "64",
}
_OBJECT_STORE_BYTES = 100 * 1024 * 1024  # our actors exchange small messages, not arrays


_HEADS_PATIENCE_S = 2.0


class Connected:
    """This process's membership in a cluster, until `close`."""

    def __init__(
        self,
        settings: ClusterSettings,
        owns_ray: bool,
        reaper: Reaper | EmbeddedRedis | None = None,
    ) -> None:
        self.settings = settings
        self._owns_ray = owns_ray
        self._reaper = reaper

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster, and take down everything brought up for this client."""
        leave = self._owns_ray and TIE.loosen()
        if self._reaper:
            with contextlib.suppress(RetinueError, OSError):
                _apart(_on_heads(self.settings.redis_url, self.settings.namespace, watermarks.note))
            self._reaper.stop()  # first: it ends hosts before agents, and Ray would not
        if leave:
            ray.shutdown()


def join(
    address: str,
    settings: ClusterSettings,
    *,
    durable: bool | None = None,
    look: Callable[[], str | None] | None = None,
) -> Connected:
    """Join an existing Ray cluster; raises ClusterUnavailable with the reason if that fails.

    With ``durable`` (as for `check_redis`) raises StoreUnavailable, naming the node, if Redis does
    not suffice for the cluster, or can't be reached from there. ``look`` returns, without Ray, the
    reason the cluster is lost, or None (`retinue.cluster.ray.tie`).
    """
    owns = _init(address)
    try:
        directory = _start_directory(settings)
        if durable is not None:
            remote.ask_at_once(directory, DIRECTORY, "require_redis", durable)
        if owns and look is not None:
            TIE.fasten(look, ray.shutdown)
    except BaseException:
        if owns:
            ray.shutdown()
        raise
    return Connected(settings, owns)


def bring_up(
    redis_url: str | None,
    namespace: str = DEFAULT_NAMESPACE,
    idle_s: float = 600.0,
    wait_for_disk: DiskWait | None = None,
    watched: bool = True,
) -> Connected:
    """Start Ray on this machine, and an embedded Redis unless there is one to use.

    Unless ``watched``, the caller polls `dead_part` itself.
    """
    state = state_directory()
    mark_process()
    redis = None if redis_url else EmbeddedRedis(state)
    reaper = redis or Reaper()
    try:
        url = redis.url if redis else str(redis_url)
        _apart(_on_heads(url, namespace, watermarks.compare))  # before anything can spend
        owns = _init(None)
        settings = ClusterSettings(
            redis_url=url,
            namespace=namespace,
            key_file=str(ensure_key(state)),
            max_hosts=max(4, 4 * remote.processors()),
            warm_hosts=min(remote.processors(), 4),
            idle_s=idle_s,
            wait_for_disk=wait_for_disk,
            # Nobody adds a node here, so all must fit: 4 hosts for a processor are 0.4 of it, and
            # the rest is for 600 stores, those of 300 workspaces. Memory is what the machine has.
            host_cpus=0.1,
            host_memory=0,
            store_memory=0,
        )
        _start_directory(settings)
        if owns and watched:
            TIE.fasten(_own_loss, ray.shutdown)
    except BaseException:
        with contextlib.suppress(Exception):
            ray.shutdown()
        reaper.stop()
        raise
    return Connected(settings, owns, reaper)


def own_parts() -> list[Part]:
    """The essential processes of the Ray that was started here.

    Ray's agents are not among them: the raylet ends with them.
    """
    return [part(name, process.pid) for name, process in private.own_processes()]


def dead_part() -> str | None:
    """The essential process that has died, with the cause; None if all are alive."""
    for name, process in private.own_processes():
        if (code := process.poll()) is not None:
            return f"{name} {_ended(code)}"
    return None


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _own_loss() -> str | None:
    dead = dead_part()
    if dead is None:
        return None
    return (
        f"the cluster that was started for this is lost (its {dead}): nothing that was stored is, "
        "and `retinue resume ID` goes on with a run that was interrupted"
    )


def local_key_file() -> str | None:
    """The key file of this state directory; None without one: then nodes use their own."""
    file = state_directory() / "key"
    return str(file) if file.exists() else None


async def check_redis(settings: ClusterSettings, durable: bool = True) -> None:
    """Raises StoreUnavailable, naming the setting, if this Redis can't keep our promises."""
    connection = Connection.of(settings)
    try:
        await connection.check(durable)
    finally:
        await connection.close()


async def _on_heads(
    url: str, namespace: str, act: Callable[[Connection, Path], Awaitable[None]]
) -> None:
    connection = Connection(url, namespace, patience_s=_HEADS_PATIENCE_S)
    try:
        await act(connection, state_directory() / "heads.json")
    finally:
        await connection.close()


def _apart(work: Coroutine[None, None, None]) -> None:
    """Run ``work`` to its end, whether or not an event loop runs here."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


def redis_url_or_none(given: str | None) -> str | None:
    """The URL given, else RETINUE_REDIS_URL."""
    url = given or os.environ.get("RETINUE_REDIS_URL")
    if url and not url.startswith(SCHEMES):
        raise InvalidValue(f"redis_url: must be like {FORMS}", field="redis_url")
    return url


def gcs_address() -> str:
    """The address at which others join the Ray that runs here."""
    return str(ray.get_runtime_context().gcs_address)


def _init(address: str | None) -> bool:
    TIE.settle()
    if ray.is_initialized():
        return False
    if address is None:
        tokens.use_own_token()
    else:
        tokens.use_token()
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is None or address.startswith(("127.0.0.1:", "localhost:")):
        private.stay_on_loopback()
    private.keep_output_clean()
    private.never_start_by_itself()
    private.check_version()
    if address is not None:
        address = head.require_joinable(address)
    with warnings.catch_warnings(), _signals_as_they_are():
        warnings.simplefilter("ignore")
        try:
            if address is None:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            else:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
            raise head.unavailable(address, error) from error
    TIE.begin()
    return True


@contextlib.contextmanager
def _signals_as_they_are() -> Iterator[None]:
    """Restores the program's SIGTERM handler, in place of Ray's SystemExit and C++ stack traces.

    Only the main thread may set a handler; elsewhere Ray's Python sets none either.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def _start_directory(settings: ClusterSettings) -> ActorHandle[object]:
    return remote.start_store(roles.DirectoryActor, DIRECTORY, settings, settings)
