from __future__ import annotations

import re
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.globs import (
    check_glob,
    escape,
    has_parent_segment,
    literal,
    matches,
)

ALPHABET = "ab/.-]*?[!"

MATCHING = [
    ("/a/*.txt", "/a/b.txt"),
    ("/a/*", "/a/.hidden"),
    ("*", ""),
    ("?", "."),
    ("/a/?", "/a/b"),
    ("/a/**", "/a/b"),
    ("/a/**", "/a/b/c/d"),
    ("/a/**", "/a/"),
    ("/a/**/b", "/a/b"),
    ("/a/**/b", "/a/x/y/b"),
    ("**/b", "b"),
    ("**/b", "/x/b"),
    ("a**b", "a/x/b"),
    ("a**/b", "ax/y/b"),
    ("***", "x/y"),
    ("**/**/**/a", "a"),
    ("[ab]c", "bc"),
    ("[a-c]x", "bx"),
    ("[!a]x", "bx"),
    ("[^a]x", "bx"),
    ("[]]", "]"),
    ("[!]]", "a"),
    ("[a-]", "-"),
    ("[[]", "["),
    ("a]", "a]"),
    ("a/...", "a/..."),
    ("a..b", "a..b"),
    ("a\n*", "a\nb"),
    ("[&&~~||]", "|"),
    (r"a\*", r"a\b"),
    ("{a,b}", "{a,b}"),
    ("~/x", "~/x"),
    ("!a", "!a"),
    ("mcp://*:re*", "mcp://survey:read"),
]

NOT_MATCHING = [
    ("/a/*", "/a/b/c"),
    ("/a/*", "/a/b\n/c"),
    ("/a?b", "/a/b"),
    ("/a/**", "/a"),
    ("/a/**", "/ab"),
    ("/a/**/b", "/a/xb"),
    ("**/b", "xb"),
    ("a", "A"),
    ("a", "a/"),
    ("a", "a\n"),
    ("a*", "ba"),
    ("*a", "ab"),
    ("a.c", "abc"),
    ("[ab]", "ab"),
    ("[!a]", "/"),
    ("[+-9]", "/"),
    ("[/]", "/"),
    ("[^]]", "]"),
    ("{a,b}", "a"),
    ("!a", "b"),
    ("~/x", "/root/x"),
    (r"a\*", "a*"),
    ("/**", "/a/../b"),
    ("**", ".."),
    ("**", "../a"),
    ("**", "a/.."),
    ("/a/../b", "/a/../b"),
]


@pytest.mark.parametrize(("pattern", "text"), MATCHING)
def test_a_glob_matches(pattern: str, text: str) -> None:
    assert matches(pattern, text)


@pytest.mark.parametrize(("pattern", "text"), NOT_MATCHING)
def test_a_glob_does_not_match(pattern: str, text: str) -> None:
    assert not matches(pattern, text)


@pytest.mark.parametrize("pattern", ["[", "a[b", "[]", "[!]", "[^]", "[z-a]", "a" * 4097])
def test_a_bad_pattern_is_refused_by_name_wherever_it_is_used(pattern: str) -> None:
    with pytest.raises(InvalidValue):
        matches(pattern, "x")
    with pytest.raises(InvalidValue, match=r"^rules\[1\]: ") as caught:
        check_glob(pattern, "rules[1]")
    assert caught.value.details == {"field": "rules[1]"}


@pytest.mark.parametrize("pattern", [None, 7, "a\0b", "\ud800"])
def test_a_pattern_is_text(pattern: object) -> None:
    with pytest.raises(InvalidValue, match=r"^glob: "):
        check_glob(pattern, "glob")


def test_a_pattern_of_the_greatest_length_is_taken() -> None:
    assert check_glob("a" * 4096, "glob") == "a" * 4096


@settings(deadline=None)
@given(st.text(), st.text())
@example("/data/[1]/a*?.txt", "/data/1/abc.txt")
def test_an_escaped_text_matches_itself_and_nothing_else(text: str, other: str) -> None:
    assert matches(escape(text), text) != has_parent_segment(text)
    assert literal(escape(text)) == text
    assert matches(escape(text), other) == (text == other and not has_parent_segment(text))


@settings(deadline=None)
@given(st.text(ALPHABET, max_size=8), st.text(ALPHABET, max_size=8))
def test_an_escaped_text_matches_no_near_miss(text: str, other: str) -> None:
    assert not (matches(escape(text), other) and text != other)


@pytest.mark.parametrize(
    ("pattern", "text"), [("a", "a"), ("[*]x", "*x"), ("", ""), ("[!a]", None), ("[/]", None)]
)
def test_literal_is_the_only_text_that_can_match(pattern: str, text: str | None) -> None:
    assert literal(pattern) == text


@pytest.mark.parametrize("path", ["..", "a/..", "../a", "a/../b", "/.."])
def test_parent_segments_are_found(path: str) -> None:
    assert has_parent_segment(path)


@pytest.mark.parametrize("path", ["", "a..", "..a/b", "a/.../b", ".", "a/./b"])
def test_dots_that_are_not_a_parent_segment(path: str) -> None:
    assert not has_parent_segment(path)


HOSTILE = [
    "**/" * 50 + "x",
    "*/" * 50 + "x",
    "*a" * 60 + "x",
    "**a" * 60 + "x",
    "a**" * 1300 + "x",
    "**a*" * 900 + "x",
    "**/a*/" * 600 + "x",
    "**/*" + "/*" * 500 + "x",
    "**a*" + "a" * 2000 + "x",
    "*?" * 1000 + "x",
    "[a-z]*" * 600 + "x",
]


@pytest.mark.parametrize("pattern", HOSTILE)
@pytest.mark.parametrize("text", ["a" * 5000, "a/" * 2500, "aa/a" * 1200])
def test_a_hostile_pattern_is_answered(pattern: str, text: str) -> None:
    assert not matches(pattern, text)


PARTS = ["a", "b", "/", ".", "*", "**", "?", "[ab]", "[!a]", "/**/", "**/"]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=9), st.text("ab/.", max_size=10))
@example(["**", "a", "*", "b"], "ab/ab")
@example(["**", "a", "/", "*", "b", "**", "a"], "a/a/ab/a")
def test_matching_agrees_with_the_rules_applied_one_by_one(parts: list[str], text: str) -> None:
    pattern = "".join(parts)
    assert matches(pattern, text) == (".." not in text.split("/") and by_the_rules(pattern, text))


def by_the_rules(pattern: str, text: str) -> bool:
    """What the rules say, tried in every way: slow, and too simple to be wrong."""

    @cache
    def fits(at: int, position: int) -> bool:
        rest, left = pattern[at:], text[position:]
        if not rest:
            return not left
        if stars := re.match(r"\*\*+", rest):
            after = at + stars.end()
            starts_segment = at == 0 or pattern[at - 1] == "/"
            if starts_segment and pattern[after : after + 1] == "/":
                ends = [0, *(found.end() for found in re.finditer("/", left))]
                return any(fits(after + 1, position + end) for end in ends)
            return any(fits(after, position + end) for end in range(len(left) + 1))
        if rest[0] == "*":
            segment = len(left.split("/")[0])
            return any(fits(at + 1, position + end) for end in range(segment + 1))
        token = re.match(r"\[.*?\]|.", rest)
        assert token is not None
        return left != "" and one(token.group(), left[0]) and fits(at + token.end(), position + 1)

    def one(token: str, character: str) -> bool:
        match token:
            case "?":
                return character != "/"
            case "[ab]":
                return character in "ab"
            case "[!a]":
                return character not in "a/"
        return token == character

    return fits(0, 0)
