"""Capability tokens: signed statements that a user may use some resources in some ways.

A token is trusted for its signature alone, so all of its fields are signed. `mint` makes one,
`attenuate` makes a narrower one from it, `verify` says whether to trust one. Times are
microseconds since the epoch. Validation forgives clocks that differ by `SKEW_US`; issuing doesn't.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

from msgspec import Struct
from msgspec.structs import replace

from retinue.actors.domain.errors import InvalidValue, Tampered
from retinue.actors.domain.permissions.resource_pattern import covers, normal_pattern
from retinue.actors.domain.values.checks import check_choice, check_name, check_whole
from retinue.actors.domain.values.ids import parse_user, parse_uuid
from retinue.actors.domain.values.keyring import Keyring

SKEW_US = 30_000_000

Permission: TypeAlias = Literal["read", "write", "execute", "delete", "invoke", "list", "create"]
TokenScope: TypeAlias = Literal["session", "persistent"]

PERMISSIONS: tuple[Permission, ...] = get_args(Permission)
_SCOPES: tuple[TokenScope, ...] = get_args(TokenScope)
_SIGNED_AS = b"troupe capability 1"
_SIGNATURE_DIGITS = 128


class Token(Struct, frozen=True):
    """A user's rights to the resources that match a pattern, until the token expires.

    A session token holds in one family only. ``parent`` is the token it was attenuated from.
    """

    id: str
    resource: str
    permissions: tuple[Permission, ...]
    issued: int
    expires: int
    scope: TokenScope
    family_id: str | None
    issuer: str
    user: str
    audit_entry: str
    single_use: bool = False
    parent: str | None = None
    signature: str = ""


def mint(
    keyring: Keyring,
    *,
    id: str,
    resource: str,
    permissions: Iterable[str],
    now: int,
    expires: int,
    user: str,
    audit_entry: str,
    family_id: str | None = None,
    single_use: bool = False,
) -> Token:
    """A new token, signed by the current key; with a ``family_id`` its scope is that session.

    InvalidValue names the field that is wrong; ``expires`` must be after ``now``.
    """
    token = Token(
        id=parse_uuid(id, "id"),
        resource=normal_pattern(resource),
        permissions=_in_order(permissions),
        issued=now,
        expires=expires,
        scope="persistent" if family_id is None else "session",
        family_id=None if family_id is None else parse_uuid(family_id, "family_id"),
        issuer=keyring.issuer,
        user=user,
        audit_entry=audit_entry,
        single_use=single_use,
    )
    _check_content(token)
    return _signed(keyring, token)


def attenuate(
    keyring: Keyring,
    token: Token,
    *,
    id: str,
    now: int,
    resource: str | None = None,
    permissions: Iterable[str] | None = None,
    expires: int | None = None,
    single_use: bool | None = None,
) -> Token:
    """A token that allows no more than ``token`` does; arguments not given stay as they are.

    Raises InvalidValue, naming the field, if it would allow more, and the errors of `verify`.
    """
    verify(keyring, token, now)
    narrower = replace(
        token,
        id=parse_uuid(id, "id"),
        resource=token.resource if resource is None else normal_pattern(resource),
        permissions=token.permissions if permissions is None else _in_order(permissions),
        issued=max(now, token.issued),
        expires=token.expires if expires is None else expires,
        issuer=keyring.issuer,
        single_use=token.single_use if single_use is None else single_use,
        parent=token.id,
    )
    _check_content(narrower)
    check_narrower(token, narrower)
    return _signed(keyring, narrower)


def verify(keyring: Keyring, token: Token, now: int) -> None:
    """Returns if ``token`` can be trusted now.

    Raises Tampered if no key of the ring has signed exactly this; InvalidValue if it is malformed,
    expired or issued in the future.
    """
    check_signature(keyring, token)
    check_form(token)
    check_time(token, now)


def check_signature(keyring: Keyring, token: Token) -> None:
    """Raises Tampered unless a key of the ring signed exactly this token; checks no times."""
    if not keyring.verify(token.issuer, signing_bytes(token), token.signature):
        raise Tampered(
            f"capability token {token.id}: not signed by a key of this cluster",
            what="capability token",
        )


def check_form(token: Token) -> None:
    """Raises InvalidValue, naming the field, unless the token could have been minted."""
    _check_content(token)
    if len(token.signature) != _SIGNATURE_DIGITS:
        raise InvalidValue("signature: must be an Ed25519 signature in hex", field="signature")


def check_time(token: Token, now: int) -> None:
    """Raises InvalidValue for a token expired, or issued in the future, by more than the skew."""
    match wrong_time(token, now):
        case "expired":
            raise InvalidValue(f"expires: token {token.id} has expired", field="expires")
        case "early":
            raise InvalidValue(f"issued: token {token.id} is from the future", field="issued")


def wrong_time(token: Token, now: int) -> Literal["early", "expired"] | None:
    """The reason why the token doesn't hold at ``now``, or None."""
    if now < token.issued - SKEW_US:
        return "early"
    if now >= token.expires + SKEW_US:
        return "expired"
    return None


