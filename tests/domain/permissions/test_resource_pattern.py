from __future__ import annotations

from itertools import product

import pytest

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.permissions.actions import (
    Action,
    ExecuteCommand,
    FileRead,
    McpToolCall,
    NetworkRequest,
    PluginExecution,
    PluginHttpRequest,
)
from retinue.actors.domain.permissions.resource_pattern import (
    covers,
    exactly,
    index_key,
    index_keys,
    matches,
    normal_pattern,
    parse_resource,
)

MATCHES = [
    ("mcp://fs:read", "mcp://fs:read"),
    ("mcp://fs:*", "mcp://fs:read"),
    ("mcp://f?:read_*", "mcp://fs:read_file"),
    ("mcp://*:*", "mcp://fs:read"),
    ("mcp://fs:*", "mcp://fs:ns:read"),
    ("mcp://a%3Ab:*", "mcp://a%3Ab:c"),
    ("file:///ws/**", "file:///ws/a/b.txt"),
    ("file:///ws/*.txt", "file:///ws/.txt"),
    ("file:///**/b", "file:///a/c/b"),
    ("file:///a[[]1]", "file:///a[1]"),
    ("exec://git", "exec://git"),
    ("exec:///usr/bin/*", "exec:///usr/bin/git"),
    ("net://example.com:443", "net://EXAMPLE.com:443"),
    ("net://Example.COM.:443", "net://example.com:443"),
    ("net://*.Example.com:*", "net://a.b.example.com:8080"),
    ("net://[a-c]x.com:80", "net://bx.com:80"),
    ("net://h:44[34]", "net://h:443"),
    ("net://h:*", "net://h"),
    ("net://h", "net://h"),
    ("net://[::1]:443", "net://[0:0::1]:443"),
    ("net://[::1]", "net://[::1]"),
    ("net://*:443", "net://[::1]:443"),
    ("plugin://weather:http_*", "plugin://weather:http_request"),
]

DIFFERS = [
    ("mcp://fs:read", "mcp://fs:Read"),
    ("mcp://fs:read", "plugin://fs:read"),
    ("mcp://*:read", "mcp://fs:ns:read"),
    ("mcp://fs*:read", "mcp://fs:x:read"),
    ("mcp://**:read", "mcp://fs:x:read"),
    ("mcp://fs:*", "mcp://fs:a/b"),
    ("mcp://fs:*", "mcp://fs:"),
    ("mcp://*:read", "mcp://:read"),
    ("mcp://fs:**", "mcp://fs:../x"),
    ("file:///ws/**", "file:///ws"),
    ("file:///ws/**", "file:///wsx/a"),
    ("file:///ws/*", "file:///ws/a/b"),
    ("file:///ws/**", "file:///ws/../etc/passwd"),
    ("file:///**", "file:///.."),
    ("file:///**", "file://relative"),
    ("file:///a[[]1]", "file:///a1"),
    ("exec://*", "exec:///usr/bin/git"),
    ("exec://git", "exec://gitk"),
    ("exec://**", "exec://"),
    ("net://*:80", "net://h:443"),
    ("net://h:443", "net://h"),
    ("net://h", "net://h:443"),
    ("net://example.com:*", "net://badexample.com:1"),
    ("net://*:*", "net://h:0"),
    ("net://*:*", "net://h:65536"),
    ("net://*:*", "net://h:x"),
    ("net://*:*", "net://h@evil.com:80"),
    ("net://*:*", "net://::1:80"),
    ("plugin://a:*", "plugin://b:x"),
    ("file:///**", "transmit://somebody"),
    ("file:///**", ""),
]

MALFORMED = [
    "",
    "fs:read",
    "mcp:fs:read",
    "MCP://fs:read",
    "mcp://fs",
    "mcp://:read",
    "mcp://fs:",
    "mcp://[a:b]:c",
    "mcp://fs:[",
    "mcp://..:x",
    "file://ws/a",
    "file://",
    "file:///ws/../**",
    "file:///**/..",
    "file:///[z-a]",
    "file:///a\0",
    "file:///\ud800",
    "exec://",
    "exec://../x",
    "net://",
    "net://:443",
    "net://h:",
    "net://h:0",
    "net://h:65536",
    "net://h:080",
    "net://h:http",
    "net://a b:80",
    "net://::1:80",
    "net://[a:*]x:80",
    "plugin://p",
    "transmit://anybody",
    "*",
    "*://*",
]


@pytest.mark.parametrize(("pattern", "wanted"), MATCHES)
def test_a_pattern_matches(pattern: str, wanted: str) -> None:
    assert matches(pattern, wanted)


@pytest.mark.parametrize(("pattern", "wanted"), DIFFERS)
def test_every_other_resource_is_not_matched(pattern: str, wanted: str) -> None:
    assert not matches(pattern, wanted)


@pytest.mark.parametrize("pattern", MALFORMED)
def test_a_malformed_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidValue, match=r"^resource: ") as caught:
        normal_pattern(pattern)
    assert caught.value.details["field"] == "resource"
    with pytest.raises(InvalidValue):
        matches(pattern, "mcp://fs:read")
    with pytest.raises(InvalidValue):
        covers("mcp://fs:read", pattern)


