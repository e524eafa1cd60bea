"""Several Ray nodes on this machine, real ones with a raylet each, and a Redis for Retinue.

All of it listens on loopback only. All processes carry the mark of this one, and its reaper ends
them should it be killed itself. The head's node is not killed: the test is attached to it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any, Self
from unittest import mock

import ray
import yaml
from ray._private.node import Node
from ray._private.ray_logging import global_worker_stdstream_dispatcher
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
)
from ray.cluster_utils import Cluster

from retinue.cluster.local.reaper import Reaper, mark_process
from retinue.cluster.local.state import ensure_key
from retinue.cluster.names import DIRECTORY
from retinue.cluster.ray import actors as remote
from retinue.cluster.ray import bootstrap, roles, tokens
from retinue.cluster.settings import ClusterSettings
from tests.kit import processes
from tests.kit.redis_server import RedisServer

_MIB = 1024 * 1024
_OBJECT_STORE_BYTES = 80 * _MIB
_MEMORY_BYTES = 4096 * _MIB
_ENVIRONMENT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "8000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_enable_metrics_collection": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # elsewhere too: nobody is to join from outside
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
}


class LocalNodes:
    """A head node, and others that come and go; from ``with`` to its end."""

    def __init__(self, cpus: int, **settings: Any) -> None:
        """``cpus`` of each node; ``settings`` are those of Retinue, in place of the defaults."""
        self.home = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))  # short: sockets are in it
        self._cpus = cpus
        self._settings = settings
        self._before = dict(os.environ)
        self._cluster = Cluster(shutdown_at_exit=False)

    def __enter__(self) -> Self:
        self._prepare_environment()
        self._reaper = Reaper()
        self._redis = RedisServer(self.home, set_proc_title="no")  # it would hide its mark
        try:
            self._redis.start()
            self._start_head()
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

    @property
    def redis_url(self) -> str:
        """Where Retinue keeps its state."""
        return self._redis.url

    def join(self, directory_on: str | None = None) -> None:
        """Start Retinue, with its directory on a node of choice."""
        settings = ClusterSettings(
            redis_url=self.redis_url, key_file=str(ensure_key(self.home)), **self._settings
        )
        bootstrap._init(self.address)
        if directory_on:
            remote.start_store(
                roles.DirectoryActor, DIRECTORY, settings, settings, node=directory_on
            )
        bootstrap.join(self.address, settings)
        global_worker_stdstream_dispatcher.remove_handler("ray_print_logs")  # deaths are no news

    def add_node(self) -> str:
        """Add a node; its id."""
        return str(self._add_node().node_id)

    def kill_node(self, node_id: str) -> None:
        """Kill a node and all that runs there, at once."""
        [node] = [one for one in self._cluster.worker_nodes if one.node_id == node_id]
        raylet = processes.raylet_of(node)
        processes.kill_at_once(lambda: processes.below(processes.of_raylet(raylet)))
        self._cluster.remove_node(node, allow_graceful=False)

    def is_running(self, node_id: str) -> bool:
        """Whether a node's raylet runs."""
        [node] = [one for one in self._cluster.worker_nodes if one.node_id == node_id]
        return processes.is_alive(processes.raylet_of(node))

    def close(self) -> None:
        """Take everything down."""
        with contextlib.suppress(Exception):
            ray.shutdown()
        if self._cluster.head_node or self._cluster.worker_nodes:
            self._cluster.shutdown()  # type: ignore[no-untyped-call]
        self._redis.kill()
        self._reaper.stop()
        os.environ.clear()
        os.environ.update(self._before)
        shutil.rmtree(self.home, ignore_errors=True)

    def _start_head(self) -> None:
        with mock.patch("ray._private.utils.write_ray_address"):  # other clusters stay as they are
            self._add_node(temp_dir=f"{self.home}/r")

    def _add_node(self, **settings: Any) -> Node:
        node: Node = self._cluster.add_node(
            num_cpus=self._cpus,
            memory=_MEMORY_BYTES,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            node_ip_address="127.0.0.1",
            **settings,
        )
        return node

    def _prepare_environment(self) -> None:
        """What Ray's processes inherit."""
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
            os.environ.pop(name, None)
        os.environ.update(_ENVIRONMENT)
        os.environ["RETINUE_HOME"] = str(self.home)
        os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
        mark_process()
        tokens.use_own_token()


class Autoscaled(LocalNodes):
    """A head node whose autoscaler adds and removes nodes, by Ray's fake provider."""

    def __init__(self, cpus: int, most: int, **settings: Any) -> None:
        """``most`` nodes besides the head, of ``cpus`` each."""
        super().__init__(cpus, **settings)
        self._most = most

    def _start_head(self) -> None:
        port = _free_port()
        config = self.home / "autoscaler.yaml"
        config.write_text(yaml.safe_dump(autoscaling(f"127.0.0.1:{port}", self._cpus, self._most)))
        with mock.patch("ray._private.utils.write_ray_address"):
            self._add_node(
                temp_dir=f"{self.home}/r",
                gcs_server_port=port,
                autoscaling_config=str(config),
                env_vars={"RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID},
            )


def autoscaling(gcs_address: str, cpus: int, most: int) -> dict[str, object]:
    """What the autoscaler is told: one kind of worker, idle ones go after three seconds."""
    resources = {
        "CPU": cpus,
        "memory": _MEMORY_BYTES,
        "object_store_memory": _OBJECT_STORE_BYTES,
    }
    return {
        "cluster_name": "nodes",
        "max_workers": most,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.05,
        "provider": {
            "type": "external",
            "module": "tests.kit.fake_provider.Provider",
            "gcs_address": gcs_address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {"resources": resources, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": resources,
                "node_config": {},
                "min_workers": 0,
                "max_workers": most,
            },
        },
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
