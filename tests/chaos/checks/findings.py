"""What is wrong, by kind.

* *lost*: something acknowledged is not there, or a run never came to its end.
* *double*: something happened or was charged twice, or two different answers were given.
* *overspent*: more than a cap allows was spent and reserved at once.
* *overused*: more operations passed by an allowance, a token or an approval than it is for, or one
  that began after it was revoked.
* *revived*: something of a cancelled or ended session went on after that was acknowledged.
* *duplicated*: two sub-agents for one task, or two activations that were answered at once.
* *audit_gaps*: the audit log does not verify, or lacks what was acknowledged.
* *leaked*: a process, or money that was lent, that nobody has any more; or a process that was still
  there when the end of its run had been acknowledged.
"""

from __future__ import annotations

KINDS = (
    "lost",
    "double",
    "overspent",
    "overused",
    "revived",
    "duplicated",
    "audit_gaps",
    "leaked",
)


class Findings:
    """What is wrong, by kind."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {kind: [] for kind in KINDS}

    def add(self, kind: str, text: str) -> None:
        self.found[kind].append(text)

    def take(self, other: Findings) -> None:
        """Add what another has."""
        for kind, texts in other.found.items():
            self.found[kind] += texts

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {kind: len(texts) for kind, texts in self.found.items()}

    @property
    def clean(self) -> bool:
        return not any(self.found.values())
