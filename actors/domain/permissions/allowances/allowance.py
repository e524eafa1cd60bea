"""An allowance: a permitted pattern of actions, with its duration, its uses and its holder."""

from __future__ import annotations

import msgspec
from msgspec import Struct
from msgspec.structs import force_setattr

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.permissions.patterns import Pattern
from retinue.actors.domain.values.checks import check_clean, check_name, check_whole
from retinue.actors.domain.values.ids import parse_uuid

_SIGNED_FORM = b"troupe/allowance/1\n"


class Allowance(Struct, frozen=True):
    """A standing permission. One that exists is well-formed; ``uses_left`` starts at ``max_uses``.

    ``signature`` is hex, and empty where nobody signed.
    """

    id: str
    pattern: Pattern
    created: int
    expires: int | None = None
    max_uses: int | None = None
    uses_left: int | None = None
    session_only: bool = False
    family_id: str | None = None
    workspace_root: str | None = None
    signature: str = ""

    def __post_init__(self) -> None:
        force_setattr(self, "id", parse_uuid(self.id, "id"))
        check_whole(self.created, 0, "created")
        if self.expires is not None:
            check_whole(self.expires, self.created + 1, "expires")
        self._check_uses()
        self._check_scope()
        check_clean(self.signature, "signature")

    def _check_uses(self) -> None:
        if self.max_uses is None:
            if self.uses_left is not None:
                raise InvalidValue("uses_left: there is no max_uses", field="uses_left")
            return
        check_whole(self.max_uses, 1, "max_uses")
        if self.uses_left is None:
            force_setattr(self, "uses_left", self.max_uses)
        elif check_whole(self.uses_left, 0, "uses_left") > self.max_uses:
            raise InvalidValue("uses_left: is over max_uses", field="uses_left")

    def _check_scope(self) -> None:
        if self.family_id is not None:
            force_setattr(self, "family_id", parse_uuid(self.family_id, "family_id"))
        elif self.session_only:
            raise InvalidValue("family_id: a session-only allowance needs one", field="family_id")
        if self.workspace_root is not None:
            check_name(self.workspace_root, "workspace_root")


def signing_bytes(allowance: Allowance) -> bytes:
    """The signed bytes: all fields but the signature itself and the count, which changes."""
    return _SIGNED_FORM + msgspec.json.encode(
        (
            allowance.id,
            allowance.pattern,
            allowance.created,
            allowance.expires,
            allowance.max_uses,
            allowance.session_only,
            allowance.family_id,
            allowance.workspace_root,
        ),
        order="deterministic",
    )


def valid(allowance: Allowance, now: int) -> bool:
    """Returns whether the allowance has not expired and has uses left."""
    return allowance.uses_left != 0 and (allowance.expires is None or now < allowance.expires)
