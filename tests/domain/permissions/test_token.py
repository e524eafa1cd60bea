from __future__ import annotations

import uuid
from typing import TypedDict

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from retinue.actors.domain.errors import InvalidValue, Tampered
from retinue.actors.domain.permissions.capabilities.token import (
    PERMISSIONS,
    SKEW_US,
    Token,
    attenuate,
    check_narrower,
    check_signature,
    mint,
    signing_bytes,
    verify,
    wrong_time,
)
from retinue.actors.domain.permissions.resource_pattern import matches
from retinue.actors.domain.values.keyring import Keyring

KEYS = Keyring(b"k" * 32)
STRANGER = Keyring(b"s" * 32)
USER = "0123456789abcdef"
FAMILY, OTHER_FAMILY = str(uuid.UUID(int=100)), str(uuid.UUID(int=101))
NOW = 1_750_000_000_000_000
HOUR = 3_600_000_000


class Changes(TypedDict, total=False):
    id: str
    resource: str
    permissions: list[str] | tuple[str, ...] | str
    now: int
    expires: int
    user: str
    audit_entry: str
    family_id: str | None
    single_use: bool


class Narrowing(TypedDict, total=False):
    resource: str
    permissions: list[str]
    expires: int
    single_use: bool
    now: int


def token_id(number: int) -> str:
    return str(uuid.UUID(int=number))


def minted(changes: Changes | None = None, keys: Keyring = KEYS) -> Token:
    usual: Changes = {
        "id": token_id(1),
        "resource": "file:///ws/**",
        "permissions": ["read", "write"],
        "now": NOW,
        "expires": NOW + HOUR,
        "user": USER,
        "audit_entry": "audit-1",
    }
    return mint(keys, **(usual | (changes or {})))


def narrowed(token: Token, changes: Narrowing, keys: Keyring = KEYS) -> Token:
    usual: Narrowing = {"now": NOW + 1}
    return attenuate(keys, token, id=token_id(2), **(usual | changes))


