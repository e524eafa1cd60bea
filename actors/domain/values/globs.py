"""Globs over paths, commands and ``server/tool`` names.

* ``*`` and ``?`` stop at ``/``, and match a leading dot like any other character;
* ``**`` crosses ``/``; as a whole segment followed by ``/`` it stands for no segment too, so that
  ``a/**/b`` matches ``a/b``, while ``a/**`` matches what is under ``a`` and not ``a``;
* ``[abc]``, ``[a-z]``, ``[!a]`` and ``[^a]`` are one character, never ``/``; a ``]`` that comes
  first is a member. There is no other way to take a character literally (see `escape`);
* all else is itself, and case counts. Nothing else is expanded: no braces, tildes or backslashes;
* the whole text must match, and a text with a ``..`` segment never does.

wcmatch reads these otherwise (its ``**`` crosses only as a whole segment, and it lets a text end in
slashes that the pattern hasn't), so the translation is our own.

Time grows with length of pattern times length of text, whatever the pattern. That rests on what a
star may take: in a run of pieces with ``*`` between them, if a piece fits at some place then
its first place leaves the most to those after it; and where ``**`` comes before such a run, the
first segment where the whole run fits does the same for the rest. So each is an atomic group that,
once matched, is never tried again.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple, TypeAlias

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.checks import check_clean
from retinue.actors.domain.values.json_value import shown

MAX_PATTERN = 4096

# What a token becomes in a regex (or the name of its star), and its one character if it is one.
_Token: TypeAlias = tuple[str, str | None]

_STAR, _ACROSS, _SEGMENTS = "*", "**", "**/"  # no translated character looks like these
_MAGIC = re.compile(r"[*?[]")
_TOKEN = re.compile(r"\*\*+/?|\[[!^]?+\]?+[^\]]*+\]|.", re.DOTALL)
_SKIP_SEGMENTS = "(?:[^/]*/)*?"
_END = r"\Z"


def matches(pattern: str, text: str) -> bool:
    """True if all of ``text`` matches; raises InvalidValue for a bad pattern, as `check_glob`."""
    compiled = _compiled(pattern)
    if has_parent_segment(text):
        return False
    if compiled.literal is not None:
        return compiled.literal == text
    return compiled.regex.match(text) is not None


def check_glob(pattern: object, field: str) -> str:
    """Returns ``pattern`` if it is a glob.

    Raises InvalidValue, naming ``field``, if it is not text, is over 4096 characters, or has a
    class that is not closed or runs backwards.
    """
    text = check_clean(pattern, field)
    try:
        _compiled(text)
    except InvalidValue as problem:
        reason = problem.message.removeprefix("glob: ")
        raise InvalidValue(f"{field}: {reason}", field=field) from None
    return text


def escape(text: str) -> str:
    """The pattern that matches ``text`` and nothing else."""
    return _MAGIC.sub(r"[\g<0>]", text)


def literal(pattern: str) -> str | None:
    """The only text that ``pattern`` can match, or None if there may be several."""
    return _compiled(pattern).literal


def has_parent_segment(path: str) -> bool:
    """Returns whether one of the segments between the slashes of ``path`` is ``..``."""
    return ".." in path and ".." in path.split("/")


class _Compiled(NamedTuple):
    regex: re.Pattern[str]
    literal: str | None


@lru_cache(maxsize=8192)
def _compiled(pattern: str) -> _Compiled:
    if len(pattern) > MAX_PATTERN:
        raise InvalidValue(f"glob: over {MAX_PATTERN} characters", field="glob")
    tokens = _tokens(pattern)
    return _Compiled(re.compile(_translate([part for part, _ in tokens])), _literal(tokens))


def _tokens(pattern: str) -> list[_Token]:
    tokens: list[_Token] = []
    for found in _TOKEN.finditer(pattern):
        token = found.group()
        if token[:2] == "**":
            starts_segment = pattern[: found.start()].endswith("/") or found.start() == 0
            if token[-1] != "/":
                tokens.append((_ACROSS, None))
            elif starts_segment:
                tokens.append((_SEGMENTS, None))
            else:
                tokens += [(_ACROSS, None), ("/", "/")]
        else:
            tokens.append(_single(token, pattern))
    return tokens


def _single(token: str, pattern: str) -> _Token:
    match token:
        case "*":
            return _STAR, None
        case "?":
            return "[^/]", None
        case "[":
            raise _invalid(pattern, "has a [ without its ]; a [ itself is written [[]")
        case _ if len(token) > 1:
            return _class(token, pattern)
    return re.escape(token), token


def _class(token: str, pattern: str) -> _Token:
    negated = token[1] in "!^"
    members = token[2:-1] if negated else token[1:-1]
    if len(members) == 1 and not negated and members != "/":
        return re.escape(members), members
    ranges = re.sub(r"(.)-(.)|.", lambda found: _member(found, pattern), members, flags=re.DOTALL)
    return f"(?!/)[{'^' if negated else ''}{ranges}]", None


def _member(found: re.Match[str], pattern: str) -> str:
    first, last = found.groups()
    if first is None:
        return re.escape(found.group())
    if first > last:
        raise _invalid(pattern, f"has the class range {found.group()}, which runs backwards")
    return f"{re.escape(first)}-{re.escape(last)}"


def _literal(tokens: list[_Token]) -> str | None:
    characters = [character for _, character in tokens if character is not None]
    return "".join(characters) if len(characters) == len(tokens) else None


def _translate(parts: list[str]) -> str:
    """The regex of a pattern: runs, each in an atomic group behind the ``**`` that it follows."""
    runs: list[tuple[str, list[str]]] = [("", [])]
    for part, repeated in groupby(parts):
        if part in (_ACROSS, _SEGMENTS):
            runs.append((part, []))
        else:
            runs[-1][1].extend(repeated)
    runs[-1][1].append(_END)
    return "".join(_run(star, parts) for star, parts in runs)


def _run(star: str, parts: list[str]) -> str:
    first, *others = _split_at_stars(parts)
    rest = "".join(_behind_star(piece) for piece in others)
    if star == _ACROSS:
        return f"(?>{_SKIP_SEGMENTS}{_behind_star(first)}{rest})"
    if star == _SEGMENTS:
        return f"(?>{_SKIP_SEGMENTS}{first}{rest})"
    return first + rest


def _behind_star(piece: str) -> str:
    return f"(?>[^/]*?{piece})"


def _split_at_stars(parts: list[str]) -> list[str]:
    pieces = [""]
    for part in parts:
        if part == _STAR:
            pieces.append("")
        else:
            pieces[-1] += part
    return pieces


def _invalid(pattern: str, problem: str) -> InvalidValue:
    return InvalidValue(f"glob: {shown(pattern)} {problem}", field="glob")
