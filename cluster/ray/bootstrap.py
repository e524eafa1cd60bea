"""Joins a cluster, or brings up one of its own: Ray, Redis, and the directory in front."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Self

import ray
from ray._private import auto_init_hook, ray_constants, services
from ray._private import worker as ray_worker
from ray._private.authentication.authentication_token_generator import (
    generate_new_authentication_token,
)
from ray._private.services import ProcessInfo
from ray._private.utils import compute_version_info
from ray._raylet import (  # type: ignore[attr-defined]
    AuthenticationTokenLoader,
    Config,
    GcsClient,
)
from ray.actor import ActorHandle
from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError

from retinue.actors.domain.errors import ClusterUnavailable, InvalidValue, RetinueError
from retinue.cluster.local.reaper import Reaper, mark_process
from retinue.cluster.local.running import Part, part
from retinue.cluster.local.state import ensure_key, state_directory
from retinue.cluster.names import DIRECTORY
from retinue.cluster.ray import actors as remote
from retinue.cluster.ray import joining, roles
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
_HEAD_ANSWERS_S = 10
_NODE_STARTS_S = 3.0
_PARTS = {
    ray_constants.PROCESS_TYPE_RAYLET: "raylet",
    ray_constants.PROCESS_TYPE_GCS_SERVER: "control service (GCS)",
}
_METADATA = (b"CLUSTER_METADATA", b"cluster")
_ALIVE = GcsNodeInfo.GcsNodeState.ALIVE
_OBJECT_STORE_BYTES = 100 * 1024 * 1024  # our actors exchange small messages, not arrays


_HEADS_PATIENCE_S = 2.0


class Connected:
    """This process is part of a cluster, until `close`."""

    def __init__(
        self,
        settings: ClusterSettings,
        owns_ray: bool,
        guard: Reaper | EmbeddedRedis | None = None,
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
        leave = self._owns_ray and TIE.loosen()
        if self._guard:
            with contextlib.suppress(RetinueError, OSError):
                _apart(_on_heads(self.settings.redis_url, self.settings.namespace, watermarks.note))
            self._guard.stop()  # first: it ends hosts before agents, and Ray would not
        if leave:
            ray.shutdown()


def join(
    address: str,
    settings: ClusterSettings,
    *,
    durable: bool | None = None,
    look: Callable[[], str | None] | None = None,
) -> Connected:
    """Join a Ray cluster that is there. ClusterUnavailable says why it can't be.

    With ``durable`` (as for `check_redis`) StoreUnavailable, naming the node, if Redis does not do
    for the cluster's side, or can't be reached from there. ``look`` says, without Ray, why the
    cluster is lost, or None (`retinue.cluster.ray.tie`).
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

    Unless ``watched``, who calls this looks after `dead_part` itself.
    """
    state = state_directory()
    mark_process()
    redis = None if redis_url else EmbeddedRedis(state)
    guard = redis or Reaper([])
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
        guard.stop()
        raise
    return Connected(settings, owns, guard)


def own_parts() -> list[Part]:
    """The processes of the Ray that was started here without which it is dead.

    Ray's agents are not among them: the raylet ends with them.
    """
    return [part(name, process.pid) for name, process in _own_processes()]


def dead_part() -> str | None:
    """Which of them has died, and of what; None if all live."""
    for name, process in _own_processes():
        if (code := process.poll()) is not None:
            return f"{name} {_ended(code)}"
    return None


def _own_processes() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    node = ray_worker._global_node
    started: dict[str, list[ProcessInfo]] = node.all_processes if node else {}
    for kind, name in _PARTS.items():
        for info in started.get(kind, []):
            yield name, info.process


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
    """The key of this state directory, where there is one; otherwise nodes use their own."""
    file = state_directory() / "key"
    return str(file) if file.exists() else None


async def check_redis(settings: ClusterSettings, durable: bool = True) -> None:
    """StoreUnavailable, naming the setting, if this Redis can't keep what we promise."""
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
        _use_own_token()
    else:
        _use_token()
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is None or address.startswith(("127.0.0.1:", "localhost:")):
        _stay_on_loopback()
    _keep_output_clean()
    auto_init_hook.enable_auto_connect = False  # a call to what is lost must not start another Ray
    if address is not None:
        address = _require_joinable(address)
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
            raise _unavailable(address, error) from error
    TIE.begin()
    return True


