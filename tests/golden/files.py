"""Golden files: what each version of each stored form looks like, in bytes and for people.

`python -m tests.golden.files` adds those of today's versions; one that was released is never
written again. Every change to what is stored takes a new version: see
`retinue.actors.durable.machines`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
from msgspec import Struct, structs

from retinue.actors.agent.shipping import Parcel
from retinue.actors.domain.budget.state import Brake
from retinue.actors.domain.permissions.allowances.allowance import Allowance, signing_bytes
from retinue.actors.domain.permissions.capabilities.token import Token, mint
from retinue.actors.domain.session.messages import Message
from retinue.actors.domain.session.state import Profile
from retinue.actors.domain.values.ids import derived_id
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.audit import AuditChain, Head
from retinue.actors.durable.brakes import BRAKE_FORM, seal_brake
from retinue.actors.durable.codec import Codec, Machine
from retinue.actors.durable.journal import Append, Key, Summary
from retinue.actors.durable.machines import BUDGET, SESSION
from retinue.actors.session.listing import CODES, position
from retinue.actors.session.summary import encode_summary
from retinue.actors.stores.table import MACHINES
from retinue.actors.views import SessionKey, SessionSummary, WorkspaceSettings
from retinue.cluster.redis.connection import Connection
from retinue.cluster.redis.journal import RedisJournal
from retinue.cluster.redis.registry import SETTINGS_FORM, RedisRegistry
from tests.golden.values import filled, members, width
from tests.kit.redis_server import RedisServer

GOLDEN = Path(__file__).parents[1] / "golden"
KEYRING = Keyring(bytes(range(32)))
SCOPE, ID, CHILD = (derived_id(f"golden {name}") for name in ("scope", "session", "child"))
MESSAGE_FORM = 1
"""Messages are never written again: readers ignore fields at the end that are new."""

SUMMARY_FORM = 1
"""Summaries are made again with every change: readers ignore fields at the end that are new."""

PARCEL_FORM = 1
"""Parcels name their fields, so one may be added without a new form."""

LAYOUT_FORM = 3
"""The keys in Redis and what is under them."""

# What pickles to this on every Python: asyncio.sleep, by its name.
PICKLE = b"\x80\x02casyncio.tasks\nsleep\nq\x00."

AnyMachine = Machine[Struct, object, object, object]


@dataclass(frozen=True)
class Stored:
    """One stored thing: its bytes, and what they say."""

    name: str
    form: int
    data: bytes
    says: object

    @property
    def file(self) -> Path:
        return GOLDEN / f"v{self.form}" / self.name


def key_of(machine: AnyMachine) -> Key:
    """The entity that the golden rows of a machine belong to."""
    return Key(SCOPE, machine.kind, ID)


def examples(machine: AnyMachine) -> list[object]:
    """Events of every type, which together show every member of everything in them."""
    return [filled(event, n) for event in members(machine.event) for n in range(width(event))]


def stored() -> Iterator[Stored]:
    """One of each thing that is stored, in its newest form."""
    for machine in MACHINES.values():
        yield from of_machine(machine)
    for n in range(width(Message)):
        message = filled(Message, n)
        yield Stored(f"message-{n}", MESSAGE_FORM, msgspec.msgpack.encode(message), message)
    settings, summary = filled(WorkspaceSettings), golden_summary()
    yield Stored(
        "settings", SETTINGS_FORM, msgspec.msgpack.encode((SETTINGS_FORM, settings)), settings
    )
    yield Stored("summary", SUMMARY_FORM, encode_summary(summary), summary)
    parcel = Parcel("3.11", ["/srv/project"], PICKLE, "3.1.2", "0.1.0")
    yield Stored("parcel", PARCEL_FORM, msgspec.msgpack.encode(parcel), parcel)
    brake = filled(Brake)
    yield Stored("brake", BRAKE_FORM, seal_brake(KEYRING, SCOPE, brake), brake)
    allowance, token = signed()
    yield Stored("allowance.signed", 1, msgspec.msgpack.encode(allowance), allowance)
    yield Stored("token.signed", 1, msgspec.msgpack.encode(token), token)


def golden_summary() -> SessionSummary:
    """The line about the golden session; where it is stored says its ids and its workspace."""
    return structs.replace(filled(SessionSummary), id=ID, family_id=ID, workspace_id=SCOPE)


def of_machine(machine: AnyMachine) -> Iterator[Stored]:
    """A row, a snapshot and an audit row of a machine."""
    kind, form = machine.kind, machine.version
    codec: Codec[Struct, object] = Codec(machine, key_of(machine), KEYRING)
    head = Head(3, b"m" * 20)
    events, state = examples(machine), filled(machine.state)
    yield Stored(
        f"{kind}.row", form, codec.row(1, [codec.encoded(one) for one in events], head), events
    )
    yield Stored(f"{kind}.snapshot", form, codec.snapshot(1, state, head), state)
    audited = [one for one in events if isinstance(one, machine.audited)]
    yield Stored(
        f"{kind}.audit", form, AuditChain(KEYRING).row(1_700_000_000_000_000, 2, audited), audited
    )


def signed() -> tuple[Allowance, Token]:
    """An allowance and a token with true signatures: what they are over must stay as it is."""
    allowance = structs.replace(filled(Allowance), signature="")
    allowance = structs.replace(allowance, signature=KEYRING.sign(signing_bytes(allowance)))
    token = mint(
        KEYRING,
        id=allowance.id,
        resource="file:///srv/project/**",
        permissions=["read", "write"],
        now=1_700_000_000_000_000,
        expires=1_800_000_000_000_000,
        user="0123456789abcdef",
        audit_entry="an entry",
        family_id=allowance.family_id,
        single_use=True,
    )
    return allowance, token


CALLED = {"CapWarning": "Warning", "Resolution": "Decision"}
"""Classes that have another name than when their first golden file was written."""

FIELDS_CALLED = {"workspace_id": "scope"}
"""Fields that do."""


def plain(value: object) -> object:
    """A value as JSON that names everything."""
    match value:
        case Struct():
            fields = {_old(name): plain(one) for name, one in structs.asdict(value).items()}
            return {"": _called(value), **fields}
        case bytes():
            return {"hex": value.hex()}
        case list() | tuple():
            return [plain(one) for one in value]
        case dict():
            return {str(name): plain(one) for name, one in value.items()}
        case _:
            return msgspec.to_builtins(value)


def differences(says: object, value: object, at: str = "") -> Iterator[str]:
    """Where a value that was read is not what its file says.

    A field that the file does not have is newer than it, and must have its default.
    """
    if isinstance(value, Struct) and isinstance(says, dict):
        yield from _struct_differences(says, value, f"{at}/{type(value).__name__}")
    elif isinstance(value, list | tuple) and isinstance(says, list) and len(value) == len(says):
        for number, (one, two) in enumerate(zip(says, value, strict=True)):
            yield from differences(one, two, f"{at}/{number}")
    elif isinstance(value, dict) and isinstance(says, dict) and value.keys() == says.keys():
        for name in says:
            yield from differences(says[name], value[name], f"{at}/{name}")
    elif plain(value) != says:
        yield f"{at}: is {plain(value)!r} and was {says!r}"


def _called(value: Struct) -> str:
    name = type(value).__name__
    return CALLED.get(name, name)


def _struct_differences(says: Mapping[str, object], value: Struct, at: str) -> Iterator[str]:
    known = {_old(field.name): field for field in structs.fields(value)}
    if says[""] != _called(value):
        yield f"{at}: was a {says['']}"
    for name in says.keys() - known.keys() - {""}:
        yield f"{at}: has no field {name} any more"
    for name, field in known.items():
        if name in says:
            yield from differences(says[name], getattr(value, field.name), f"{at}.{name}")
        elif field.required or getattr(value, field.name) != _default(field):
            yield f"{at}.{name}: is new, and has no default"


def _old(field: str) -> str:
    return FIELDS_CALLED.get(field, field)


def _default(field: structs.FieldInfo) -> object:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


# --- Redis as a whole -----------------------------------------------------------------------------


def summary_of_root() -> Summary:
    """The line about the golden session, and its place in the listings."""
    line = structs.replace(golden_summary(), status="failed", parent_id=None)
    listed = CODES[line.status], position(line.created_at, ID)
    return Summary(ID, encode_summary(line), listed)


async def fill_redis(connection: Connection) -> None:
    """Put one of everything into Redis, as the actors do."""
    journal, registry = RedisJournal(connection), RedisRegistry(connection, KEYRING)
    by_name = {one.name: one for one in stored()}
    for machine in MACHINES.values():
        key, codec = key_of(machine), Codec(machine, key_of(machine), KEYRING)
        row, audit = by_name[f"{machine.kind}.row"].data, by_name[f"{machine.kind}.audit"].data
        message = codec.message(0, by_name["message-0"].data)
        summary = summary_of_root() if machine.kind == SESSION.kind else None
        head = Head(3, b"m" * 20)
        brake = by_name["brake"].data if machine.kind == BUDGET.kind else b""
        await journal.append(
            [Append(key, 1, 0, row, [message], [audit], summary, "creator", brake)]
        )
        await journal.activate(key, machine.version)
        await journal.snapshot(key, 2, 1, codec.snapshot(1, filled(machine.state), head))
        await journal.append([Append(key, 2, 1, codec.row(2, [], head))])
    await registry.put_workspace(filled(WorkspaceSettings))
    await registry.put_agent("digest", by_name["parcel"].data)
    await registry.register_root(structs.replace(filled(Profile), id=ID, workspace_id=SCOPE))
    await registry.register(SessionKey(SCOPE, ID), [CHILD])
    await registry.mark_running(ID)


async def dump(connection: Connection) -> dict[str, object]:
    """All keys below the connection's namespace, without it, and what is under them."""
    prefix = connection.key("")
    names = {one.data: one.name for one in stored()}
    found: dict[str, object] = {}
    for key in sorted([one.decode() async for one in connection.scan(f"{prefix}*")]):
        kind = cast(bytes, await connection.command("TYPE", key)).decode()
        words = {
            "hash": ("HGETALL", key),
            "list": ("LRANGE", key, 0, -1),
            "set": ("SMEMBERS", key),
            "string": ("GET", key),
            "zset": ("ZRANGE", key, 0, -1),
        }[kind]
        answer = cast("bytes | list[bytes]", await connection.command(*words))
        values = [answer] if isinstance(answer, bytes) else answer
        if kind == "hash":  # by field, since Redis gives them in any order
            pairs = sorted(zip(values[::2], values[1::2], strict=True))
            values = [part for pair in pairs for part in pair]
        found[key.removeprefix(prefix)] = {kind: [_shown(one, names) for one in values]}
    return found


