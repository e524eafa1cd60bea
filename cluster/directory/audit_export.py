"""The audit log as a document for others: entries by chain, with an Ed25519 signature.

The signature covers everything but itself, after a line that states its purpose, so that it can't
pass for the signature of anything else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from retinue.actors.domain.errors import InvalidValue, Tampered
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.domain.values.rfc3339 import to_rfc3339
from retinue.actors.durable.audit import Report

_PURPOSE = b"troupe audit log, version 1\n"


def render_audit(workspace: str, reports: Sequence[Report]) -> str:
    """The document, not yet signed."""
    chains = [
        {
            "chain": report.chain,
            "problem": report.problem,
            "entries": [
                {
                    "entry": entry.row,
                    "at": to_rfc3339(entry.at),
                    "kind": entry.kind,
                    "detail": entry.detail,
                }
                for entry in report.entries
            ],
        }
        for report in reports
    ]
    return _canonical({"workspace": workspace, "chains": chains})


def sign_audit(keyring: Keyring, text: str) -> str:
    """The document with the issuer's public key and signature."""
    document = {**_parse(text), "issuer": keyring.issuer}
    signature = keyring.sign(_PURPOSE + _canonical(document).encode())
    return json.dumps({**document, "signature": signature}, indent=2, ensure_ascii=False)


def check_audit(keyring: Keyring, text: str) -> None:
    """Raises Tampered if the document is not as a key of this ring has signed it."""
    document = _parse(text)
    signature, issuer = document.pop("signature", ""), document.get("issuer", "")
    signed = _PURPOSE + _canonical(document).encode()
    if not keyring.verify(str(issuer), signed, str(signature)):
        raise Tampered("the exported audit log does not carry this cluster's signature")


def _parse(text: str) -> dict[str, object]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidValue(f"audit log: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidValue("audit log: not a JSON object")
    return document


def _canonical(document: dict[str, object]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
