"""Splits shell text into its simple commands, as far as a block list needs.

Finds every command that the text names: after ``;``, ``&``, ``|`` and newlines, in subshells,
substitutions and backticks. Words known only when the shell runs (``$NAME``) are marked.
Nothing is executed or expanded.
"""

from __future__ import annotations

import shlex

MAX_NESTING = 16
MAX_CHARACTERS = 128 * 1024  # what Linux takes as one argument

# NUL can be in no argument of a process, so marks that start with it cannot be forged
EXPANSION = "\0$"
_REDIRECTION = "\0>"


class Unreadable(ValueError):
    """The text cannot be split, so nobody can tell what it would run."""


def simple_commands(text: str, nesting: int = 0) -> list[list[str]]:
    """The words of every simple command in ``text``, without redirections, unquoted.

    An expansion is left in its word as the mark `EXPANSION`. Raises Unreadable.
    """
    if "\0" in text:
        raise Unreadable("a part of it is known only when it runs")
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"it is longer than {MAX_CHARACTERS:,} characters")
    reader = _Reader(text, nesting)
    reader.read()
    return reader.found


def split(text: str) -> list[str]:
    """The words of a text without operators, unquoted. Raises Unreadable."""
    try:
        return shlex.split(text)
    except ValueError as problem:
        raise Unreadable(str(problem).lower()) from None


def _without_redirections(words: list[str]) -> list[str]:
    kept = []
    rest = iter(words)
    for word in rest:
        if word == _REDIRECTION:
            next(rest, None)
        else:
            kept.append(word)
    return kept


class _Reader:
    def __init__(self, text: str, nesting: int) -> None:
        self.text = text
        self.at = 0
        self.nesting = nesting
        self.found: list[list[str]] = []

    def read(self, closing: str = "") -> None:
        """Cut up to ``closing``, or to the end where there is none."""
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise Unreadable("it is nested too deeply")
        command: list[str] = []
        quoted = False
        while self.at < len(self.text):
            char = self._take()
            if char == closing and not quoted:
                break
            if char == '"':
                quoted = not quoted
                command.append(char)
            elif char == "\\":
                command.append(self._escaped(quoted))
            elif char == "$" or char == "`":
                command.append(self._expansion(char, quoted))
            elif quoted:
                command.append(char)
            elif char == "'":
                command.append(self._single_quoted())
            elif char == "#" and (not command or command[-1].isspace()):
                self._skip_comment()
            elif char in ";&|\n()":
                self._end(command, closing)
                if char == "(":
                    self.read(")")
            elif char in "<>":
                self._redirect(command)
            else:
                command.append(char)
        else:
            if closing:
                raise Unreadable(f"no closing {closing}")
        self._end(command, closing)
        self.nesting -= 1

    def _take(self) -> str:
        self.at += 1
        return self.text[self.at - 1]

    def _next(self) -> str:
        return self.text[self.at : self.at + 1]

    def _end(self, command: list[str], closing: str) -> None:
        text = "".join(command)
        command.clear()
        if closing and "case" in text.split():
            # its patterns have a ")" of their own, which would close the substitution too early
            raise Unreadable("it has a case inside a substitution")
        if words := _without_redirections(split(text)):
            self.found.append(words)

    def _escaped(self, quoted: bool) -> str:
        if self.at == len(self.text):
            raise Unreadable("it ends in a backslash")
        char = self._take()
        if char == "\n":
            return ""
        # shlex leaves the backslash before these in double quotes, where a shell takes it away
        return char if quoted and char in "$`" else "\\" + char

    def _single_quoted(self) -> str:
        end = self.text.find("'", self.at)
        if end < 0:
            raise Unreadable("no closing quotation")
        start, self.at = self.at, end + 1
        return "'" + self.text[start:end] + "'"

    def _expansion(self, char: str, quoted: bool) -> str:
        if char == "`":
            self._backticks()
        elif self._next() == "(":
            self._take()
            self.read(")")
        elif self._next() == "'" and not quoted:
            raise Unreadable("it quotes with $'…'")
        return EXPANSION

    def _backticks(self) -> None:
        inner: list[str] = []
        while self.at < len(self.text):
            char = self._take()
            if char == "`":
                self.found += simple_commands("".join(inner), self.nesting)
                return
            if char == "\\" and self._next() in ("`", "\\", "$"):
                char = self._take()
            inner.append(char)
        raise Unreadable("no closing backtick")

    def _skip_comment(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end

    def _redirect(self, command: list[str]) -> None:
        if self._next() == "(":
            self._take()
            self.read(")")
            command.append(EXPANSION)
            return
        descriptor = len(command)
        while descriptor and command[descriptor - 1].isdigit():
            descriptor -= 1
        if not descriptor or command[descriptor - 1].isspace():
            del command[descriptor:]
        while self._next() and self._next() in "<>&|":
            self._take()
        command.append(f" {_REDIRECTION} ")
