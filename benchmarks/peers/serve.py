"""How a peer answers: one JSON line for one JSON line, until its standard input closes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version

Handler = Callable[..., Awaitable[object]]


async def serve(handlers: Mapping[str, Handler], packages: tuple[str, ...]) -> None:
    """Answer with what the handler of the line's ``what`` returns for its ``arguments``."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        try:
            if request["what"] == "versions":
                answer: object = {name: version(name) for name in packages}
            else:
                answer = await handlers[request["what"]](**request["arguments"])
            reply = {"answer": answer}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)
