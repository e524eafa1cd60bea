"""The positions of a Redis's stores when this machine last saw it.

A Redis that goes back as a whole while nobody runs can't be told from one that never went further,
except by somebody who has seen it. So a cluster notes in its state directory, when it comes up and
when it goes down, up to which epoch and row the stores of each workspace were, and at the next
start refuses a Redis that has less.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import msgspec

from retinue.actors.domain.errors import RolledBack
from retinue.actors.stores.table import STORES
from retinue.cluster.redis.connection import Connection
from retinue.cluster.redis.errors import shown

Watermarks: TypeAlias = dict[str, tuple[int, int]]
"""Epoch and row by workspace and store."""

_FILE = msgspec.json.Decoder(dict[str, Watermarks])


async def compare(connection: Connection, file: Path) -> None:
    """RolledBack, naming what is behind, if this Redis has less than was noted; note it if not."""
    now = await _watermarks(connection)
    for name, (epoch, row) in _noted(file).get(_place(connection), {}).items():
        found = now.get(name, (0, 0))
        if found[0] < epoch or found[1] < row:
            raise RolledBack(
                f"Redis at {shown(connection.url)} went back: {name} is at epoch {found[0]}, row "
                f"{found[1]}, and was at epoch {epoch}, row {row} when it was last seen from here. "
                f"Bring back the newest copy, or accept the loss: rm '{file}'"
            )
    _write(connection, file, now)


async def note(connection: Connection, file: Path) -> None:
    """Write down what this Redis has."""
    _write(connection, file, await _watermarks(connection))


async def _watermarks(connection: Connection) -> Watermarks:
    watermarks: Watermarks = {}
    stores = [spec for spec in STORES if not spec.shared]
    for workspace_id in (await connection.values("HGETALL", connection.key("workspaces")))[::2]:
        for key in (key for spec in stores for key in spec.keys(workspace_id.decode())):
            epoch, row = await connection.values("HMGET", connection.entity(*key), "epoch", "seq")
            if epoch:
                watermarks[f"{key.kind} of workspace {key.workspace_id}"] = (
                    int(epoch),
                    int(row or 0),
                )
    return watermarks


def _noted(file: Path) -> dict[str, Watermarks]:
    try:
        return _FILE.decode(file.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def _write(connection: Connection, file: Path, watermarks: Watermarks) -> None:
    noted = _noted(file) | {_place(connection): watermarks}
    new = file.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(noted))
    os.replace(new, file)


def _place(connection: Connection) -> str:
    return f"{shown(connection.url)} {connection.key('')}"