async def restore(connection: Connection, file: Path) -> None:
    """Put back what `dump` gave."""
    words = {"hash": "HSET", "list": "RPUSH", "set": "SADD", "string": "SET", "zset": "ZADD"}
    for name, content in json.loads(file.read_text()).items():
        ((kind, shown),) = content.items()
        values = [_unshown(one, file.parent) for one in shown]
        if kind == "zset":
            values = [part for one in values for part in (b"0", one)]
        await connection.command(words[kind], connection.key("") + name, *values)


def _shown(data: bytes, names: Mapping[bytes, str]) -> str:
    if data in names:
        return f"file {names[data]}"
    text = data.decode(errors="replace")
    return text if text.isprintable() and text.isascii() else f"hex {data.hex()}"


def _unshown(text: str, directory: Path) -> bytes:
    if text.startswith("file "):
        return as_of(directory, text.removeprefix("file ")).read_bytes()
    return bytes.fromhex(text[4:]) if text.startswith("hex ") else text.encode()


def as_of(directory: Path, name: str) -> Path:
    """The newest file of that name when the version of ``directory`` came: its own, or older."""
    forms = range(int(directory.name[1:]), 0, -1)
    return next(file for form in forms if (file := GOLDEN / f"v{form}" / name).exists())


def layout_file(form: int = LAYOUT_FORM) -> Path:
    """Where the layout of Redis is kept."""
    return GOLDEN / f"v{form}" / "redis.json"


async def layout(connection: Connection) -> dict[str, object]:
    """What Redis looks like with one of everything in it."""
    await fill_redis(connection)
    return await dump(connection)


async def _layout_of_its_own() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory, RedisServer(Path(directory)) as server:
        connection = Connection(server.url, "golden")
        try:
            return await layout(connection)
        finally:
            await connection.close()


def as_text(value: object) -> str:
    """JSON as it lies in a file."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Add the files that today's versions lack.

    With ``--again`` also write those anew that differ, which is right only for versions that were
    never released.
    """
    texts = {layout_file(): as_text(asyncio.run(_layout_of_its_own())).encode()}
    for one in stored():
        texts[one.file] = one.data
        texts[one.file.with_name(f"{one.name}.json")] = as_text(plain(one.says)).encode()
    differ = [file for file, data in texts.items() if file.exists() and file.read_bytes() != data]
    if differ and "--again" not in arguments:
        print("These differ from what their version says. If it was released, raise it:")
        print(*(f"  {file}" for file in differ), "Else: --again writes them anew.", sep="\n")
        return 1
    for file, data in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
