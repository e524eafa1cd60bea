"""What was stored stays readable, and what is stored does not change without a new version."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Literal, cast
from uuid import uuid4

import msgspec
import pytest
import pytest_asyncio
from msgspec import Struct

from retinue.actors.agent.shipping import Parcel, unship
from retinue.actors.agent.turn import Turn
from retinue.actors.agent.versions import PYTHON
from retinue.actors.domain.errors import CorruptState, InvalidAgent
from retinue.actors.domain.permissions.allowances.allowance import Allowance, signing_bytes
from retinue.actors.domain.permissions.capabilities.token import Token
from retinue.actors.domain.permissions.capabilities.token import verify as verify_token
from retinue.actors.domain.session.messages import Message
from retinue.actors.domain.values.record import Record
from retinue.actors.durable.audit import Head, verify
from retinue.actors.durable.brakes import open_brake
from retinue.actors.durable.codec import Codec
from retinue.actors.durable.entity import read
from retinue.actors.session.summary import decode_summary, encode_summary
from retinue.actors.stores.table import MACHINES
from retinue.actors.views import SessionKey, SessionQuery, WorkspaceSettings
from retinue.cluster.redis.connection import Connection
from retinue.cluster.redis.journal import RedisJournal
from retinue.cluster.redis.registry import RedisRegistry
from tests.golden import files
from tests.golden.files import (
    CHILD,
    GOLDEN,
    ID,
    KEYRING,
    SCOPE,
    AnyMachine,
    as_of,
    differences,
    golden_summary,
    key_of,
    layout,
    layout_file,
    restore,
    stored,
)
from tests.golden.values import SHAPES, filled, width

USER = cast(str, SHAPES["user_id"])
Reader = Callable[[bytes], object]

ANEW = "python -m tests.golden.files"
CHANGED = (
    "the stored form has changed: raise its version (each machine's is in "
    "actors/durable/machines.py), so that older nodes refuse it instead of losing what they don't "
    f"know, and run `{ANEW}`"
)
FILES = sorted(
    file.with_suffix("") for file in GOLDEN.glob("v*/*.json") if file.name != "redis.json"
)


def readers() -> dict[str, Reader]:
    """How today's code reads each thing, by the name of its file."""
    settings = msgspec.msgpack.Decoder(tuple[int, WorkspaceSettings])
    found: dict[str, Reader] = {
        "message": msgspec.msgpack.Decoder(Message).decode,
        "settings": lambda data: settings.decode(data)[1],
        "summary": lambda data: decode_summary(data, ID, ID, SCOPE),
        "parcel": msgspec.msgpack.Decoder(Parcel).decode,
        "agent": msgspec.msgpack.Decoder(Parcel).decode,
        "allowance.signed": msgspec.msgpack.Decoder(Allowance).decode,
        "brake": lambda data: open_brake(KEYRING, SCOPE, data),
        "token.signed": msgspec.msgpack.Decoder(Token).decode,
    }
    for machine in MACHINES.values():
        found |= readers_of(machine)
    return found


def readers_of(machine: AnyMachine) -> dict[str, Reader]:
    codec: Codec[Struct, object] = Codec(machine, key_of(machine), KEYRING)
    rows = msgspec.msgpack.Decoder(tuple[int, int, int, list[machine.event]])  # type: ignore[name-defined]
    return {
        f"{machine.kind}.row": lambda data: codec.events(1, data)[0],
        f"{machine.kind}.snapshot": lambda data: codec.state(data)[1],
        f"{machine.kind}.audit": lambda data: rows.decode(data[20:])[3],
    }


def read_with(name: str) -> Reader:
    return readers()[name.partition("-")[0]]


# What was stored stays readable


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_what_any_version_wrote_is_read_as_it_was_meant(file: Path) -> None:
    says = json.loads(file.with_name(f"{file.name}.json").read_text())
    assert list(differences(says, read_with(file.name)(file.read_bytes()))) == []


