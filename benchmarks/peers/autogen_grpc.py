"""AutoGen Core's distributed runtime: a host, two workers with the agents, and the caller.

Each of them is a process of its own, which is its fastest set-up on two processors. Workers and
host end when the caller does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from contextlib import ExitStack

from autogen_core import AgentId
from autogen_ext.runtimes.grpc import GrpcWorkerAgentRuntime, GrpcWorkerAgentRuntimeHost

from benchmarks.peers.autogen_agents import FanOut, Leaf, teach
from benchmarks.peers.serve import serve

_WORKERS = ("leaf0", "leaf1")
_READY = "ready"


async def caller() -> None:
    address = f"127.0.0.1:{_free_port()}"
    with ExitStack() as processes:
        for role in (["host"], *(["worker", name] for name in _WORKERS)):
            _start(processes, [*role, address])
        runtime = GrpcWorkerAgentRuntime(address)
        await runtime.start()
        teach(runtime)
        fan_out = FanOut(runtime, _WORKERS, AgentId("caller", "0"))
        await serve({"fan_out": fan_out}, ("autogen-core", "autogen-ext", "grpcio"))


async def host(address: str) -> None:
    server = GrpcWorkerAgentRuntimeHost(address)
    server.start()
    await asyncio.sleep(0.5)
    await _until_left()


async def worker(kind: str, address: str) -> None:
    runtime = GrpcWorkerAgentRuntime(address)
    await runtime.start()
    await Leaf.register(runtime, kind, Leaf)
    teach(runtime)
    await _until_left()


async def _until_left() -> None:
    print(_READY, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def _start(processes: ExitStack, arguments: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers.autogen_grpc", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    processes.enter_context(process)
    processes.callback(process.kill)
    if process.stdout is None or process.stdout.readline().strip() != _READY:
        raise RuntimeError(f"{arguments[0]} does not start")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    match sys.argv[1:]:
        case ["host", address]:
            asyncio.run(host(address))
        case ["worker", kind, address]:
            asyncio.run(worker(kind, address))
        case _:
            asyncio.run(caller())
