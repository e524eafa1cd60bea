"""The commands that change one session: `cancel`, `end`, `export`, `import`."""

from __future__ import annotations

import sys
from pathlib import Path

from retinue.actors.domain.documents import document
from retinue.actors.domain.errors import InvalidValue, NotFound
from retinue.actors.domain.values.json_value import JsonValue
from retinue.cluster.cli.agent_file import load_agent
from retinue.cluster.cli.common import connected
from retinue.cluster.cli.lookup import find_session
from retinue.cluster.terminal.outcome import OK, print_json
from retinue.cluster.terminal.render import say

_STANDARD = "-"


async def cancel(session_id: str, by: str | None, as_json: bool) -> int:
    """Cancel a session and all below it."""
    async with connected(actor=by) as retinue:
        session = await find_session(retinue, session_id)
        await session.cancel()
        return _tell_status(session.id, (await session.status()).summary.status, as_json)


async def end(session_id: str, by: str | None, as_json: bool) -> int:
    """End a session and all below it."""
    async with connected(actor=by) as retinue:
        session = await find_session(retinue, session_id)
        await session.end()
        return _tell_status(session.id, (await session.status()).summary.status, as_json)


async def export(session_id: str, file: Path | None, as_json: bool) -> int:
    """Write the session document to a file, or to standard output."""
    if file is not None and not file.absolute().parent.is_dir():
        raise InvalidValue(f"{file}: {file.absolute().parent} is not a directory")
    async with connected() as retinue:
        session = await find_session(retinue, session_id)
        text = await session.export()
    if file is None:
        print(text, flush=True)
        return OK
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidValue(f"{file}: can't be written: {error.strerror}") from error
    if as_json:
        print_json({"session": session.id, "file": str(file)})
    else:
        say(f"retinue: session {session.id} is in {file}")
    return OK


async def import_(file: str, skip_bad_messages: bool, agent: str | None, as_json: bool) -> int:
    """Import a session document; nothing is stored if anything in it is wrong."""
    data = _read(file)
    loaded = load_agent(agent) if agent else None
    document.parse(data, skip_bad_messages=skip_bad_messages)  # before a cluster is started for it
    async with connected() as retinue:
        session, skipped = await retinue.import_reporting(
            data, agent=loaded, skip_bad_messages=skip_bad_messages
        )
    for one in skipped:
        say(f"retinue: skipped {one.problem}")
    if as_json:
        problems: list[JsonValue] = [
            {"index": one.index, "problem": one.problem} for one in skipped
        ]
        print_json({"session": session.id, "skipped": problems})
    else:
        print(session.id)
    return OK


def _tell_status(session_id: str, status: str, as_json: bool) -> int:
    if as_json:
        print_json({"session": session_id, "status": status})
    else:
        say(f"retinue: session {session_id} is {status}")
    return OK


def _read(file: str) -> bytes:
    if file == _STANDARD:
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{file}: there is no such file") from None
    except OSError as error:
        raise InvalidValue(f"{file}: can't be read: {error.strerror}") from error