def _require_joinable(address: str) -> str:
    """The head's HOST:PORT, once it has let us in. Ray would try for half a minute and say less."""
    try:
        address = services.canonicalize_bootstrap_address(address) or address
    except (ConnectionError, ValueError, OSError) as error:
        raise _unavailable(address, error) from error
    try:
        has_token = AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
    except AuthenticationError as error:
        raise joining.bad_token(error.message) from error
    with_token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if with_token and not has_token:  # Ray would end this process
        raise joining.no_token(address)
    joining.require_reachable(address)
    try:
        found = _ask_head(address)
    except AuthenticationError as error:
        if with_token:
            raise joining.wrong_token(address, _token_source()) from error
        raise joining.no_token(address) from error
    except RayError as error:
        raise joining.no_head(address) from error
    level = os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "patch")
    ray_version, python_version = compute_version_info()  # type: ignore[no-untyped-call]
    joining.require_same_versions(address, found.versions, ray_version, python_version, level)
    deadline = time.monotonic() + _NODE_STARTS_S
    while found.nodes.isdisjoint(services.find_node_ids()):  # type: ignore[no-untyped-call]
        if time.monotonic() > deadline:
            raise joining.no_node_here(address)
        time.sleep(0.5)
        found = _ask_head(address)
    return address


class _Head(NamedTuple):
    """What a head tells: the versions of its cluster, and the ids of its living nodes."""

    versions: dict[str, str]
    nodes: frozenset[str]


def _ask_head(address: str) -> _Head:
    """RayError if it does not answer, or not as a head."""
    answers: list[_Head | RayError] = []

    def ask() -> None:
        try:
            client = GcsClient(address=address)
            versions = client.internal_kv_get(*_METADATA, timeout=_HEAD_ANSWERS_S)
            nodes = client.get_all_node_info(timeout=_HEAD_ANSWERS_S).values()
        except RayError as error:
            answers.append(error)
        else:
            living = [one.node_id.hex() for one in nodes if one.state == _ALIVE]
            answers.append(_Head(json.loads(versions or b"{}"), frozenset(living)))

    asking = threading.Thread(target=ask, daemon=True)  # Ray's own patience is 40 s
    asking.start()
    asking.join(_HEAD_ANSWERS_S)
    answer = answers[0] if answers else RayError("no answer")
    if isinstance(answer, RayError):
        raise answer
    return answer


@contextlib.contextmanager
def _signals_as_they_are() -> Iterator[None]:
    """Ray has SIGTERM raise SystemExit, and its C++ print frames: both are for the program to say.

    Only the main thread may set a handler; elsewhere Ray's Python sets none either.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


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
    if "RAY_AUTH_MODE" in os.environ:
        _have_ray_read_it()
        return
    if _use_given_token():
        return
    file = _own_token_file()
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(generate_new_authentication_token())
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(file)
    _turn_tokens_on()


def _use_token() -> None:
    """The token to join with: what the environment gives, our own cluster's, or Ray's file.

    A token that is given is meant, also without RAY_AUTH_MODE.
    """
    if "RAY_AUTH_MODE" in os.environ:
        _have_ray_read_it()
        return
    if _use_given_token():
        return
    if _own_token_file().exists():
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(_own_token_file())
        _turn_tokens_on()
    elif _rays_token_file().exists():
        _turn_tokens_on()


def _use_given_token() -> bool:
    given = any(os.environ.get(name) for name in joining.TOKEN_VARIABLES)
    if given:
        _turn_tokens_on()
    return given


def _turn_tokens_on() -> None:
    os.environ["RAY_AUTH_MODE"] = "token"
    _have_ray_read_it()


def _have_ray_read_it() -> None:
    """Ray read its environment when it was imported, and keeps the token of the cluster before."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _token_source() -> str:
    """Where Ray has its token from, in Ray's order."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    return os.environ.get("RAY_AUTH_TOKEN_PATH") or str(_rays_token_file())


def _own_token_file() -> Path:
    return state_directory() / "ray_token"


def _rays_token_file() -> Path:
    return Path.home() / ".ray" / "auth_token"


def _start_directory(settings: ClusterSettings) -> ActorHandle[object]:
    return remote.start_store(roles.DirectoryActor, DIRECTORY, settings, settings)


def _unavailable(address: str | None, error: Exception) -> ClusterUnavailable:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if address is None:
        return ClusterUnavailable(f"Ray does not start on this machine: {text}")
    return ClusterUnavailable(f"no Ray cluster can be joined at {address}: {text}")
