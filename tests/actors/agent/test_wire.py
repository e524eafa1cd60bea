"""Between an actor and its agent's process: messages arrive whole, errors as what they were."""

from __future__ import annotations

import asyncio
import math

import pytest

from retinue.actors.agent import calls
from retinue.actors.agent.process import wire
from retinue.actors.domain import errors
from retinue.actors.domain.errors import InvalidValue, LimitReached, RetinueError
from retinue.actors.domain.session.messages import Message

INFO = calls.TurnInfo("session", "run", "family", 1, "/w", "prompt", None, "0123456789abcdef", None)


def stream(*parts: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    for part in parts:
        reader.feed_data(part)
    reader.feed_eof()
    return reader


@pytest.mark.parametrize(
    "message",
    [
        wire.Start(INFO, bytes(range(256)), "päd", None, 1 << 30),
        wire.Stop(),
        wire.Answered(1, None),
        wire.Answered(2, calls.Charge(5, 1)),
        wire.Answered(3, calls.Messages([Message.user("hello")])),
        wire.Refused(4, "Busy", "wait", {"limit": 3}),
    ],
)
async def test_a_message_to_the_process_arrives_as_it_was(message: wire.ToProcess) -> None:
    assert await wire.read_to_process(stream(wire.frame(message))) == message


@pytest.mark.parametrize(
    "message",
    [
        wire.Called(1, 2, calls.AddMessage(Message.assistant("hello"))),
        wire.Called(1, 2, calls.ClearMessages()),
        wire.Called(1, 2, calls.EndStep("sum", "0.1", b"\xff")),
        wire.Outcome("text"),
        wire.Outcome(error="ValueError: no"),
    ],
)
async def test_a_message_from_the_process_arrives_as_it_was(message: wire.FromProcess) -> None:
    assert await wire.read_from_process(stream(wire.frame(message))) == message


async def test_messages_are_told_apart_however_they_are_cut() -> None:
    data = wire.frame(wire.Outcome("a")) + wire.frame(wire.Outcome("b" * 1000))
    reader = stream(*(data[at : at + 1] for at in range(len(data))))
    assert await wire.read_from_process(reader) == wire.Outcome("a")
    assert await wire.read_from_process(reader) == wire.Outcome("b" * 1000)


@pytest.mark.parametrize("cut", [0, 3, 4, 5])
async def test_a_stream_that_ends_too_early_says_so(cut: int) -> None:
    with pytest.raises(asyncio.IncompleteReadError):
        await wire.read_from_process(stream(wire.frame(wire.Outcome("text"))[:cut]))


async def test_what_is_too_large_is_refused_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    data = wire.frame(wire.Outcome("x" * 1000))
    monkeypatch.setattr(wire, "_LARGEST", 999)
    with pytest.raises(InvalidValue, match=r"a message of \d+ bytes is over the limit of 999"):
        wire.frame(wire.Outcome("x" * 1000))
    with pytest.raises(InvalidValue, match="over the limit of 999"):
        await wire.read_from_process(stream(data))


ALL = [
    one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, RetinueError)
]


@pytest.mark.parametrize("cls", ALL)
async def test_an_error_arrives_as_what_it_was(cls: type[RetinueError]) -> None:
    error = cls("max_depth is 3", limit="max_depth", value=3, final=True, cause=None)
    message = await wire.read_to_process(stream(wire.frame(wire.refusal(7, error))))
    assert isinstance(message, wire.Refused)
    again = wire.to_error(message)
    assert (type(again), again.message, again.details) == (cls, error.message, error.details)


def test_an_error_of_an_unknown_class_is_still_one_of_ours() -> None:
    again = wire.to_error(wire.Refused(1, "OfALaterVersion", "so it is", {"field": "x"}))
    assert (type(again), str(again), again.details) == (RetinueError, "so it is", {"field": "x"})
    assert not isinstance(again, LimitReached)


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (None, wire.Outcome()),
        ("", wire.Outcome("")),
        ("text", wire.Outcome("text")),
        ('{"a": 1}', wire.Outcome('{"a": 1}')),
        ({"a": [1, None, 2.5]}, wire.Outcome('{"a":[1,null,2.5]}', structured=True)),
        (0, wire.Outcome("0", structured=True)),
        (False, wire.Outcome("false", structured=True)),
        ((1, 2), wire.Outcome("[1,2]", structured=True)),
    ],
)
def test_what_an_agent_returned_becomes_text(value: object, outcome: wire.Outcome) -> None:
    assert wire.outcome_of(value) == outcome


@pytest.mark.parametrize(
    "value", [object(), {1j: 1}, "\ud800", ["\ud800"], lambda: None, [open], math.sin]
)
def test_what_can_neither_be_text_nor_json_is_an_error_that_names_its_type(value: object) -> None:
    outcome = wire.outcome_of(value)
    assert outcome.output == ""
    assert outcome.error
    assert outcome.error.startswith(f"the agent returned {type(value).__name__}, ")
    assert wire.frame(outcome)


def test_more_than_can_be_kept_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_LARGEST_OUTPUT", 10)
    assert wire.outcome_of("x" * 10) == wire.Outcome("x" * 10)
    assert wire.outcome_of("é" * 6).error == "the agent returned 12 bytes; 10 at most can be kept"
    assert (
        wire.outcome_of(["x" * 10]).error == "the agent returned 14 bytes; 10 at most can be kept"
    )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no"), "ValueError: no"),
        (ValueError(), "ValueError"),
        (KeyError("x"), "KeyError: 'x'"),
        (RuntimeError(" two\n lines "), "RuntimeError: two lines"),
        (OSError("caf\udce9"), r"OSError: caf\udce9"),
        (InvalidValue("max_usd: -1", field="max_usd"), "InvalidValue: max_usd: -1"),
    ],
)
def test_an_exception_is_told_in_one_line(error: Exception, text: str) -> None:
    assert wire.error_text(error) == text
    assert wire.frame(wire.Outcome(error=wire.error_text(error)))
