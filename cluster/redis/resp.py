"""Commands with hundreds of words, put into the wire format in one go.

The client's own packer copies its result so far for every word, which takes most of the time of a
large group commit.
"""

from __future__ import annotations

from typing import TypeVar

C = TypeVar("C")


def packing(connection_class: type[C]) -> type[C]:
    """The connection class for the client to use, which packs in one go."""
    return type("Packing", (_Packing, connection_class), {})


class _Packing:
    """Replaces the packer of a connection class; words are bytes, str or int."""

    def pack_command(self, *words: bytes | str | int) -> list[bytes]:
        first = words[0]
        if isinstance(first, str) and " " in first:  # as in "CONFIG GET"
            words = (*first.split(), *words[1:])
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            if type(word) is bytes:
                data = word
            else:
                data = word.encode() if type(word) is str else _encoded(word)
            parts += (b"$%d\r\n" % len(data), data, b"\r\n")
        return [b"".join(parts)]


def _encoded(word: object) -> bytes:
    return bytes(word) if isinstance(word, bytes | memoryview) else str(word).encode()
