"""The commands about a cluster's nodes: `drain`."""

from __future__ import annotations

import asyncio

from retinue.cluster.cli.common import connected
from retinue.cluster.status import NodeStatus
from retinue.cluster.terminal.outcome import OK, print_json
from retinue.cluster.terminal.render import say

_POLL_S = 0.3
_SHOWN = 8


async def drain(name: str, as_json: bool) -> int:
    """Move a node's sessions and stores elsewhere; returns when nothing of ours is left there."""
    async with connected(elsewhere=True) as retinue:
        first = left = await retinue.calls.directory.drain(name)
        while left.hosts or left.stores:
            told = _line(left)
            say(told)
            while (left.hosts or left.stores) and _line(left) == told:
                await asyncio.sleep(_POLL_S)
                left = await retinue.calls.directory.drain(first.id)
        # now, and not when we have left: Ray ends the node, with us if we are on it
        if as_json:
            print_json({"node": first.id, "address": first.address, "drained": True})
        else:
            say(f"retinue: node {first.id[:_SHOWN]} is drained: nothing of ours is on it")
    return OK


def _line(left: NodeStatus) -> str:
    return (
        f"retinue: node {left.id[:_SHOWN]} has {left.sessions} sessions in {left.hosts} hosts, "
        f"{left.stores} stores"
    )
