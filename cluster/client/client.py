"""The client: connect, make sessions, and watch over them."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

from msgspec import structs

from retinue.actors.agent.shipping import name_of, ship
from retinue.actors.agent.turn import AgentFunction
from retinue.actors.domain.budget.commands import OpenWorkspace, Standing
from retinue.actors.domain.budget.state import Cap
from retinue.actors.domain.documents.document import SessionDocument, SkippedMessage
from retinue.actors.domain.errors import (
    ClusterUnavailable,
    InvalidValue,
    NotFound,
)
from retinue.actors.domain.permissions.boundary import Boundary
from retinue.actors.domain.permissions.policy import Policy
from retinue.actors.domain.session.settings import BudgetConfig, Isolation, Limits
from retinue.actors.domain.session.state import Agent, Profile
from retinue.actors.domain.values.ids import derived_id, parse_user, parse_uuid
from retinue.actors.domain.values.money import Usd
from retinue.actors.requests import Create
from retinue.actors.session.listing import check_states, parse_cursor
from retinue.actors.tasks import Tasks
from retinue.actors.views import SessionQuery, SessionSummary, WorkspaceSettings
from retinue.cluster.client.budgets import budget_of, cap_of, cap_text
from retinue.cluster.client.calls import Calls
from retinue.cluster.client.connection import Connection
from retinue.cluster.client.documents import (
    LABEL_LENGTH,
    imported_profile,
    imported_state,
    read_document,
)
from retinue.cluster.client.inbox import (
    ApprovalHandler,
    InboxRequest,
    all_requests,
    keep_answering,
    open_requests,
)
from retinue.cluster.client.session import Session
from retinue.cluster.client.times import to_micros
from retinue.cluster.client.workspace import Workspace
from retinue.cluster.settings import DEFAULT_NAMESPACE, DiskWait, disk_wait
from retinue.cluster.status import ClusterStatus

_LOG = logging.getLogger("retinue")
_REJOIN_S = 30.0
_PAGE = 200
NO_WORKSPACE = derived_id("no workspace")
"""The workspace of all sessions that have no workspace: one budget actor for all, without a cap."""

DEFAULT_USER = "0000000000000000"


def connect(
    address: str | None = None,
    *,
    redis_url: str | None = None,
    namespace: str = DEFAULT_NAMESPACE,
    durable: bool = True,
    idle_s: float = 600.0,
    wait_for_disk: bool | DiskWait | None = None,
    actor: str | None = None,
) -> Retinue:
    """Returns a client, to be used with ``async with``.

    Args:
        address: Ray's head, as HOST:6379, or ``auto`` on one of its nodes (default: RAY_ADDRESS).
            Without one it joins what `retinue up` has started, else brings up Ray on this machine
            and takes it down again. Ray's token is taken from RAY_AUTH_TOKEN or the file
            RAY_AUTH_TOKEN_PATH, else from ``~/.ray/auth_token``.
        redis_url: An outside Redis, which the nodes can reach (default: RETINUE_REDIS_URL, else an
            embedded one).
        namespace: Keeps several clusters apart on one Ray and one Redis (default: ``retinue``).
        durable: Whether a Redis that does not keep its data is refused (default).
        idle_s: After how many seconds without a call a session is written out (default: 600).
        wait_for_disk: Whether every commit waits until it is on disk, also on those of replicas
            where a `DiskWait` says so; Redis must be 7.2 or newer (default: RETINUE_WAIT_FOR_DISK,
            else not).
        actor: The name under which what this client decides, changes, holds and ends stands in the
            audit log (default: the login name with that of the machine).

    Entering the client raises ClusterUnavailable or StoreUnavailable, with the cause, if Ray or
    Redis can't be joined or brought up; InvalidValue for an address or URL that is none.
    """
    if wait_for_disk is None:
        wait = disk_wait(os.environ.get("RETINUE_WAIT_FOR_DISK"))
    else:
        wait = DiskWait() if wait_for_disk is True else wait_for_disk or None
    return Retinue(Connection(address, redis_url, namespace, durable, idle_s, wait), actor)


class SessionList(list[SessionSummary]):
    """Sessions of a listing; ``next`` is the cursor for those that follow (None: there are none).

    It is a place between sessions: good for ever, whatever comes, goes or changes its state.
    """

    def __init__(self, sessions: Iterable[SessionSummary] = (), next: str | None = None) -> None:
        super().__init__(sessions)
        self.next = next


class Retinue:
    """A cluster, seen from a client. Made by `connect`."""

    def __init__(self, connection: Connection, actor: str | None = None) -> None:
        self._connection = connection
        self._actor = actor
        self._told: set[str] = set()
        self._calls_or_none: Calls | None = None
        self._watchers = Tasks()

    async def __aenter__(self) -> Self:
        self._calls_or_none = Calls(await self._connection.open(), self._actor)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._watchers.cancel()
        self._connection.close()
        self._calls_or_none = None

    @property
    def comes_back(self) -> bool:
        """True while the local cluster is lost and being brought back."""
        return self._connection.comes_back

    async def rejoin(self, limit_s: float = _REJOIN_S) -> bool:
        """Join a local cluster that was lost once it is back, which takes ``limit_s`` s at most.

        Sessions and workspaces that were got before stay good. False if nothing is up any more;
        ClusterUnavailable says why it is not back.
        """
        return await self._connection.rejoin(limit_s)

    @property
    def calls(self) -> Calls:
        """The calls to the cluster's actors, for tools built on the client."""
        if self._calls_or_none is None:
            raise ClusterUnavailable("not connected: use `async with connect() as retinue`")
        return self._calls_or_none

    async def workspace(
        self,
        path: str | Path,
        *,
        max_usd: Usd | None = None,
        warn_at_percent: int = 80,
        policy: Policy | None = None,
        boundary: Boundary | None = None,
    ) -> Workspace:
        """Registers a workspace, or changes its settings; what is not given stays as it is.

        Args:
            path: A directory.
            max_usd: Caps what all its sessions may spend together, in USD, if nobody has set a cap
                yet (default: no cap). From then on `Workspace.set_budget` and `retinue budget`
                change it, and a program that gives another one is told in its log, once, which one
                holds.
            warn_at_percent: The share of that cap from which a warning is logged, 0 to 100
                (default: 80).
            policy: Which actions are allowed, denied or asked about (default: as before, at first
                `Policy()`).
            boundary: What is outside of the directory, and what happens there (default: as before,
                at first `Boundary()`).

        Raises InvalidValue for a path that is no directory, or an amount that is none.
        """
        resolved = os.path.realpath(os.path.expanduser(os.fspath(path)))
        if not os.path.isdir(resolved):
            raise InvalidValue(f"workspace: {path} is not a directory", field="workspace")
        workspace_id = derived_id(f"workspace:{resolved}")
        before = {one.workspace_id: one for one in await self.calls.registry.workspaces()}.get(
            workspace_id
        )
        settings = WorkspaceSettings(
            workspace_id,
            resolved,
            policy or (before.policy if before else Policy()),
            structs.replace(boundary or (before.boundary if before else Boundary()), root=resolved),
        )
        await self.calls.directory.put_workspace(settings)
        workspace = Workspace(self.calls, settings)
        if max_usd is not None:
            cap = cap_of(max_usd, warn_at_percent)
            command = OpenWorkspace(cap, self.calls.actor)
            self._tell(
                workspace, cap, await self.calls.stores(workspace_id).budget.open_workspace(command)
            )
        return workspace

    def _tell(self, workspace: Workspace, given: Cap, standing: Standing) -> None:
        """Log, once for each workspace, that a cap other than the given one holds."""
        if standing.cap == given or workspace.id in self._told:
            return
        self._told.add(workspace.id)
        by = f"by {standing.by}" if standing.by else "by an earlier version of Retinue"
        _LOG.warning(
            "workspace %s: its cap stays %s, as set %s; max_usd, here %s, is for a workspace that "
            "has none yet. `retinue budget --workspace %s --set USD` or set_budget() changes it",
            workspace.path,
            cap_text(standing.cap),
            by,
            cap_text(given),
            workspace.path,
        )

    async def create_session(
        self,
        agent: AgentFunction,
        *,
        user_id: str = DEFAULT_USER,
        workspace: Workspace | None = None,
        system_prompt: str = "",
        budget: BudgetConfig | None = None,
        isolation: Isolation = "process",
        limits: Limits | None = None,
        model: str | None = None,
        title: str | None = None,
        session_id: str | None = None,
        on_approval: ApprovalHandler | None = None,
    ) -> Session:
        """Makes a root session for ``agent``; it is durable when this returns.

        Args:
            agent: An async callable of (turn, prompt).
            user_id: The user whose tokens it may use, 16 hex digits (default: one of all zeros).
            workspace: Where it belongs (default: nowhere, with no cap above its own).
            system_prompt: Its system prompt (default: none).
            budget: Its caps (default: `BudgetConfig()`).
            isolation: ``process``: the agent has a process of its own (default); ``shared``: it
                runs beside other I/O-bound agents.
            limits: How deep and wide its family may grow (default: `Limits()`).
            model: The name of the model to use (default: none is named).
            title: What lists show, cut at 80 characters (default: the agent's name).
            session_id: Its id, a UUID (default: a fresh one). The same id twice is one session.
            on_approval: Is asked about every action of the family that needs a person, as long as
                this client lives (default: they wait in the inbox).

        Raises InvalidValue or InvalidAgent, naming what is wrong.
        """
        if isolation not in ("process", "shared"):
            raise InvalidValue(
                f"isolation: {isolation!r} is not process or shared", field="isolation"
            )
        shipped = ship(agent)
        now = self.calls.now()
        id = self.calls.new_id(now) if session_id is None else parse_uuid(session_id, "session_id")
        profile = Profile(
            id=id,
            user_id=parse_user(user_id),
            workspace_id=workspace.id if workspace else NO_WORKSPACE,
            family_id=id,
            created_at=now,
            agent=Agent(shipped.digest, shipped.name),
            isolation=isolation,
            budget=budget_of(budget or BudgetConfig()),
            limits=limits or Limits(),
            system_prompt=system_prompt,
            workspace_path=workspace.path if workspace else None,
            model=model,
            label=(title or name_of(agent))[:LABEL_LENGTH],
        )
        await self.calls.registry.put_agent(shipped.digest, shipped.blob)
        if on_approval is not None:
            await keep_answering(
                self.calls, self._watchers, profile.workspace_id, profile.id, on_approval
            )
        return await self._create(Create(profile))

    async def import_session(
        self,
        document: str | bytes | Mapping[str, object],
        *,
        agent: AgentFunction | None = None,
        isolation: Isolation = "process",
        skip_bad_messages: bool = False,
    ) -> Session:
        """Takes in a session document; nothing is stored if anything in it is wrong.

        Args:
            document: The document, as `Session.export` gives it, or parsed.
            agent: Runs the session from now on (default: it can be read and added to, but not run).
            isolation: ``process`` (default) or ``shared``, as in `create_session`.
            skip_bad_messages: Whether messages that are wrong are left out; `import_reporting`
                tells them.

        Raises InvalidValue, with field and index, for what is wrong; Tampered for an allowance with
        a wrong signature.
        """
        session, _ = await self.import_reporting(
            document, agent=agent, isolation=isolation, skip_bad_messages=skip_bad_messages
        )
        return session

    async def import_reporting(
        self,
        document: str | bytes | Mapping[str, object],
        *,
        agent: AgentFunction | None = None,
        isolation: Isolation = "process",
        skip_bad_messages: bool = False,
    ) -> tuple[Session, list[SkippedMessage]]:
        """Takes in a session document; also returns what was skipped and why.

        Args:
            document: As in `import_session`.
            agent: As in `import_session`.
            isolation: As in `import_session`.
            skip_bad_messages: As in `import_session`.

        Raises as `import_session` does.
        """
        parsed, skipped, allowances = read_document(document, skip_bad_messages)
        shipped = ship(agent) if agent else None
        await self._require_new(parsed.id)
        workspace_id = await self._workspace_of(parsed)
        if allowances:  # first, since one with a wrong signature refuses the whole document
            await self.calls.stores(workspace_id).permissions.import_allowances(allowances)
        if shipped:
            await self.calls.registry.put_agent(shipped.digest, shipped.blob)
        profile = imported_profile(
            parsed,
            workspace_id,
            Agent(shipped.digest, shipped.name) if shipped else None,
            isolation,
        )
        command = Create(profile, imported_state(parsed), list(parsed.messages))
        return await self._create(command), skipped

    def session(self, session_id: str) -> Session:
        """Returns a handle of the session ``session_id``, which is looked up when it is used.

        Raises InvalidValue for what is no id.
        """
        return Session(self.calls, parse_uuid(session_id, "session"))

    async def answer(self, session_id: str, handler: ApprovalHandler) -> None:
        """Has ``handler`` asked about all that a family wants approved, while this client lives.

        Args:
            session_id: Any session of the family.
            handler: An async callable of the request, which answers it or leaves it open.

        Raises NotFound for an unknown session.
        """
        place = await self.calls.registry.locate(parse_uuid(session_id, "session"))
        await keep_answering(
            self.calls, self._watchers, place.workspace_id, place.family_id, handler
        )

    async def sessions(
        self,
        *,
        workspace: Workspace | None = None,
        user_id: str | None = None,
        state: str | Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 1000,
        after: str | None = None,
    ) -> SessionList:
        """Lists root sessions, the newest first, with a cursor for those that follow.

        Args:
            workspace: Only those of this one (default: of all).
            user_id: Only those of this user (default: of all).
            state: Only those whose ``SessionView.status`` is this or one of these (default: any).
            since: Only those created then or later (default: from the first).
            until: Only those created before (default: to the last).
            limit: How many at most (default: 1,000).
            after: The ``next`` of an earlier answer to the same question; gives those that follow.

        Raises InvalidValue, naming what is wrong.
        """
        query = SessionQuery(
            workspace_id=workspace.id if workspace else None,
            user_id=None if user_id is None else parse_user(user_id),
            states=check_states([state] if isinstance(state, str) else list(state)),
            since=to_micros(since, "since"),
            until=to_micros(until, "until"),
        )
        parse_cursor(after)
        found = SessionList(next=after)
        while len(found) < limit:
            count = min(limit - len(found), _PAGE)
            page = await self.calls.registry.page(query, found.next, count)
            found += page.sessions
            found.next = page.next
            if page.next is None:
                break
        return found

    async def workspaces(self) -> list[Workspace]:
        """All registered workspaces."""
        settings = await self.calls.registry.workspaces()
        return [Workspace(self.calls, one) for one in settings]

    async def status(self) -> ClusterStatus:
        """Hosts, and what waits."""
        return await self.calls.directory.status()

    async def pending(self) -> list[InboxRequest]:
        """All requests that wait for a decision now, the most urgent first."""
        return await open_requests(self.calls)

    def inbox(self) -> AsyncIterator[InboxRequest]:
        """Every request that waits for a decision, and then those that come, without end."""
        return all_requests(self.calls)

    async def resume_all(self) -> list[str]:
        """Go on with every session that had work in flight; their ids."""
        ids = await self.calls.registry.running()
        for id in ids:
            await self.session(id).resume()
        return ids

    async def _create(self, command: Create) -> Session:
        calls = self.calls
        await calls.create(command)
        return Session(calls, command.profile.id)

    async def _require_new(self, session_id: str) -> None:
        try:
            await self.calls.registry.locate(session_id)
        except NotFound:
            return
        raise InvalidValue(f"session {session_id} is here already: nothing was imported")

    async def _workspace_of(self, document: SessionDocument) -> str:
        if document.workspace_path is None:
            return NO_WORKSPACE
        if os.path.isdir(document.workspace_path):
            return (await self.workspace(document.workspace_path)).id
        return derived_id(f"workspace:{document.workspace_path}")
