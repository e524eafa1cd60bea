"""The cluster's key: the proof that stored bytes and tokens were made by this cluster.

A keyring holds the current secret and, during a rotation, older ones. New marks are made with the
current secret only; marks of every secret in the ring are accepted. So a secret is changed
without downtime: put the new one first everywhere, keep the old one until nothing carries its mark.

Each purpose (marks, seals, signatures) has a key of its own, derived from the secret, so that
bytes made for one are worth nothing in another. A keyring authenticates; it hides nothing.
Secrets appear in no repr and no error, and a keyring refuses to be pickled or copied.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from retinue.actors.domain.errors import InvalidValue, Tampered

SECRET_BYTES = 32
KEY_ID_BYTES = 4
TAG_BYTES = 16
MAC_BYTES = KEY_ID_BYTES + TAG_BYTES

_PURPOSE = "troupe/1/"


class Keyring:
    """The current secret and older ones that are still accepted, each of 32 bytes or more.

    With ``reload`` a ring that meets a key it does not know takes over what ``reload()`` gives, so
    that a key can be rotated while everything runs.
    """

    __slots__ = ("_by_id", "_current", "_public_keys", "reload")

    def __init__(self, current: bytes, *older: bytes) -> None:
        """Raises InvalidValue for a secret that is too short, or given twice."""
        self.reload: Callable[[], Keyring] | None = None
        keys = [_Key(secret) for secret in (current, *older)]
        self._current = keys[0]
        self._by_id = {key.id: key for key in keys}
        if len(self._by_id) < len(keys):
            raise InvalidValue("keyring: the same key is given twice", field="keyring")
        self._public_keys = {key.issuer: key.signing.public_key() for key in keys}

    @classmethod
    def parse(cls, text: str) -> Keyring:
        """A keyring from lines of hex, the current secret first.

        Blank lines and everything after a ``#`` are skipped. InvalidValue names the line that is
        wrong, never what it says.
        """
        secrets = []
        for number, line in enumerate(text.splitlines(), start=1):
            digits = line.partition("#")[0].strip()
            if digits:
                secrets.append(_secret_from_hex(digits, number))
        if not secrets:
            raise InvalidValue(
                f"keyring: holds no key; give one line of {2 * SECRET_BYTES} hex digits",
                field="keyring",
            )
        return cls(*secrets)

    def mac(self, data: bytes) -> bytes:
        """The 20 bytes that mark ``data`` as ours: the id of the current key, and its tag."""
        return self._current.id + _tag(self._current.marks, data)

    def check(self, mac: bytes, data: bytes, what: str) -> None:
        """Raises Tampered, naming ``what``, unless a key of this ring made ``mac`` for ``data``."""
        key = self._key_of(mac, what)
        if not hmac.compare_digest(mac[KEY_ID_BYTES:], _tag(key.marks, data)):
            raise _tampered(what)

    def seal(self, data: bytes, context: str) -> bytes:
        """``data`` in clear behind a mark that holds only for ``context``.

        The context names the place of the blob (a Redis key, say), so that a blob moved to another
        place does not open there.
        """
        return self._current.id + _tag(self._current.seals, _label(context), data) + data

    def open(self, blob: bytes, context: str, what: str) -> bytes:
        """The data sealed for ``context``; raises Tampered, naming ``what``, for anything else."""
        mac, data = blob[:MAC_BYTES], blob[MAC_BYTES:]
        key = self._key_of(mac, what)
        if not hmac.compare_digest(mac[KEY_ID_BYTES:], _tag(key.seals, _label(context), data)):
            raise _tampered(what)
        return data

    @property
    def issuer(self) -> str:
        """The Ed25519 public key of the current secret, in hex."""
        return self._current.issuer

    @property
    def issuers(self) -> tuple[str, ...]:
        """The public keys of the whole ring, the current one first."""
        return tuple(self._public_keys)

    def sign(self, data: bytes) -> str:
        """The Ed25519 signature of ``data`` by the current issuer, in hex."""
        return self._current.signing.sign(data).hex()

    def verify(self, issuer: str, data: bytes, signature: str) -> bool:
        """Returns whether ``issuer`` is one of this ring and made ``signature`` over ``data``."""
        if issuer not in self._public_keys:
            self._take_over()
        public_key = self._public_keys.get(issuer)
        if public_key is None:
            return False
        try:
            raw = bytes.fromhex(signature)
            public_key.verify(raw, data)
        except (InvalidSignature, ValueError):
            return False
        return raw.hex() == signature  # one text per signature: no capitals, no blanks

    def _key_of(self, mac: bytes, what: str) -> _Key:
        key_id = bytes(mac[:KEY_ID_BYTES])
        if key_id not in self._by_id:
            self._take_over()
        key = self._by_id.get(key_id)
        if key is None:
            raise Tampered(
                f"{what}: is not marked by a key of this cluster's keyring; "
                "if a key was rotated out too early, put it back as an older one",
                what=what,
            )
        return key

    def _take_over(self) -> None:
        if self.reload is not None:
            newer = self.reload()
            self._current, self._by_id = newer._current, newer._by_id
            self._public_keys = newer._public_keys

    def __repr__(self) -> str:
        ids = ", ".join(key_id.hex() for key_id in self._by_id)
        return f"Keyring(ids: {ids})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Keyring is never pickled or copied: each process reads its own key file")


class _Key:
    """The keys derived from one secret. The secret itself is not kept."""

    __slots__ = ("id", "issuer", "marks", "seals", "signing")

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SECRET_BYTES:
            raise InvalidValue(
                f"keyring: a key has {len(secret)} bytes, it needs {SECRET_BYTES} or more",
                field="keyring",
            )
        self.id = _derive(secret, "id")[:KEY_ID_BYTES]
        # Keyed once and copied for each use: half the time of keying every time.
        self.marks = hmac.new(_derive(secret, "mark"), digestmod=hashlib.sha256)
        self.seals = hmac.new(_derive(secret, "seal"), digestmod=hashlib.sha256)
        self.signing: Ed25519PrivateKey = Ed25519PrivateKey.from_private_bytes(
            _derive(secret, "sign")
        )
        self.issuer = _public_hex(self.signing.public_key())

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a key is never pickled or copied")


def _secret_from_hex(digits: str, number: int) -> bytes:
    try:
        secret = bytes.fromhex(digits)
    except ValueError:
        raise InvalidValue(f"keyring: line {number} is not hex", field="keyring") from None
    if len(secret) < SECRET_BYTES:
        raise InvalidValue(
            f"keyring: line {number} has {len(secret)} bytes, a key needs {SECRET_BYTES} or more",
            field="keyring",
        )
    return secret


def _derive(secret: bytes, purpose: str) -> bytes:
    info = (_PURPOSE + purpose).encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


def _public_hex(key: Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def _tag(keyed: hmac.HMAC, *parts: bytes) -> bytes:
    state = keyed.copy()
    for part in parts:
        state.update(part)
    return state.digest()[:TAG_BYTES]


def _label(context: str) -> bytes:
    name = context.encode()
    return len(name).to_bytes(4, "big") + name


def _tampered(what: str) -> Tampered:
    return Tampered(f"{what}: does not carry this cluster's mark for what it says", what=what)