def check_narrower(parent: Token, child: Token) -> None:
    """Raises InvalidValue, naming the field, if ``child`` allows more than ``parent`` does."""
    same = (child.user, child.scope, child.family_id, child.parent)
    if same != (parent.user, parent.scope, parent.family_id, parent.id):
        raise _wider("parent", "it is for another user or session, or of another token")
    if not covers(parent.resource, child.resource):
        raise _wider("resource", f"{child.resource!r} is not surely within {parent.resource!r}")
    if not set(child.permissions) <= set(parent.permissions):
        raise _wider("permissions", f"the token has only {', '.join(parent.permissions)}")
    if child.issued < parent.issued:
        raise _wider("issued", "it would hold before the token does")
    if child.expires > parent.expires:
        raise _wider("expires", "it would hold longer than the token")
    if parent.single_use and not child.single_use:
        raise _wider("single_use", "the token can be used once only")


def signing_bytes(token: Token) -> bytes:
    """The signed bytes: all fields but the signature, each behind its length, so none can shift."""
    return _SIGNED_AS + _fields(
        token.id.encode(),
        token.resource.encode(),
        _fields(*(permission.encode() for permission in token.permissions)),
        str(token.issued).encode(),
        str(token.expires).encode(),
        token.scope.encode(),
        _optional(token.family_id),
        token.issuer.encode(),
        token.user.encode(),
        token.audit_entry.encode(),
        b"once" if token.single_use else b"",
        _optional(token.parent),
    )


def _fields(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def _optional(value: str | None) -> bytes:
    return b"" if value is None else _fields(value.encode())


def _signed(keyring: Keyring, token: Token) -> Token:
    return replace(token, signature=keyring.sign(signing_bytes(token)))


def _check_content(token: Token) -> None:
    if parse_uuid(token.id, "id") != token.id:
        raise InvalidValue("id: must be in canonical form", field="id")
    if normal_pattern(token.resource) != token.resource:
        raise InvalidValue("resource: must be in normal form", field="resource")
    if _in_order(token.permissions) != token.permissions:
        raise InvalidValue("permissions: must be in order, each once", field="permissions")
    check_whole(token.issued, 0, "issued")
    check_whole(token.expires, 0, "expires")
    if token.expires <= token.issued:
        raise InvalidValue("expires: must be after the time of issue", field="expires")
    check_choice(token.scope, _SCOPES, "scope")
    _check_family(token)
    parse_user(token.user, "user")
    check_name(token.audit_entry, "audit_entry")
    if token.parent is not None and parse_uuid(token.parent, "parent") == token.id:
        raise InvalidValue("parent: a token cannot come from itself", field="parent")


def _check_family(token: Token) -> None:
    if (token.scope == "session") != (token.family_id is not None):
        raise InvalidValue(
            "family_id: a session token names its family, a persistent one has none",
            field="family_id",
        )
    if token.family_id is not None and parse_uuid(token.family_id, "family_id") != token.family_id:
        raise InvalidValue("family_id: must be in canonical form", field="family_id")


def _in_order(permissions: Iterable[str]) -> tuple[Permission, ...]:
    given = list(permissions)
    if not given:
        raise InvalidValue("permissions: give at least one", field="permissions")
    for permission in given:
        check_choice(permission, PERMISSIONS, "permissions")
    return tuple(permission for permission in PERMISSIONS if permission in given)


def _wider(field: str, why: str) -> InvalidValue:
    return InvalidValue(f"{field}: attenuation never adds: {why}", field=field)