@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda machine: machine.kind)
def test_the_golden_audit_row_still_carries_our_mark(machine: AnyMachine) -> None:
    for file in GOLDEN.glob(f"v*/{machine.kind}.audit"):
        row = file.read_bytes()
        report = verify("chain", [row], Head(1, row[:20]), KEYRING, machine.event)
        assert report.problem is None
        assert report.entries


def test_golden_signatures_hold() -> None:
    for file in GOLDEN.glob("v*/allowance.signed"):
        allowance = msgspec.msgpack.decode(file.read_bytes(), type=Allowance)
        assert KEYRING.verify(KEYRING.issuer, signing_bytes(allowance), allowance.signature)
    for file in GOLDEN.glob("v*/token.signed"):
        token = msgspec.msgpack.decode(file.read_bytes(), type=Token)
        verify_token(KEYRING, token, token.issued)


def test_a_golden_parcel_opens_where_its_python_runs() -> None:
    for file in GOLDEN.glob("v*/parcel"):
        made_by = msgspec.msgpack.decode(file.read_bytes(), type=Parcel).python
        if made_by == PYTHON:
            assert cast(object, unship(file.read_bytes())) is asyncio.sleep
        else:
            with pytest.raises(InvalidAgent, match=f"pickled by Python {made_by}"):
                unship(file.read_bytes())


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("v*/agent")), ids=lambda f: f.parent.name)
async def test_a_golden_agent_finds_all_that_it_refers_to_and_runs(file: Path) -> None:
    if msgspec.msgpack.decode(file.read_bytes(), type=Parcel).python != PYTHON:
        pytest.skip("it is pickled by another Python")
    agent = unship(file.read_bytes())
    assert await agent(cast(Turn, None), "hello") == (
        "no; id; read /srv/b.txt; read /srv/a.txt; run ls; call s/t; write /srv/c.txt; True; "
        "MessageMessage; 10500000000; 100000000PART1"
    )


# What is stored does not change without a new version


@pytest.mark.parametrize("one", list(stored()), ids=lambda one: one.name)
def test_what_is_written_today_is_what_its_version_says(one: files.Stored) -> None:
    assert one.file.exists(), f"v{one.form}/{one.name} is missing: run `{ANEW}`"
    assert one.data == one.file.read_bytes(), CHANGED


def test_every_golden_file_is_read() -> None:
    kept = {file for file in GOLDEN.glob("v*/*") if not file.name.endswith(".json")}
    assert kept == set(FILES)
    assert {one.file for one in stored()} <= kept


class Old(Record, frozen=True, tag="thing"):
    name: str
    amount: int
    tags: tuple[str, ...] = ()


def altered(fields: Mapping[str, type]) -> type[Struct]:
    """`Old` as a later hand has left it."""
    return msgspec.defstruct("Old", fields.items(), bases=(Record,), tag="thing", frozen=True)


BENT: dict[str, dict[str, type]] = {
    "moved": {"amount": int, "name": str, "tags": tuple},
    "moved among its like": {"tags": tuple, "amount": int, "name": str},
    "removed": {"name": str, "tags": tuple},
    "removed at the end": {"name": str, "amount": int},
    "renamed": {"title": str, "amount": int, "tags": tuple},
    "of another type": {"name": str, "amount": str, "tags": tuple},
}


@pytest.mark.parametrize("bent", BENT)
def test_a_field_that_was_touched_is_found(bent: str) -> None:
    old = filled(Old)
    data, says = msgspec.msgpack.encode(old), files.plain(old)
    try:
        found = msgspec.msgpack.decode(data, type=altered(BENT[bent]))
    except msgspec.ValidationError:
        return
    assert list(differences(says, found))


class Longer(Old, frozen=True, tag="thing"):
    note: str = "none"


class Demanding(Record, frozen=True, tag="thing"):
    name: str
    amount: int
    tags: tuple[str, ...]
    note: str


