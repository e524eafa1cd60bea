"""An action under authorisation, with what identifies it."""

from __future__ import annotations

from typing import NamedTuple

from retinue.actors.domain.permissions.actions import Action, argument_hash


class ActionRef(NamedTuple):
    """An action, its `argument_hash` (which costs as much as all else here), and its operation."""

    action: Action
    hash: str
    operation: str

    def to(self, action: Action) -> ActionRef:
        """The same operation for the action as it was resolved."""
        return (
            self
            if action is self.action
            else self._replace(action=action, hash=argument_hash(action))
        )