@pytest.mark.parametrize("pattern", [7, None, b"exec://git"])
def test_a_pattern_is_text(pattern: object) -> None:
    with pytest.raises(InvalidValue, match="resource"):
        normal_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "normal"),
    [
        ("net://Example.COM.:443", "net://example.com:443"),
        ("net://*.Example.com:*", "net://*.example.com:*"),
        ("net://[0:0::1]:443", "net://[::1]:443"),
        ("net://[::1]", "net://[::1]"),
        ("mcp://Fs:Read", "mcp://Fs:Read"),
        ("file:///A/**", "file:///A/**"),
    ],
)
def test_only_hosts_have_another_normal_form(pattern: str, normal: str) -> None:
    assert normal_pattern(pattern) == normal
    assert normal_pattern(normal) == normal


@pytest.mark.parametrize(
    "action",
    [
        FileRead("/ws/a[1]*?.txt"),
        FileRead("/ws/**"),
        ExecuteCommand("/usr/bin/[x]"),
        McpToolCall("a:b%", "c:d*"),
        NetworkRequest("Example.com", 443),
        NetworkRequest("::1", 443),
        NetworkRequest("::1"),
        PluginExecution("p:q", "x?"),
        PluginHttpRequest("p", "https://example.com/"),
    ],
    ids=repr,
)
def test_exactly_names_one_action_and_no_other(action: Action) -> None:
    wanted, _ = action.wanted()
    pattern = exactly(wanted)
    assert matches(pattern, wanted)
    assert normal_pattern(pattern) == pattern
    for magic in "*?[":
        other = wanted.replace(magic, "z")
        assert other == wanted or not matches(pattern, other)
    assert not matches(pattern, wanted + "z")


def test_a_server_with_a_colon_is_not_a_server_and_a_tool() -> None:
    one, _ = McpToolCall("a:b", "c").wanted()
    other, _ = McpToolCall("a", "b:c").wanted()
    assert not matches(exactly(one), other)
    assert not matches(exactly(other), one)
    assert not matches("mcp://a:*", one)


@pytest.mark.parametrize("wanted", ["", "mcp://fs", "file:///a/../b", "net://h:99999", "grant://x"])
def test_what_no_pattern_can_name_has_no_exact_pattern(wanted: str) -> None:
    with pytest.raises(InvalidValue, match="resource"):
        exactly(wanted)


class TestCovers:
    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("file:///ws/**", "file:///ws/a/**"),
            ("file:///ws/**", "file:///ws/*/x[ab]?"),
            ("file:///ws/**", "file:///ws/a"),
            ("file:///w[*]/**", "file:///w[*]/a/*"),
            ("file:///*/a", "file:///b/a"),
            ("file:///*/a", "file:///*/a"),
            ("file:///[*]", "file:///[*]"),
            ("file:///?", "file:///[*]"),
            ("mcp://fs:*", "mcp://fs:read_*"),
            ("mcp://*:*", "mcp://fs:*"),
            ("net://*.Example.com:*", "net://api.example.com:443"),
            ("net://*:*", "net://[::1]"),
        ],
    )
    def test_narrower(self, old: str, new: str) -> None:
        assert covers(old, new)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("file:///ws/a/**", "file:///ws/**"),
            ("file:///ws/**", "file:///ws**"),
            ("file:///ws/**", "file:///**/a"),
            ("file:///ws/*", "file:///ws/**"),
            ("file:///ws/*", "file:///ws/a*/b"),
            ("file:///ws/a", "file:///ws/b"),
            ("file:///ws/a", "file:///ws/*"),
            ("file:///*/a/**", "file:///*/a/b*"),
            ("mcp://fs:read", "plugin://fs:read"),
            ("mcp://fs:read", "mcp://*:read"),
            ("mcp://fs:*", "mcp://fs:**"),
            ("net://h:443", "net://h:*"),
            ("net://h:443", "net://h"),
        ],
    )
    def test_wider_or_not_provable(self, old: str, new: str) -> None:
        assert not covers(old, new)

    def test_what_is_covered_matches_nothing_that_the_cover_does_not(self) -> None:
        """All globs of up to three pieces against each other, over all short paths."""
        pieces = ("a", "/", "*", "**", "?", "[ab]", "[*]")
        patterns = [
            "file:///" + "".join(p) for n in (0, 1, 2, 3) for p in product(pieces, repeat=n)
        ]
        paths = ["file:///" + "".join(p) for n in range(5) for p in product("ab/*", repeat=n)]
        matched = {
            pattern: {path for path in paths if matches(pattern, path)} for pattern in set(patterns)
        }
        narrower = [(o, n) for o, n in product(matched, repeat=2) if o != n and covers(o, n)]
        assert len(narrower) > 1000
        assert [pair for pair in narrower if not matched[pair[1]] <= matched[pair[0]]] == []


@pytest.mark.parametrize(("pattern", "wanted"), MATCHES)
def test_an_index_finds_every_pattern_that_matches(pattern: str, wanted: str) -> None:
    parts = parse_resource(wanted)
    assert parts is not None
    assert index_key(normal_pattern(pattern)) in index_keys(parts)


def test_an_index_is_cheap_to_ask_about_a_hostile_path() -> None:
    parts = parse_resource("file://" + "/" * 1_000_000)
    assert parts is not None
    assert len(index_keys(parts)) < 10_000