def test_a_new_field_needs_a_default_and_a_new_version() -> None:
    old, says = msgspec.msgpack.encode(filled(Old)), files.plain(filled(Old))
    assert isinstance(says, dict)
    longer = msgspec.msgpack.decode(old, type=Longer)
    assert list(differences({**says, "": "Longer"}, longer)) == []
    with pytest.raises(msgspec.ValidationError, match="array"):
        msgspec.msgpack.decode(old, type=Demanding)
    assert msgspec.msgpack.encode(filled(Longer)) != old  # so the test of today's bytes says so


class Side(Record, frozen=True):
    side: Literal["left", "right", "middle"]


class Both(Record, frozen=True):
    sides: list[Side]
    one: Side | None = None


def test_examples_show_every_member_of_everything() -> None:
    assert width(Both) == 3
    assert [side.side for side in filled(Both).sides] == ["left", "right", "middle"]
    assert [one.side for n in range(3) if (one := filled(Both, n).one)] == [
        "left",
        "right",
        "middle",
    ]


# Redis as a whole


@pytest_asyncio.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    connection = Connection(redis_url, f"golden-{uuid4()}")
    yield connection
    await connection.close()


async def test_redis_looks_as_its_version_says(connection: Connection) -> None:
    assert await layout(connection) == json.loads(layout_file().read_text()), CHANGED


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("v*/redis.json")), ids=lambda f: f.parent.name)
async def test_a_redis_of_any_version_is_read(connection: Connection, file: Path) -> None:
    await restore(connection, file)
    journal, registry = RedisJournal(connection), RedisRegistry(connection, KEYRING)
    for machine in MACHINES.values():
        says = json.loads(as_of(file.parent, f"{machine.kind}.snapshot.json").read_text())
        state = await read(machine, key_of(machine), journal, KEYRING)
        assert list(differences(says, state)) == []
        row = as_of(file.parent, f"{machine.kind}.audit").read_bytes()
        assert await journal.audit(key_of(machine), 0, 9) == [row]
    settings = json.loads(as_of(file.parent, "settings.json").read_text())
    assert list(differences([settings], await registry.workspaces())) == []
    (line,) = await registry.family(SCOPE, ID)
    assert (line.id, line.workspace_id, line.status) == (ID, SCOPE, "failed")
    for query in (
        SessionQuery(),
        SessionQuery(SCOPE, states=["failed"]),
        SessionQuery(user_id=USER),
    ):
        assert (await registry.page(query, None, 9)).sessions == [line]
    assert (await registry.page(SessionQuery(SCOPE, states=["idle"]), None, 9)).sessions == []
    assert [await registry.locate(id) for id in (ID, CHILD)] == 2 * [SessionKey(SCOPE, ID)]
    assert await registry.agent("digest") == as_of(file.parent, "parcel").read_bytes()
    assert await registry.running() == [ID]
    assert [await registry.find(text) for text in (ID[:8], CHILD[-8:])] == [[ID], [CHILD]]


async def test_settings_of_a_newer_version_are_refused_and_not_read_in_part(
    connection: Connection,
) -> None:
    registry = RedisRegistry(connection, KEYRING)
    data = msgspec.msgpack.encode((2, ["a scope", None, {"denied_moons": ["io"]}, {}, "more"]))
    sealed = KEYRING.seal(data, "workspace/a scope")
    await connection.command("HSET", connection.key("workspaces"), "a scope", sealed)
    says = "written by a newer version .*form 2; .*up to 1.*: upgrade this node"
    with pytest.raises(CorruptState, match=says) as caught:
        await registry.workspace("a scope")
    assert caught.value.message.startswith("the settings of workspace a scope ")
    with pytest.raises(CorruptState, match="newer version"):
        await registry.workspaces()


def test_the_summary_of_a_newer_version_is_read_without_what_is_new() -> None:
    summary = golden_summary()
    longer = [*msgspec.msgpack.decode(encode_summary(summary)), "new", 7]
    assert decode_summary(msgspec.msgpack.encode(longer), ID, ID, SCOPE) == summary
