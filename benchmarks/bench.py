"""What a row measures with: the cluster, the peers, and how much of everything."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from benchmarks.harness import each, until
from benchmarks.peer import Peer
from retinue import BudgetConfig, Result, Retinue, Session, Workspace
from retinue.actors.agent.turn import AgentFunction
from retinue.cluster.ray.actors import proxy
from retinue.cluster.ray.roles import Process

PLENTY = BudgetConfig(session_max_usd=1_000_000)
_HOSTS_LIMIT_S = 90.0


@dataclass(frozen=True)
class Sizes:
    """How much is measured: everything, or what fits into two minutes."""

    rounds: int = 7
    actor_starts: int = 5
    process_spawns: int = 20
    fan_outs: tuple[int, ...] = (1, 10, 30, 100, 300, 1000, 3000)
    authorizations: int = 200
    calls_in_a_row: int = 500
    histories: tuple[int, ...] = (10, 100, 1000, 10_000)
    turns: int = 40
    activations: int = 20
    hibernated: int = 2000
    races: int = 50
    recovered: int = 1000
    recoveries: int = 3
    live: int = 10_000


FULL = Sizes()
QUICK = Sizes(
    rounds=3,
    actor_starts=2,
    process_spawns=5,
    fan_outs=(),
    authorizations=30,
    calls_in_a_row=200,
    histories=(10, 10_000),
    turns=20,
    activations=5,
    hibernated=300,
    races=5,
    recovered=1000,
    recoveries=1,
    live=1000,
)


@dataclass
class Bench:
    """A cluster of its own, which ends with the benchmark."""

    retinue: Retinue
    sizes: Sizes
    home: Path
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def redis_url(self) -> str:
        """The Redis that Retinue uses; peers that need one use the same."""
        return self.retinue.calls.settings.redis_url

    @asynccontextmanager
    async def peer(
        self, name: str, *arguments: str, installed_apart: bool = True
    ) -> AsyncIterator[Peer]:
        """A peer for the time of a block."""
        async with Peer(name, *arguments, installed_apart=installed_apart) as peer:
            found = await peer.ask("versions")
            if isinstance(found, dict):
                self.versions.update(cast("dict[str, str]", found))
            yield peer

    async def workspace(self, name: str) -> Workspace:
        """A workspace without a cap."""
        directory = self.home / name
        directory.mkdir(exist_ok=True)
        (directory / "a.txt").write_text("hello\n")
        return await self.retinue.workspace(directory)

    async def sessions(
        self, agent: AgentFunction, count: int, workspace: Workspace
    ) -> list[Session]:
        """So many shared root sessions."""

        async def create(_: int) -> Session:
            return await self.retinue.create_session(
                agent, workspace=workspace, isolation="shared", budget=PLENTY
            )

        return await each(range(count), create)

    async def session(self, agent: AgentFunction, workspace: Workspace) -> Session:
        """One shared root session."""
        return (await self.sessions(agent, 1, workspace))[0]

    async def deactivate(self, session: Session) -> None:
        """Write a session out, as its host does when it has been idle for long."""
        _, host = await self.retinue.calls.directory.locate(session.id)
        while not await self.retinue.calls.host(host).deactivate(session.id):
            await asyncio.sleep(0.05)

    async def pids(self) -> list[int]:
        """The processes of all hosts, once all that should run do."""
        status = await self.retinue.status()
        namespace = self.retinue.calls.settings.namespace
        hosts = (proxy(Process, one.name, namespace, restarts=False) for one in status.hosts)
        return await asyncio.gather(*(host.process_id() for host in hosts))

    async def kill_hosts(self) -> None:
        """SIGKILL for every host."""
        for pid in await self.pids():
            os.kill(pid, signal.SIGKILL)

    async def warm_hosts(self) -> None:
        """Return when as many hosts as are kept warm are there and answer."""
        wanted = self.retinue.calls.settings.warm_hosts

        async def there() -> bool:
            hosts = (await self.retinue.status()).hosts
            return len(hosts) >= wanted and all(host.pid for host in hosts)

        await until(there, _HOSTS_LIMIT_S, 0.1)


async def run(session: Session, prompt: str = "") -> object:
    """What the session's agent returns; an error if it fails."""
    return answer(await session.run(prompt))


def answer(result: Result) -> object:
    """What an agent returned; an error if it failed."""
    if not result.success:
        raise RuntimeError(f"{result.status}: {result.error}")
    return result.value


def say(text: str) -> None:
    """Tell whoever waits what goes on."""
    print(text, file=sys.stderr, flush=True)
