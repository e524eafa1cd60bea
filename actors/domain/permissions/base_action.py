"""The facts that every action declares, for policy, boundary, patterns and approvals to read.

A class that lacks a fact cannot be defined, so no rule has to know all the actions there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar, cast

from msgspec import Struct, StructMeta


class Risk(StrEnum):
    """The harm that an action can do. Compare by `rank`: as texts they are not in order."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for low up to 3 for critical."""
        return list(Risk).index(self)


class Operation(StrEnum):
    """An operation on a path."""

    READ = "read"
    LIST = "list"
    WRITE = "write"
    CREATE = "create"
    DELETE = "delete"


class _ActionMeta(StructMeta):
    """Makes the classes of actions; raises TypeError for one (with a tag) that lacks a fact."""

    def __init__(
        self, name: str, bases: tuple[type, ...], namespace: dict[str, object], **_: object
    ) -> None:
        super().__init__(name, bases, namespace)
        made = cast("type[BaseAction]", self)
        if made.__struct_config__.tag is not None and (lacking := _lacking(made)):
            raise TypeError(f"action {name}: {lacking}")


class BaseAction(Struct, frozen=True, metaclass=_ActionMeta):
    """An action, with the facts of its class. All are required but `path_fields` and `hosts`."""

    risk: ClassVar[Risk]
    """The risk, unless a policy sets another."""
    asked: ClassVar[str]
    """The reason why somebody must approve it, apart from policy settings; "" if nobody must."""
    lasting: ClassVar[bool]
    """True if one approval may cover more than this one action."""
    path_fields: ClassVar[tuple[str, ...]] = ()
    """The fields with paths: the boundary judges each of them."""

    @property
    def operation(self) -> Operation | None:
        """The operation on the paths; None for an action that names none."""
        raise NotImplementedError

    def words(self) -> str:
        """The action for a person, whatever characters are in it."""
        raise NotImplementedError

    def wanted(self) -> tuple[str, str]:
        """The resource URI and the permission on it that a capability must have to cover it."""
        raise NotImplementedError

    def hosts(self) -> Sequence[str]:
        """The hosts that the policy judges. Raises InvalidValue if they can't be made out."""
        return ()

    def paths(self) -> list[str]:
        """The paths that policy and boundary judge."""
        return [getattr(self, name) for name in self.path_fields]

    @property
    def kind(self) -> str:
        """The action's tag, such as ``"file_read"``."""
        return cast(str, type(self).__struct_config__.tag)

    def describe(self) -> str:
        """The action in one line for a person, such as ``"read /a/b"``.

        Nothing is left out. Characters that do not print become escapes, so that no text can pass
        for another on a terminal.
        """
        return "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode()
            for character in self.words()
        )


_FACTS = ("risk", "asked", "lasting", "operation", "words", "wanted")
_JUDGED = {"path": "path_fields", "host": "hosts", "url": "hosts"}


def _lacking(action: type[BaseAction]) -> str:
    """The facts that a class lacks or contradicts; "" for none."""
    fields = action.__struct_fields__
    for fact in (*_FACTS, *(_JUDGED[field] for field in fields if field in _JUDGED)):
        if getattr(action, fact, None) is getattr(BaseAction, fact, None):
            return f"say its {fact}"
    if not {"path"}.intersection(fields) <= set(action.path_fields) <= set(fields):
        return "path_fields must name its fields with paths"
    if bool(action.path_fields) == (action.operation is None):
        return "an operation needs paths, and paths an operation"
    return ""
