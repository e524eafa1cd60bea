"""The commands that a command line runs: its own, and those its wrappers and shells would start.

``env A=1 nice sudo x`` runs ``env``, ``nice``, ``sudo`` and ``x``; ``sh -c "a; b"`` runs ``sh``,
``a`` and ``b``. The usual wrappers are known; commands that a shell reads from its input or a
script are not seen: this finds the commands that a line names openly, and is no sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from retinue.actors.domain.permissions.shell.shell_text import (
    EXPANSION,
    MAX_NESTING,
    Unreadable,
    simple_commands,
    split,
)


class _Wrapper(NamedTuple):
    """A wrapper's short and long options that take a value, and its operands before the command."""

    short: str = ""
    long: tuple[str, ...] = ()
    operands: int = 0


_SHELLS = frozenset(("sh", "bash", "rbash", "dash", "ash", "zsh", "ksh", "mksh", "fish"))
_TAKE_SHELL_TEXT = frozenset(("su", "runuser", "script", "flock"))
_JOIN_TO_SHELL_TEXT = {
    "eval": _Wrapper(),
    "trap": _Wrapper(),
    "watch": _Wrapper("n", ("interval",)),
}
_KEYWORDS = ("if", "then", "elif", "else", "while", "until", "do", "!", "{", "coproc")
_WRAPPERS = {
    **dict.fromkeys(_KEYWORDS, _Wrapper()),
    "function": _Wrapper(operands=1),
    "builtin": _Wrapper(),
    "busybox": _Wrapper(),
    "chroot": _Wrapper("", ("userspec", "groups"), operands=1),
    "chrt": _Wrapper("pDPT", ("sched-deadline", "sched-period", "sched-runtime"), operands=1),
    "command": _Wrapper(),
    "doas": _Wrapper("aCu"),
    "env": _Wrapper("aCu", ("argv0", "chdir", "unset")),
    "exec": _Wrapper("a"),
    "flock": _Wrapper("Ew", ("conflict-exit-code", "timeout", "wait"), operands=1),
    "ionice": _Wrapper("cnpPu", ("class", "classdata", "pid", "pgid", "uid")),
    "nice": _Wrapper("n", ("adjustment",)),
    "nohup": _Wrapper(),
    "setsid": _Wrapper(),
    "stdbuf": _Wrapper("eio", ("error", "input", "output")),
    "sudo": _Wrapper(
        "CDghpRrTtUu",
        (
            "chdir",
            "chroot",
            "close-from",
            "command-timeout",
            "group",
            "host",
            "other-user",
            "prompt",
            "role",
            "type",
            "user",
        ),
    ),
    "taskset": _Wrapper(operands=1),
    "time": _Wrapper("fo", ("format", "output")),
    "timeout": _Wrapper("ks", ("kill-after", "signal"), operands=1),
    "toybox": _Wrapper(),
    "xargs": _Wrapper(
        "adEILnPs",
        ("arg-file", "delimiter", "max-args", "max-chars", "max-procs", "process-slot-var"),
    ),
}

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*(\[.*\])?\+?=")
_PATTERN_CHARACTERS = frozenset("*?[]{}")
_NOT_PATTERNS = frozenset(("[", "[[", "{", "}"))
_SHELL_LONG_OPTIONS = frozenset(
    ("debugger", "login", "noediting", "noprofile", "norc", "posix", "restricted", "verbose")
)
_FIND_RUNS = frozenset(("-exec", "-execdir", "-ok", "-okdir"))


def commands_run(command: str, args: Sequence[str] = ()) -> list[list[str]]:
    """The words of every command that this one runs, itself first, each led by its bare name.

    ``command`` is read as shell text, so it may be a whole line; ``args`` are words as they are.
    Raises Unreadable if it can't be told which commands would run.
    """
    if any("\0" in word for word in args):
        raise Unreadable("it has a NUL character")
    lines = simple_commands(command)
    if not lines:
        raise Unreadable("it names no command")
    lines[-1].extend(args)
    return [words for line in lines for words in _unwrapped(line, 0)]


def program(word: str) -> str:
    """The bare name of a program: no directories, and ``mkfs`` for all of its kinds."""
    name = word.rpartition("/")[2]
    return "mkfs" if name.startswith("mkfs.") else name or word


def _unwrapped(line: list[str], depth: int) -> Iterator[list[str]]:
    if depth > MAX_NESTING:
        raise Unreadable("it is wrapped too deeply")
    words = _without_assignments(line)
    if not words:
        return
    if not words[0]:
        raise Unreadable("a command in it has no name")
    if EXPANSION in words[0] or _is_pattern(words[0]):
        raise Unreadable("the name of a command is known only when it runs")
    name = program(words[0])
    rest = words[1:]
    yield [name, *rest]
    for inner in _started_by(name, rest, depth):
        yield from _unwrapped(inner, depth + 1)