class TestMint:
    def test_a_minted_token_says_what_was_asked_and_is_believed(self) -> None:
        token = minted({"permissions": ["write", "read", "read"], "single_use": True})
        assert token.permissions == ("read", "write")
        assert (token.scope, token.family_id, token.parent) == ("persistent", None, None)
        assert (token.issued, token.expires, token.single_use) == (NOW, NOW + HOUR, True)
        assert (token.issuer, token.user, token.audit_entry) == (KEYS.issuer, USER, "audit-1")
        verify(KEYS, token, NOW)

    def test_with_a_family_it_is_a_session_token(self) -> None:
        token = minted({"family_id": FAMILY.upper()})
        assert (token.scope, token.family_id) == ("session", FAMILY)
        verify(KEYS, token, NOW)

    @pytest.mark.parametrize(
        ("field", "changes"),
        [
            ("id", Changes(id="not a uuid")),
            ("resource", Changes(resource="ws/**")),
            ("resource", Changes(resource="file:///ws/../**")),
            ("permissions", Changes(permissions=[])),
            ("permissions", Changes(permissions=["read", "own"])),
            ("permissions", Changes(permissions="read")),
            ("issued", Changes(now=-1)),
            ("expires", Changes(expires=NOW)),
            ("expires", Changes(expires=NOW - SKEW_US // 2)),
            ("expires", Changes(expires=2**63)),
            ("user", Changes(user="0123")),
            ("audit_entry", Changes(audit_entry="")),
            ("audit_entry", Changes(audit_entry="\ud800")),
            ("family_id", Changes(family_id="")),
        ],
        ids=str,
    )
    def test_a_wrong_field_is_named(self, field: str, changes: Changes) -> None:
        with pytest.raises(InvalidValue, match=f"^{field}: ") as caught:
            minted(changes)
        assert caught.value.details["field"] == field


class TestVerify:
    @pytest.mark.parametrize(
        ("at", "problem"),
        [
            (NOW - SKEW_US - 1, "early"),
            (NOW - SKEW_US, None),
            (NOW, None),
            (NOW + HOUR + SKEW_US - 1, None),
            (NOW + HOUR + SKEW_US, "expired"),
        ],
    )
    def test_clocks_may_differ_by_30_seconds(self, at: int, problem: str | None) -> None:
        token = minted()
        assert wrong_time(token, at) == problem
        if problem is None:
            verify(KEYS, token, at)
        else:
            with pytest.raises(InvalidValue, match=token.id):
                verify(KEYS, token, at)

    @pytest.mark.parametrize(
        "changed",
        [
            {"id": token_id(9)},
            {"resource": "file:///**"},
            {"permissions": ("read", "write", "delete")},
            {"permissions": ("read",)},
            {"issued": NOW - 1},
            {"expires": NOW + 2 * HOUR},
            {"scope": "persistent", "family_id": None},
            {"family_id": OTHER_FAMILY},
            {"issuer": STRANGER.issuer},
            {"user": "f" * 16},
            {"audit_entry": "audit-2"},
            {"single_use": False},
            {"parent": token_id(9)},
            {"parent": None},
            {"signature": "00" * 64},
            {"signature": ""},
        ],
        ids=str,
    )
    def test_changing_any_field_breaks_the_signature(self, changed: dict[str, object]) -> None:
        parent = minted({"family_id": FAMILY, "single_use": True})
        token = narrowed(parent, {})
        verify(KEYS, token, NOW)
        with pytest.raises(Tampered, match="not signed by a key of this cluster"):
            verify(KEYS, replace(token, **changed), NOW)

    def test_every_field_is_signed(self) -> None:
        token = narrowed(minted({"family_id": FAMILY}), {})
        signed = {name for name in Token.__struct_fields__ if name != "signature"}
        assert {
            name for name in signed if signing_bytes(token) != changed_in(token, name)
        } == signed

    def test_another_clusters_token_is_refused(self) -> None:
        with pytest.raises(Tampered):
            verify(KEYS, minted(keys=STRANGER), NOW)

    def test_a_signed_token_that_mint_would_not_make_is_refused(self) -> None:
        wide = replace(minted(), resource="file:///ws/../**")
        signed = replace(wide, signature=KEYS.sign(signing_bytes(wide)))
        with pytest.raises(InvalidValue, match="resource"):
            verify(KEYS, signed, NOW)

    def test_a_token_read_back_is_checked_for_its_signature_at_any_time(self) -> None:
        token = minted()
        check_signature(KEYS, token)
        with pytest.raises(Tampered):
            check_signature(KEYS, replace(token, expires=token.expires + 1))

    def test_it_survives_msgpack(self) -> None:
        token = narrowed(minted({"family_id": FAMILY}), {})
        read = msgspec.msgpack.decode(msgspec.msgpack.encode(token), type=Token)
        assert read == token
        verify(KEYS, read, NOW)


def changed_in(token: Token, name: str) -> bytes:
    value = getattr(token, name)
    match value:
        case bool():
            return signing_bytes(replace(token, **{name: not value}))
        case int():
            return signing_bytes(replace(token, **{name: value + 1}))
        case tuple():
            return signing_bytes(replace(token, **{name: value[:-1]}))
        case None:
            return signing_bytes(replace(token, **{name: ""}))
    return signing_bytes(replace(token, **{name: value + "x"}))


class TestSigningBytes:
    @given(st.text("ab\0", max_size=5), st.integers(0, 5), st.integers(0, 5))
    @example("ab", 1, 2)
    @settings(max_examples=50)
    def test_no_byte_can_move_between_fields(self, text: str, cut: int, other: int) -> None:
        def split_at(place: int) -> bytes:
            return signing_bytes(replace(minted_once, user=text[:place], audit_entry=text[place:]))

        same = text[:cut] == text[:other]
        assert (split_at(cut) == split_at(other)) == same

    def test_no_byte_can_move_between_permissions(self) -> None:
        def of(*permissions: str) -> bytes:
            return signing_bytes(replace(minted_once, permissions=permissions))

        assert len({of("read", "write"), of("readwrite"), of("rea", "dwrite"), of()}) == 4

    def test_nothing_and_empty_are_told_apart(self) -> None:
        of_nobody = replace(minted_once, family_id=None, parent=None)
        of_empty = replace(minted_once, family_id="", parent=None)
        parent_empty = replace(minted_once, family_id=None, parent="")
        assert len({signing_bytes(token) for token in (of_nobody, of_empty, parent_empty)}) == 3

    def test_the_signed_form_never_changes(self) -> None:
        token = Token("i", "r", ("read",), 1, 20, "session", "f", "I", "u", "a", True, "p", "s")
        assert signing_bytes(token) == (
            b"troupe capability 1"
            b"\0\0\0\1i\0\0\0\1r\0\0\0\x08\0\0\0\4read\0\0\0\x011\0\0\0\x0220\0\0\0\7session"
            b"\0\0\0\5\0\0\0\1f\0\0\0\1I\0\0\0\1u\0\0\0\1a\0\0\0\4once\0\0\0\5\0\0\0\1p"
        )


minted_once = minted()


class TestRotation:
    def test_old_tokens_hold_while_the_old_key_is_in_the_ring(self) -> None:
        token = minted(keys=STRANGER)
        rotating, after = Keyring(b"k" * 32, b"s" * 32), Keyring(b"k" * 32)
        verify(rotating, token, NOW)
        with pytest.raises(Tampered):
            verify(after, token, NOW)

    def test_a_token_attenuated_from_an_old_one_is_of_the_current_key(self) -> None:
        rotating = Keyring(b"k" * 32, b"s" * 32)
        token = narrowed(minted(keys=STRANGER), {}, rotating)
        assert token.issuer == KEYS.issuer
        verify(KEYS, token, NOW)


class TestAttenuate:
    def test_what_is_not_given_stays(self) -> None:
        parent = minted({"family_id": FAMILY, "single_use": True})
        child = narrowed(parent, {})
        assert (child.id, child.parent, child.issued) == (token_id(2), parent.id, NOW + 1)
        same = {"id": parent.id, "parent": None, "issued": NOW, "signature": parent.signature}
        assert replace(child, **same) == parent
        verify(KEYS, child, NOW)

    def test_everything_can_be_narrowed(self) -> None:
        narrowing: Narrowing = {
            "resource": "file:///ws/a/*",
            "permissions": ["write"],
            "expires": NOW + 2,
            "single_use": True,
        }
        child = narrowed(minted(), narrowing)
        assert (child.resource, child.permissions) == ("file:///ws/a/*", ("write",))
        assert (child.expires, child.single_use) == (NOW + 2, True)
        verify(KEYS, child, NOW)

    @pytest.mark.parametrize(
        ("field", "narrowing"),
        [
            ("resource", Narrowing(resource="file:///**")),
            ("resource", Narrowing(resource="file:///ws/../etc")),
            ("resource", Narrowing(resource="exec://ls")),
            ("resource", Narrowing(resource="nonsense")),
            ("permissions", Narrowing(permissions=["read", "delete"])),
            ("permissions", Narrowing(permissions=["own"])),
            ("permissions", Narrowing(permissions=[])),
            ("expires", Narrowing(expires=NOW + HOUR + 1)),
            ("expires", Narrowing(expires=NOW + 1)),
            ("single_use", Narrowing(single_use=False)),
        ],
        ids=str,
    )
    def test_nothing_can_be_added(self, field: str, narrowing: Narrowing) -> None:
        with pytest.raises(InvalidValue, match=f"^{field}: "):
            narrowed(minted({"single_use": True}), narrowing)

    def test_a_forged_token_cannot_be_laundered(self) -> None:
        forged = replace(minted(), resource="file:///**")
        with pytest.raises(Tampered):
            narrowed(forged, {})
        with pytest.raises(Tampered):
            narrowed(minted(keys=STRANGER), {})

    def test_the_skew_gives_no_time_to_issue(self) -> None:
        late = NOW + HOUR
        verify(KEYS, minted(), late)
        with pytest.raises(InvalidValue, match="expires"):
            narrowed(minted(), {"now": late})

    def test_a_clock_behind_does_not_let_it_hold_earlier(self) -> None:
        child = narrowed(minted(), {"now": NOW - SKEW_US})
        assert child.issued == NOW

    def test_it_does_not_leave_its_user_or_session(self) -> None:
        parent = minted({"family_id": FAMILY})
        child = narrowed(parent, {})
        check_narrower(parent, child)
        for changed in (
            {"user": "f" * 16},
            {"family_id": OTHER_FAMILY},
            {"family_id": None, "scope": "persistent"},
            {"parent": token_id(9)},
            {"issued": NOW - 1},
        ):
            with pytest.raises(InvalidValue):
                check_narrower(parent, replace(child, **changed))


PIECES = st.sampled_from(["a", "b", "*", "**", "?", "[ab]"])
PATTERNS = st.lists(PIECES, min_size=1, max_size=3).map(
    lambda pieces: "file:///" + "/".join(pieces)
)
PATHS = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map(
    lambda names: "file:///" + "/".join(names)
)
TIMES = st.integers(NOW - 2 * SKEW_US, NOW + HOUR + 2 * SKEW_US)


@given(
    old=PATTERNS,
    new=st.one_of(PATTERNS, PATHS, st.none()),
    had=st.sets(st.sampled_from(PERMISSIONS), min_size=1),
    given_on=st.one_of(st.none(), st.sets(st.sampled_from(PERMISSIONS), min_size=1, max_size=2)),
    times=st.tuples(TIMES, st.one_of(st.none(), TIMES)),
    once=st.tuples(st.booleans(), st.sampled_from([True, False, None])),
    probes=st.tuples(st.lists(PATHS, min_size=3), TIMES),
)
@example(
    "file:///**", "file:///a/*", {"read"}, None, (NOW, None), (True, None), (["file:///a/b"], NOW)
)
@settings(max_examples=150)
def test_attenuation_never_adds(
    old: str,
    new: str | None,
    had: set[str],
    given_on: set[str] | None,
    times: tuple[int, int | None],
    once: tuple[bool, bool | None],
    probes: tuple[list[str], int],
) -> None:
    parent = minted({"resource": old, "permissions": sorted(had), "single_use": once[0]})
    try:
        child = attenuate(
            KEYS,
            parent,
            id=token_id(2),
            now=times[0],
            resource=new,
            permissions=given_on,
            expires=times[1],
            single_use=once[1],
        )
    except InvalidValue:
        return
    paths, at = probes
    for path in paths:
        assert matches(parent.resource, path) or not matches(child.resource, path)
    assert set(child.permissions) <= had
    assert wrong_time(parent, at) is None or wrong_time(child, at) is not None
    assert child.single_use or not parent.single_use
