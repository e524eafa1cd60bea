"""A session's messages: the newest in memory, older ones fetched when asked for."""

from __future__ import annotations

from collections import deque

import msgspec

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.commands import AddMessages, ClearMessages
from retinue.actors.domain.session.messages import Message, estimated_tokens
from retinue.actors.durable.entity import Entity

WINDOW = 64
"""The number of newest messages kept in memory."""

MAX_MESSAGE = 8 * 1024 * 1024
"""The largest size of one message, in bytes as stored."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Message)

SessionEntity = Entity[session.State, session.Command, session.Event, session.Reply]


class History:
    """The append-only message list of one live session."""

    def __init__(self, entity: SessionEntity) -> None:
        self._entity = entity
        self._window: deque[Message] = deque(maxlen=WINDOW)
        self._window_end = entity.state.messages

    def add(self, message: Message, run: str = "", key: str = "", op: str = "") -> None:
        """Append; durable with the entity's next commit.

        It happens once as a step of a run, and once for an operation ``op`` that is sent again.
        """
        data = _ENCODER.encode(message)
        if len(data) > MAX_MESSAGE:
            raise InvalidValue(
                f"message: {len(data)} bytes, and one may have {MAX_MESSAGE}", field="message"
            )
        tokens = estimated_tokens(message)
        self._append(message, data, AddMessages(1, tokens, run, key, len(data), op))

    def restore(self, messages: list[Message]) -> None:
        """Restores the messages of an imported session, whose tokens are counted already."""
        for message in messages:
            self._append(message, _ENCODER.encode(message), AddMessages(1, 0))

    def _append(self, message: Message, data: bytes, command: AddMessages) -> None:
        index = self._entity.state.messages
        if self._entity.do(command):
            self._entity.add_message(index, data)
            self._window.append(message)
            self._window_end = index + 1

    def clear(self, run: str = "", key: str = "") -> None:
        """Forget all messages so far."""
        self._entity.do(ClearMessages(run, key))
        self._window.clear()

    async def last(self, count: int | None) -> list[Message]:
        """The last ``count`` messages (None: all), oldest first; a count beyond them gives all."""
        state = self._entity.state
        start = state.first_message
        if count is not None:
            start = max(start, state.messages - max(count, 0))
        in_memory = self._window_end - len(self._window)
        older = (
            await self._fetch(start, min(in_memory, state.messages)) if start < in_memory else []
        )
        newer = list(self._window)[max(start - in_memory, 0) :]
        return older + newer

    async def last_assistant_text(self) -> str:
        """The text of the newest assistant message in the window, or ''."""
        for message in reversed(await self.last(WINDOW)):
            if message.role == "assistant" and message.text:
                return message.text
        return ""

    async def _fetch(self, start: int, stop: int) -> list[Message]:
        await self._entity.committed()
        return [_DECODER.decode(data) for data in await self._entity.messages(start, stop)]
