"""Joins a cluster, or brings up one of its own: Ray, Redis, and the directory in front."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from typing import Self

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray._private.authentication.authentication_token_generator import (
    generate_new_authentication_token,
)
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from actors.domain.errors import ClusterUnavailable, InvalidValue
from cluster import remote, roles
from cluster.guard import Guard, mark_process
from cluster.redis.connection import Connection
from cluster.redis.server import EmbeddedRedis
from cluster.settings import DEFAULT_NAMESPACE, ClusterSettings, ensure_key, state_directory

_RAY_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # an actor for each store is the design, not a mistake to warn of
    "RAY_worker_maximum_startup_concurrency": "64",
}
_OBJECT_STORE_BYTES = 100 * 1024 * 1024  # our actors exchange small messages, not arrays


class Connected:
    """This process is part of a cluster, until `close`."""

    def __init__(
        self,
        settings: ClusterSettings,
        owns_ray: bool,
        guard: Guard | EmbeddedRedis | None = None,
    ) -> None:
        self.settings = settings
        self._owns_ray = owns_ray
        self._guard = guard

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave; and take down what was brought up for this."""
        if self._owns_ray:
            ray.shutdown()
        if self._guard:
            self._guard.stop()


def join(address: str, settings: ClusterSettings) -> Connected:
    """Join a Ray cluster that is there. ClusterUnavailable says why it can't be."""
    owns = _init(address)
    _start_directory(settings)
    return Connected(settings, owns)


def bring_up(
    redis_url: str | None, namespace: str = DEFAULT_NAMESPACE, idle_s: float = 600.0
) -> Connected:
    """Start Ray on this machine, and an embedded Redis unless there is one to use."""
    state = state_directory()
    mark_process()
    redis = None if redis_url else EmbeddedRedis(state)
    guard = redis or Guard([])
    try:
        owns = _init(None)
        settings = ClusterSettings(
            redis_url=redis.url if redis else str(redis_url),
            namespace=namespace,
            key_file=str(ensure_key(state)),
            max_hosts=max(4, 4 * remote.processors()),
            warm_hosts=min(remote.processors(), 4),
            idle_s=idle_s,
            # Nobody adds a node here, so all must fit: 4 hosts for a processor are 0.4 of it, and
            # the rest is for 600 stores, those of 300 workspaces. Memory is what the machine has.
            host_cpus=0.1,
            host_memory=0,
            store_memory=0,
        )
        _start_directory(settings)
    except BaseException:
        with contextlib.suppress(Exception):
            ray.shutdown()
        guard.stop()
        raise
    return Connected(settings, owns, guard)


def local_key_file() -> str | None:
    """The key of this state directory, where there is one; otherwise nodes use their own."""
    file = state_directory() / "key"
    return str(file) if file.exists() else None


async def check_redis(settings: ClusterSettings, durable: bool = True) -> None:
    """StoreUnavailable, naming the setting, if this Redis can't keep what we promise."""
    connection = Connection(settings.redis_url, settings.namespace)
    try:
        await connection.check(durable)
    finally:
        await connection.close()


def redis_url_or_none(given: str | None) -> str | None:
    """The URL given, else TROUPE_REDIS_URL."""
    url = given or os.environ.get("TROUPE_REDIS_URL")
    if url and not url.startswith(("redis://", "rediss://", "unix://")):
        raise InvalidValue(
            "redis_url: must start with redis://, rediss:// or unix://", field="redis_url"
        )
    return url


def gcs_address() -> str:
    """The address at which others join the Ray that runs here."""
    return str(ray.get_runtime_context().gcs_address)


def _init(address: str | None) -> bool:
    if ray.is_initialized():
        return False
    _use_own_token()
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is None or address.startswith(("127.0.0.1:", "localhost:")):
        _stay_on_loopback()
    _keep_output_clean()
    with warnings.catch_warnings():
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
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise _unavailable(address, error) from error
    return True


def _stay_on_loopback() -> None:
    """A cluster on one machine is nobody else's business.

    Ray takes an outside address for 127.0.0.1, so that other machines could join, and then listens
    on all interfaces, unless it was told, as it is where a firewall would ask, that none will.
    """
    ray_constants.ENABLE_RAY_CLUSTER = False


def _keep_output_clean() -> None:
    """Ray tells of workers that died on standard output, where our JSON goes; it is in its log."""
    ray_worker.print_to_stdstream = lambda *_, **__: None


def _use_own_token() -> None:
    """Ray asks clients for a token: keep one with the state, readable by its owner only."""
    if "RAY_AUTH_MODE" in os.environ or "RAY_AUTH_TOKEN" in os.environ:
        return
    file = state_directory() / "ray_token"
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(generate_new_authentication_token())
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(file)
    Config.initialize("")  # Ray read its environment when it was imported
    AuthenticationTokenLoader.instance().reset_cache()


def _start_directory(settings: ClusterSettings) -> None:
    remote.start_store(roles.DirectoryActor, remote.DIRECTORY, settings, settings)


def _unavailable(address: str | None, error: Exception) -> ClusterUnavailable:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if address is None:
        return ClusterUnavailable(f"Ray does not start on this machine: {text}")
    hint = "is it running, and is RAY_AUTH_MODE=token set with its token?"
    return ClusterUnavailable(f"no Ray cluster can be joined at {address}: {text} ({hint})")
