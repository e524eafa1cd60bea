"""The line between Retinue and its Redis: it can be cut before or after a command, and slowed down.

Run as ``python -m tests.chaos.grounds.line SOCKET TARGET SEED``; both are unix sockets. An `Order`
in each line of standard input is carried out at once, and answered when its time is over with how
many commands it hit. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from typing import Literal

import msgspec
from msgspec import Struct

_CHUNK = 1 << 18


class Order(Struct, frozen=True):
    """For ``lasts`` seconds hit this ``share`` of the commands.

    *before* closes the connection in place of passing a command on, *after* closes it in place of
    passing the answer back, and *slow* keeps the answer for up to ``delay`` seconds.
    """

    how: Literal["before", "after", "slow"]
    share: float
    lasts: float
    delay: float = 0.0


class Line:
    """Carries what clients and the server say."""

    def __init__(self, target: str, seed: str) -> None:
        self._target = target
        self._rng = random.Random(seed)
        self._order: Order | None = None
        self._hits = 0
        self._carrying: set[asyncio.Task[None]] = set()

    async def obey(self, order: Order) -> int:
        """Carry out an order, and return how many commands it hit."""
        self._order, self._hits = order, 0
        await asyncio.sleep(order.lasts)
        self._order = None
        return self._hits

    async def carry(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """One connection, until one side closes it or it is cut."""
        try:
            server, to_server = await asyncio.open_unix_connection(self._target)
        except OSError:
            to_client.close()
            return
        call = _Call()
        pumps = [
            asyncio.create_task(self._requests(client, to_server, call)),
            asyncio.create_task(self._answers(server, to_client, call)),
        ]
        self._carrying.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
            self._carrying.discard(pump)
        for writer in (to_client, to_server):
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _requests(
        self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter, call: _Call
    ) -> None:
        with contextlib.suppress(OSError):
            while request := await client.read(_CHUNK):
                call.order = self._hit()
                if call.order and call.order.how == "before":
                    return
                to_server.write(request)
                await to_server.drain()

    async def _answers(
        self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter, call: _Call
    ) -> None:
        with contextlib.suppress(OSError):
            while answer := await server.read(_CHUNK):
                order, call.order = call.order, None
                if order and order.how == "after":
                    return
                if order and order.how == "slow":
                    await asyncio.sleep(self._rng.uniform(0.0, order.delay))
                to_client.write(answer)
                await to_client.drain()

    def _hit(self) -> Order | None:
        order = self._order
        if order is None or self._rng.random() >= order.share:
            return None
        self._hits += 1
        return order


class _Call:
    """What is to become of the command that is under way on one connection."""

    def __init__(self) -> None:
        self.order: Order | None = None


async def main(socket: str, target: str, seed: str) -> None:
    """Serve until standard input ends."""
    line = Line(target, seed)
    server = await asyncio.start_unix_server(line.carry, socket)
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    print("ready", flush=True)
    while words := await orders.readline():
        hits = await line.obey(msgspec.json.decode(words, type=Order))
        print(hits, flush=True)
    server.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
