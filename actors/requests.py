"""The requests to session hosts and to the directory, as data: one argument for each call."""

from __future__ import annotations

from msgspec import Struct

from retinue.actors.domain.session.commands import DescribeSession
from retinue.actors.domain.session.messages import Message
from retinue.actors.domain.session.settings import Isolation
from retinue.actors.domain.session.state import Imported, Profile


class Create(Struct, frozen=True):
    """A root session to make; one that is ``imported`` comes with its history."""

    profile: Profile
    imported: Imported | None = None
    messages: list[Message] = []


class SessionAt(Struct, frozen=True):
    """A session, by id; ``workspace_id`` is filled in when its host is looked up."""

    session_id: str
    workspace_id: str = ""


class Start(SessionAt, frozen=True, kw_only=True):
    """A run to queue. ``timeout`` in microseconds; ``trace`` is the span that it belongs to."""

    run_id: str
    prompt: str
    timeout: int | None = None
    trace: str = ""


class Await(SessionAt, frozen=True, kw_only=True):
    """A run to wait for, ``timeout_s`` seconds at most."""

    run_id: str
    timeout_s: float


class Last(SessionAt, frozen=True, kw_only=True):
    """The last ``count`` messages, or all (None)."""

    count: int | None


class Post(SessionAt, frozen=True, kw_only=True):
    """A message from outside a turn; sent again under the same ``op``, it is one message."""

    message: Message
    op: str


class Edit(SessionAt, frozen=True, kw_only=True):
    """New title, tags or custom metadata."""

    change: DescribeSession


class Close(SessionAt, frozen=True, kw_only=True):
    """The end of a session; ``by`` names the person for the audit log."""

    by: str = ""


class Acquire(Struct, frozen=True):
    """Slots wanted by ``spawner`` for sub-agents of a family, ``limit`` of which run at once.

    The slots of those in ``done`` are given back. ``near`` is the host to prefer, if any; with
    none free the answer comes after ``timeout_s`` seconds at the latest.
    """

    spawner: str
    family_id: str
    done: list[str]
    want: list[str]
    limit: int
    isolation: Isolation
    near: str
    timeout_s: float
