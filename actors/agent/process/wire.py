"""The messages between a session's actor and the process in which its agent runs."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

import msgspec
from msgspec import Struct

from retinue.actors.agent import calls
from retinue.actors.domain import errors
from retinue.actors.domain.errors import (
    Detail,
    Fenced,
    InvalidValue,
    RetinueError,
    StoreUnavailable,
)

INTERRUPTIONS = (Fenced, StoreUnavailable)
"""Errors saying that an activation can't go on, rather than that its agent has failed."""

_HEADER = 4
_LARGEST = 256 * 1024 * 1024
_LARGEST_OUTPUT = _LARGEST // 4


class Start(Struct, frozen=True, tag=True):
    """To the process: run this agent, with at most ``memory`` bytes of its own."""

    info: calls.TurnInfo
    agent: bytes
    prompt: str
    directory: str | None
    memory: int


class Stop(Struct, frozen=True, tag=True):
    """To the process: cancel the agent."""


class Answered(Struct, frozen=True, tag=True):
    """To the process: the answer to a call."""

    id: int
    answer: calls.Answer


class Refused(Struct, frozen=True, tag=True):
    """To the process: the error that a call raised."""

    id: int
    error: str
    message: str
    details: dict[str, Detail]


class Begun(Struct, frozen=True, tag=True):
    """From the process: the agent starts now. A process that ends before this has done nothing."""


class Called(Struct, frozen=True, tag=True):
    """From the process: a call of the turn."""

    id: int
    branch: int
    call: calls.Call


class Outcome(Struct, frozen=True, tag=True):
    """The value that the agent returned, or the error that it raised.

    ``interruption`` is that error where it means that the turn can't go on here: not an outcome.
    """

    output: str = ""
    structured: bool = False
    error: str | None = None
    interruption: Refused | None = None


ToProcess: TypeAlias = Start | Stop | Answered | Refused
FromProcess: TypeAlias = Begun | Called | Outcome

_ENCODER = msgspec.msgpack.Encoder()
_TO_PROCESS: msgspec.msgpack.Decoder[ToProcess] = msgspec.msgpack.Decoder(ToProcess)
_FROM_PROCESS: msgspec.msgpack.Decoder[FromProcess] = msgspec.msgpack.Decoder(FromProcess)


def frame(message: ToProcess | FromProcess) -> bytes:
    """A message with its length in front."""
    data = _ENCODER.encode(message)
    if len(data) > _LARGEST:
        raise _too_large(len(data))
    return len(data).to_bytes(_HEADER, "big") + data


async def read_from_process(reader: asyncio.StreamReader) -> FromProcess:
    """The next message; IncompleteReadError at the end of the stream."""
    return _FROM_PROCESS.decode(await _read(reader))


async def read_to_process(reader: asyncio.StreamReader) -> ToProcess:
    """The next message; IncompleteReadError at the end of the stream."""
    return _TO_PROCESS.decode(await _read(reader))


def refusal(id: int, error: RetinueError) -> Refused:
    """An error on its way to the process."""
    return Refused(id, type(error).__name__, error.message, error.details)


def to_error(refused: Refused) -> RetinueError:
    """The error as it was raised in the actor."""
    cls = getattr(errors, refused.error, RetinueError)
    return cls(refused.message, **refused.details)


def outcome_of(value: object) -> Outcome:
    """The value returned by an agent, as text; an error if it cannot be serialised."""
    if value is None:
        return Outcome()
    try:
        structured = not isinstance(value, str)
        data = msgspec.json.encode(value) if structured else str(value).encode()
    except (TypeError, ValueError, OverflowError) as error:
        return Outcome(
            error=f"the agent returned {type(value).__name__}, no text and no JSON: {error}"
        )
    if len(data) > _LARGEST_OUTPUT:
        return Outcome(
            error=f"the agent returned {len(data)} bytes; {_LARGEST_OUTPUT} at most can be kept"
        )
    return Outcome(data.decode(), structured)


def failure_of(error: BaseException) -> Outcome:
    """The outcome of an agent that raised ``error``."""
    if isinstance(error, INTERRUPTIONS):
        return Outcome(interruption=refusal(0, error))
    return Outcome(error=error_text(error))


def require_outcome(outcome: Outcome) -> Outcome:
    """Returns the outcome; raises the Retinue error that interrupted the agent, if one did."""
    if outcome.interruption:
        raise to_error(outcome.interruption)
    return outcome


def error_text(error: BaseException) -> str:
    """An agent's exception in one line, of text that can be sent and stored."""
    text = " ".join(str(error).encode(errors="backslashreplace").decode().split())
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def exit_text(left: BaseException) -> str:
    """The error text for an agent that tried to end its process; that is the agent's own result."""
    if not isinstance(left, SystemExit):
        return type(left).__name__
    if left.code is None or isinstance(left.code, int):
        return f"exited with code {left.code or 0}"
    return f"exited with code 1: {error_text(left).partition(': ')[2]}"


async def _read(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(_HEADER), "big")
    if size > _LARGEST:
        raise _too_large(size)
    return await reader.readexactly(size)


def _too_large(size: int) -> InvalidValue:
    return InvalidValue(f"a message of {size} bytes is over the limit of {_LARGEST}")
