from __future__ import annotations

import pytest

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.network import check_host, check_port, host_and_port, parse_url


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("my_host-1", "my_host-1"),
        ("10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ],
)
def test_a_host_has_one_normal_form(given: str, normal: str) -> None:
    assert check_host(given, "host") == normal
    assert check_host(normal, "host") == normal


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "a..b",
        "*.example.com",
        "example.com:443",
        "http://example.com",
        "example.com/path",
        "user@example.com",
        "exa mple.com",
        "bücher.example",
        "example.com\0",
        "example.com\n",
        "ex%61mple.com",
        "a" * 254,
        None,
    ],
)
def test_what_is_not_a_host_is_refused_by_name(host: object) -> None:
    with pytest.raises(InvalidValue, match=r"^peer: "):
        check_host(host, "peer")


@pytest.mark.parametrize("port", [0, -1, 65536, True, "80", 80.0, None])
def test_what_is_not_a_port_is_refused_by_name(port: object) -> None:
    with pytest.raises(InvalidValue, match=r"^port: "):
        check_port(port, "port")


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://Example.com/a?b#c", "example.com", 443),
        ("http://example.com", "example.com", 80),
        ("http://example.com:8080/", "example.com", 8080),
        ("http://good.example@evil.example/", "evil.example", 80),
        ("http://evil.example#@good.example/", "evil.example", 80),
        ("wss://[::1]/x", "::1", 443),
        ("redis://cache", "cache", None),
    ],
)
def test_a_url_leads_to_a_host_and_a_port(url: str, host: str, port: int | None) -> None:
    assert parse_url(url, "url") == (host, port)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "/path",
        "http:///path",
        "file:///etc/passwd",
        "http://a:99999/",
        "http://a:0/",
        "http://a:b/",
        "http://[::1/",
        "http://good.example\\@evil.example/",
        "http://exa\tmple.com",
        " http://example.com",
        "http://bücher.example/",
    ],
)
def test_a_url_that_parsers_may_read_differently_is_refused(url: str) -> None:
    with pytest.raises(InvalidValue, match=r"^url: "):
        parse_url(url, "url")


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [("a", None, "a"), ("a", 1, "a:1"), ("::1", 443, "[::1]:443"), ("::1", None, "[::1]")],
)
def test_host_and_port_as_uris_write_them(host: str, port: int | None, text: str) -> None:
    assert host_and_port(host, port) == text
