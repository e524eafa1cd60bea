"""The recorded step that each call of a resumed turn stands for.

1. Steps are numbered within a *branch*: the turn's own task is branch 0, and every further task
   that calls the turn is a branch of its own, in the order of their first calls.
2. Branch 0 must take the recorded steps in the recorded order; so must every branch once it has
   been matched.
3. A further branch is matched by its first step, because the order in which parallel tasks get
   to it may differ from run to run. Branches that start alike are interchangeable.
4. A step beyond the recorded ones is new.
"""

from __future__ import annotations

from collections.abc import Mapping

from retinue.actors.domain.errors import NonDeterministicTurn
from retinue.actors.domain.session.state import Step

ROOT_BRANCH = 0


class Replay:
    """Gives every call of a turn the key under which its result is, or will be, recorded."""

    def __init__(self, recorded: Mapping[str, Step]) -> None:
        self._recorded: dict[int, dict[int, Step]] = {}
        for key, step in recorded.items():
            branch, _, number = key.partition(".")
            self._recorded.setdefault(int(branch), {})[int(number)] = step
        self._matched: dict[int, int] = {ROOT_BRANCH: ROOT_BRANCH}
        self._taken: dict[int, int] = {}
        self._next_branch = max(self._recorded, default=ROOT_BRANCH) + 1

    def key(self, caller: int, kind: str, label: str) -> str:
        """The key of the next step of ``caller``.

        Raises NonDeterministicTurn, naming the expected step and the actual one, if the record has
        another step here.
        """
        branch = self._matched.get(caller)
        if branch is None:
            branch = self._matched[caller] = self._match(kind, label)
        number = self._taken.get(branch, 0)
        self._taken[branch] = number + 1
        recorded = self._recorded.get(branch, {}).get(number)
        if recorded is not None and (recorded.kind, recorded.label) != (kind, label):
            raise NonDeterministicTurn(
                f"step {branch}.{number}: {_shown(recorded.kind, recorded.label)} was recorded, "
                f"but the resumed turn came with {_shown(kind, label)}; keep clocks, randomness "
                "and I/O that decides what is called inside turn.step"
            )
        return f"{branch}.{number}"

    def _match(self, kind: str, label: str) -> int:
        taken = set(self._matched.values())
        for branch, steps in sorted(self._recorded.items()):
            first = steps.get(0)
            if branch not in taken and first and (first.kind, first.label) == (kind, label):
                return branch
        self._next_branch += 1
        return self._next_branch - 1


def _shown(kind: str, label: str) -> str:
    return f"{kind} {label!r}" if label else kind
