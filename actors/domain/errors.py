"""Everything that Retinue raises.

    RetinueError
     ├── CallError            your call is wrong: repeating it will not help
     │    ├── InvalidValue        a value is of the wrong type, form or range
     │    ├── NotFound            no such session, run, request, allowance, token, file
     │    ├── AlreadyDecided      somebody decided this request before you, or it expired
     │    ├── SessionEnded        the session was ended or cancelled
     │    ├── LimitReached        a limit on depth, breadth or number of sub-agents
     │    ├── InvalidAgent        not an async callable, or it cannot be shipped or opened
     │    ├── Tampered            stored data does not carry the right signature
     │    ├── CorruptState        stored data is readable, but impossible
     │    ├── StepInterrupted     a step that must not run twice may have run before a crash
     │    └── NonDeterministicTurn  a resumed turn took other steps than it had taken before
     ├── Unavailable          the system can't now: try again later
     │    ├── StoreUnavailable    Redis does not answer, or cannot take writes
     │    │    └── RolledBack         Redis went back to an earlier state: somebody must look
     │    ├── ClusterUnavailable  Ray does not answer, or cannot be joined
     │    ├── Busy                a bounded queue is full
     │    ├── WorkspaceHeld       somebody holds the workspace: nothing begins there
     │    ├── Fenced              a newer activation has taken over: this one must stop
     │    └── NoCapacity          no memory or place for another actor or process
     └── NotAuthorized        the answer is no, raised only by ``turn.authorized``

Each carries a message for a person and ``details`` for a program, and survives pickling.
"""

from __future__ import annotations

from typing import TypeAlias

Detail: TypeAlias = str | int | bool | None


class RetinueError(Exception):
    """The root: catch this to catch all that Retinue raises."""

    def __init__(self, message: str, **details: Detail) -> None:
        """Carries a ``message`` of one line, and ``details`` by name for programs."""
        super().__init__(message)
        self.message = message
        self.details = details

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.details)


def _rebuild(cls: type[RetinueError], message: str, details: dict[str, Detail]) -> RetinueError:
    return cls(message, **details)


class CallError(RetinueError):
    """Your call is wrong; the same call will fail again."""


class InvalidValue(CallError):
    """A value is of the wrong type, form or range; the message names the field."""


class NotFound(CallError):
    """The thing that the call names does not exist here."""


class AlreadyDecided(CallError):
    """The request was decided before, or has expired."""


class SessionEnded(CallError):
    """The session was ended or cancelled and takes no more turns."""


class LimitReached(CallError):
    """A limit of the family of sub-agents is reached; ``details`` has its name and value."""


class InvalidAgent(CallError):
    """The agent is not an async callable, or cannot be shipped to, or opened at, a worker."""


class Tampered(CallError):
    """Stored data does not carry the signature of this cluster's key."""


class CorruptState(CallError):
    """Stored data parses but cannot be true, such as a negative balance. Nothing was changed."""


class StepInterrupted(CallError):
    """A step with ``idempotent=False`` was running when its process died; it may have happened."""


class NonDeterministicTurn(CallError):
    """A resumed agent took a different step from the one in the journal."""


class Unavailable(RetinueError):
    """The system cannot do this now; the same call may work later."""


class StoreUnavailable(Unavailable):
    """Redis does not answer or does not take writes."""


class RolledBack(StoreUnavailable):
    """Redis has lost writes it had confirmed. Nothing goes on in this workspace by itself."""


class ClusterUnavailable(Unavailable):
    """Ray does not answer or cannot be joined."""


class Busy(Unavailable):
    """A bounded queue is full."""


class WorkspaceHeld(Unavailable):
    """The workspace is on hold; ``details`` has the hold's author, reason and start."""


class Fenced(Unavailable):
    """A newer activation owns the entity; the one that raised this has stopped."""


class NoCapacity(Unavailable):
    """There is no room for another actor or process."""