def _without_assignments(words: list[str]) -> list[str]:
    first = next((i for i, word in enumerate(words) if not _ASSIGNMENT.match(word)), len(words))
    return words[first:]


def _is_pattern(name: str) -> bool:
    return name not in _NOT_PATTERNS and not _PATTERN_CHARACTERS.isdisjoint(name)


def _started_by(name: str, rest: list[str], depth: int) -> Iterator[list[str]]:
    if name in _SHELLS:
        yield from _commands_in(_shell_text(rest), depth)
    elif name in _JOIN_TO_SHELL_TEXT:
        operands = _after_options(rest, _JOIN_TO_SHELL_TEXT[name])
        yield from _commands_in(" ".join(operands), depth)
    elif name == "find":
        yield from _run_by_find(rest)
    elif name in _WRAPPERS:
        yield _wrapped(name, rest)
    if name in _TAKE_SHELL_TEXT:
        yield from _commands_in(_value_of_c(rest), depth)


def _commands_in(text: str | None, depth: int) -> list[list[str]]:
    return [] if text is None else simple_commands(text, depth)


def _shell_text(rest: list[str]) -> str | None:
    inline = False
    words = iter(rest)
    for word in words:
        if word in ("-", "--"):
            return next(words, None) if inline else None
        if word[:1] not in ("-", "+"):
            return word if inline else None
        if word.lstrip("-") in ("rcfile", "init-file"):
            next(words, None)
        elif not word.startswith("--") and word[1:] not in _SHELL_LONG_OPTIONS:
            inline = inline or (word[0] == "-" and "c" in word)
            for _ in range(word.lower().count("o")):
                next(words, None)
    return None


def _value_of_c(rest: list[str]) -> str | None:
    words = iter(rest)
    for word in words:
        name, equals, value = word.partition("=")
        if _is_long(name, "command") or _is_long(name, "session-command"):
            return value if equals else next(words, None)
        if word.startswith("-") and not word.startswith("--") and "c" in word:
            return word.partition("c")[2] or next(words, None)
    return None


def _wrapped(name: str, rest: list[str]) -> list[str]:
    if name == "command" and rest[:1] in (["-v"], ["-V"]):
        return []
    wrapper = _WRAPPERS[name]
    if name == "env":
        rest = _with_split_string(rest, wrapper)
    words = _after_options(rest, wrapper)[wrapper.operands :]
    first = next((i for i, word in enumerate(words) if "=" not in word), len(words))
    return words[first:]


def _with_split_string(rest: list[str], env: _Wrapper, inner: bool = False) -> list[str]:
    """The words of ``env`` with its ``-S`` carried out: the text after it becomes words."""
    at = 0
    while at < len(rest) and rest[at].startswith("-"):
        found, text = _split_string(rest[at])
        if found and inner:
            raise Unreadable("it has an env -S inside another")
        if found:
            after = rest[at + 1 :]
            taken = 0 if text else 1
            words = _split_as_env(text or "".join(after[:1])) + after[taken:]
            return _with_split_string(words, env, inner=True)
        at += 1 + _takes_next_word(rest[at], env)
    return rest


def _split_string(option: str) -> tuple[bool, str]:
    """Returns whether the option is ``-S``, and the text attached to it."""
    if option.startswith("--"):
        name, _, text = option.partition("=")
        return _is_long(name, "split-string"), text
    _, letter, text = option.partition("S")
    return bool(letter), text


def _split_as_env(text: str) -> list[str]:
    if "\\" in text or "$" in text:
        raise Unreadable("it has an env -S with escapes or expansions")
    return split(text)


def _after_options(words: list[str], wrapper: _Wrapper) -> list[str]:
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 1
        if words[at - 1] == "--":
            break
        at += _takes_next_word(words[at - 1], wrapper)
    return words[at:]


def _takes_next_word(option: str, wrapper: _Wrapper) -> bool:
    if option.startswith("--"):
        return any(_is_long(option, name) for name in wrapper.long)
    valued = [index for index, char in enumerate(option) if char in wrapper.short]
    return bool(valued) and valued[0] == len(option) - 1


def _is_long(option: str, name: str) -> bool:
    """Returns whether ``option`` is the long option, perhaps abbreviated as the GNU tools allow."""
    return len(option) > 2 and f"--{name}".startswith(option)


def _run_by_find(rest: list[str]) -> Iterator[list[str]]:
    words = iter(rest)
    for word in words:
        if word in _FIND_RUNS:
            run = []
            for part in words:
                if part in (";", "+"):
                    break
                run.append(part)
            yield run
