"""The first stage: three Ray nodes on this machine, and two Redis servers.

The head node and two others are real: a raylet each, with actors on all three. The head keeps what
Ray knows in a Redis of its own (its fault tolerance), so its GCS can be killed and started again.
The head's raylet is not killed: the driver and the harness are on it. Retinue's Redis is another
server behind a `line`, on the same data whenever it is started again.

All processes carry the mark of this one, and its reaper ends them should it be killed itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self, cast
from unittest import mock

import msgspec
import ray
from ray._private.node import Node
from ray._private.ray_logging import global_worker_stdstream_dispatcher
from ray.cluster_utils import Cluster

from retinue.cluster.client.calls import Calls
from retinue.cluster.local.reaper import Reaper, mark_process
from retinue.cluster.local.state import ensure_key
from retinue.cluster.ray import bootstrap, tokens
from retinue.cluster.settings import ClusterSettings
from tests.chaos.grounds.line import Order
from tests.kit import processes
from tests.kit.redis_server import RedisServer

ROOT = Path(__file__).resolve().parents[3]

_OBJECT_STORE_BYTES = 80 * 1024 * 1024
_NODES = 3
_RAY_SETTINGS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "8000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_enable_metrics_collection": "0",
    "RAY_DEDUP_LOGS": "0",
}
_GONE_LIMIT_S = 20.0
_IDLE_S = 12.0


class ChaosCluster:
    """The whole, from `start` to `close`."""

    def __init__(self, home: Path, seed: int) -> None:
        """``home`` is a directory with a short name, since sockets are in it."""
        self.home = home
        self.dead_raylets: list[int] = []
        self.complaints: list[str] = []
        self._seed = seed
        self._before = dict(os.environ)
        mark_process()
        self.sign = processes.own_mark()
        self._reaper = Reaper()
        self._prepare_environment()
        self._gcs_redis = self._server("ray", port=str(_free_port()))
        self._redis = self._server("retinue")
        self._line: subprocess.Popen[bytes] | None = None
        self._cluster = Cluster(shutdown_at_exit=False)
        self.settings = ClusterSettings(
            redis_url=f"unix://{self.home}/line.sock",
            key_file=str(ensure_key(self.home)),
            max_hosts=4,
            warm_hosts=2,
            idle_s=_IDLE_S,
        )
        self.calls = Calls(self.settings)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Where Ray is joined."""
        return str(self._cluster.address)

    def direct_settings(self) -> ClusterSettings:
        """As `settings`, with the Redis past the line."""
        return msgspec.structs.replace(self.settings, redis_url=self._redis.url)

    def others(self) -> list[Node]:
        """The nodes that may be killed."""
        return sorted(self._cluster.worker_nodes, key=lambda node: str(node.node_id))

    def kill_node(self, node: Node, at_once: bool) -> None:
        """Kill a node; its actors ``at_once`` with it, or when they notice."""
        raylet = processes.raylet_of(node)
        if at_once:
            processes.kill_at_once(lambda: processes.below(processes.of_raylet(raylet)))
        self._cluster.remove_node(node, allow_graceful=False)
        self.dead_raylets.append(raylet)

    def kill_raylet(self, node: Node) -> None:
        """Kill a node's raylet alone. Nobody takes it for alive, as they would a zombie."""
        process = node.all_processes["raylet"][0].process
        process.kill()
        process.wait()

    def add_node(self) -> None:
        """Add a node in place of one that is gone."""
        self._add_node()

    async def mend(self) -> None:
        """Add nodes in place of those whose raylet is gone.

        It was killed, or Ray gave the node up, overloaded as this machine is.
        """
        for node in self.others():
            if not processes.is_alive(processes.raylet_of(node)):
                await asyncio.to_thread(self.kill_node, node, at_once=False)
        for _ in range(_NODES - 1 - len(self.others())):
            await asyncio.to_thread(self.add_node)

    def kill_gcs(self) -> None:
        """Kill the head's control service."""
        self._head.kill_gcs_server()

    def start_gcs(self) -> None:
        """Start it again, with what it has in its Redis."""
        self._head.start_gcs_server()  # type: ignore[no-untyped-call]

    def kill_redis(self) -> None:
        """Kill Retinue's Redis with SIGKILL."""
        self._redis.kill()

    def start_redis(self) -> None:
        """Start Retinue's Redis again on its data."""
        self._redis.start()

    def send(self, order: Order) -> None:
        """Give the line an order; `hits` waits until its time is over."""
        assert self._line
        assert self._line.stdin
        self._line.stdin.write(msgspec.json.encode(order) + b"\n")
        self._line.stdin.flush()

    def hits(self) -> int:
        """How many commands the order hit."""
        assert self._line
        assert self._line.stdout
        return int(self._line.stdout.readline())

    def close(self) -> list[str]:
        """Take everything down; the command lines of what had to be killed for that."""
        with contextlib.suppress(Exception):
            ray.shutdown()
        if self._cluster.head_node or self._cluster.worker_nodes:
            self._cluster.shutdown()  # type: ignore[no-untyped-call]
        if self._line:
            self._line.kill()
            self._line.communicate()
            self._line = None
        self._redis.kill()
        self._gcs_redis.kill()
        left = self._left()
        self._reaper.stop()
        os.environ.clear()
        os.environ.update(self._before)
        return left

    def _start(self) -> None:
        self._gcs_redis.start()
        self._redis.start()
        self._start_line()
        with mock.patch("ray._private.utils.write_ray_address"):  # other clusters stay as they are
            self._add_node(redis_password=self._password, temp_dir=f"{self.home}/r")
        for _ in range(_NODES - 1):
            self.add_node()
        bootstrap.join(self.address, self.settings)
        global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")  # deaths are no news

    @property
    def _head(self) -> Node:
        head = self._cluster.head_node
        assert head is not None
        return cast(Node, head)

    def _add_node(self, **settings: Any) -> None:
        self._cluster.add_node(
            num_cpus=1,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            node_ip_address="127.0.0.1",
            **settings,
        )

    def _start_line(self) -> None:
        words = [f"{self.home}/line.sock", str(self._redis.socket), str(self._seed)]
        self._line = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.grounds.line", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._line.stdout
        assert self._line.stdout.readline() == b"ready\n"

    def _prepare_environment(self) -> None:
        """What Ray's processes inherit."""
        self._password = secrets.token_hex(16)
        os.environ["RETINUE_HOME"] = str(self.home)
        os.environ["PYTHONPATH"] = str(ROOT)
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
            os.environ.pop(name, None)
        os.environ.update(_RAY_SETTINGS)
        tokens.use_own_token()

    def _server(self, name: str, **settings: str) -> RedisServer:
        directory = self.home / name
        directory.mkdir()
        if name == "ray":
            settings |= {"bind": "127.0.0.1", "requirepass": self._password}
            os.environ["RAY_REDIS_ADDRESS"] = f"127.0.0.1:{settings['port']}"
        # its title would be written over its mark
        return RedisServer(directory, set_proc_title="no", **settings)

    def _left(self) -> list[str]:
        """What still runs of all that was started, after it had time to end."""
        spared = {os.getpid(), self._reaper.pid}
        deadline = time.monotonic() + _GONE_LIMIT_S
        while left := [one for one in processes.carrying(self.sign) if one.pid not in spared]:
            if time.monotonic() > deadline:
                return [processes.describe(one) for one in left]
            time.sleep(0.1)
        return []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
