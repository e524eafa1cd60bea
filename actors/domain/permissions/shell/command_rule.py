"""Entries of a block list that name a command, such as ``sudo``, ``chmod 777`` or ``rm -rf /``.

An entry blocks a command of the same bare name that has all of the entry's flags, however split or
ordered, and all of its operands, in that order. Words are compared whole: ``dd`` is not
``ddrescue``.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from functools import lru_cache

from msgspec import Struct

from retinue.actors.domain.permissions.shell.command_line import program
from retinue.actors.domain.permissions.shell.shell_text import split

_SAME_FLAG = {"R": "r", "--recursive": "r", "--force": "f"}


class CommandShape(Struct, frozen=True):
    """A command as a rule sees it: flags without order, operands in one spelling."""

    name: str
    flags: frozenset[str]
    operands: tuple[str, ...]


def shape(words: Sequence[str]) -> CommandShape:
    """The shape of a command, of which the first word is the bare name."""
    flags: set[str] = set()
    operands = []
    only_operands = False
    for word in words[1:]:
        if only_operands or not word.startswith("-") or word == "-":
            operands.append(_operand(word))
        elif word == "--":
            only_operands = True
        else:
            flags |= _flags(word)
    return CommandShape(words[0], frozenset(flags), tuple(operands))


def blocks(entry: str, command: CommandShape) -> bool:
    """Returns whether a block list entry covers the command; raises Unreadable for a bad entry."""
    rule = _rule(entry)
    if rule is None or rule.name != command.name or not rule.flags <= command.flags:
        return False
    operands = iter(command.operands)
    return all(operand in operands for operand in rule.operands)


@lru_cache(maxsize=4096)
def _rule(entry: str) -> CommandShape | None:
    words = split(entry)
    if not words or ("/" in words[0] and not words[0].startswith("/")):
        return None  # a tool such as server/tool
    return shape([program(words[0]), *words[1:]])


def _flags(word: str) -> set[str]:
    if word.startswith("--"):
        name = word.partition("=")[0]
        return {_SAME_FLAG.get(name, name)}
    return {_SAME_FLAG.get(letter, letter) for letter in word[1:]}


def _operand(word: str) -> str:
    if word.isdecimal():
        return word.lstrip("0")
    if word.startswith("/"):
        path = "/" + posixpath.normpath(word).lstrip("/")
        return path.removesuffix("/*") or "/"  # all that is in it
    return word
