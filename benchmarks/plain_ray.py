"""Ray as anybody uses it: plain actors, to compare with."""

from __future__ import annotations

from typing import cast

import ray
from ray.actor import ActorClass, ActorHandle


def start(cls: type) -> ActorHandle[object]:
    """An actor of a class without constructor arguments."""
    actor = cast("ActorClass[object]", ray.remote(num_cpus=0)(cls))
    return cast("ActorHandle[object]", actor.remote())


async def call(handle: ActorHandle[object], method: str, *arguments: object) -> object:
    """Call it, and await the answer."""
    answer: object = await getattr(handle, method).remote(*arguments)
    return answer


def kill(*handles: ActorHandle[object]) -> None:
    for handle in handles:
        ray.kill(handle)
