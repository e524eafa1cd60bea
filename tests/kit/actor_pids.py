"""Process ids of our actors, for tests that kill them."""

from __future__ import annotations

from retinue import Retinue
from retinue.cluster.ray.actors import proxy
from retinue.cluster.ray.roles import Process


async def pid_of(retinue: Retinue, name: str) -> int:
    """The process id of a named actor."""
    return await proxy(Process, name, retinue.calls.settings.namespace).process_id()
