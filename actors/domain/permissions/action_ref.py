"""An action to authorise, with its identity."""

from __future__ import annotations

from typing import NamedTuple

from retinue.actors.domain.permissions.actions import Action, argument_hash


class ActionRef(NamedTuple):
    """An action, its `argument_hash` (as costly as everything else here), and its operation."""

    action: Action
    hash: str
    operation: str

    def to(self, action: Action) -> ActionRef:
        """The same operation for the resolved action."""
        return (
            self
            if action is self.action
            else self._replace(action=action, hash=argument_hash(action))
        )
