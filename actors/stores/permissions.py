"""The store of people's allowances, and of the requests that wait for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import cast

from msgspec import structs

from retinue.actors.domain.errors import RetinueError, Tampered
from retinue.actors.domain.permissions.allowances import machine as allowances
from retinue.actors.domain.permissions.allowances.allowance import Allowance, signing_bytes
from retinue.actors.domain.permissions.allowances.machine import Consume, Consumed
from retinue.actors.domain.permissions.approvals import machine as approvals
from retinue.actors.domain.permissions.approvals.question import (
    Answer,
    Permitted,
    Question,
    Waiting,
    attempts,
)
from retinue.actors.domain.permissions.approvals.request import ApprovalRequest, Resolution, Scope
from retinue.actors.domain.permissions.approvals.state import Entry, Status
from retinue.actors.domain.permissions.patterns import Pattern, from_action
from retinue.actors.domain.values.ids import derived_id
from retinue.actors.durable.machines import ALLOWANCES, APPROVALS
from retinue.actors.durable.runtime import Runtime
from retinue.actors.durable.singleton import SingletonEntity
from retinue.actors.leases.permission_leases import LEASE_S
from retinue.actors.leases.recall import Recall
from retinue.actors.ports import CapabilitiesPort

_WATCHER_GONE_S = 10.0
_COME_BACK_S = 3.0
"""Seconds after its last poll for which a watcher counts as present."""


class PermissionsActor:
    """``allowances/<workspace>``: implements `retinue.actors.ports.PermissionsPort`."""

    def __init__(self, runtime: Runtime, workspace_id: str, capabilities: CapabilitiesPort) -> None:
        self._runtime = runtime
        self._workspace_id = workspace_id
        self._capabilities = capabilities
        self._issued: set[str] = set()
        self._allowances = SingletonEntity(ALLOWANCES, workspace_id, "allowances", runtime)
        self._approvals = SingletonEntity(
            APPROVALS, workspace_id, "approvals", runtime, self._looked_after
        )
        self._recall = Recall(LEASE_S)
        self._changed = asyncio.Condition()
        self._version = 1
        self._watchers: dict[str | None, float] = {}
        self._since: float | None = None

    async def resolve(self, question: Question) -> Answer:
        """The answer: the operation may go on, or must wait for a person, whom this call asks."""
        granted, asked = await self._allowances.entity(), await self._approvals.entity()
        reply: allowances.Reply | approvals.Reply = None
        try:
            for one in attempts(question, self._runtime.clock()):
                reply = granted.do(one) if isinstance(one, Consume) else asked.do(one)
                if reply is not None:
                    break
        finally:
            if isinstance(reply, Consumed):
                await self._allowances.committed(granted)
            else:
                await self._approvals.committed(asked, granted)
        if isinstance(reply, Consumed):
            return Permitted(reply.allowance)
        if isinstance(reply, Resolution):
            return Permitted(reply)
        await self._announce()
        return Waiting(cast(Entry, reply), await self._is_watched(question.family_id))

    async def grant(self, allowance: Allowance, by: str = "") -> Allowance:
        signed = self._signed(allowance)
        await self._allowances.execute(allowances.Grant(signed, by))
        return signed

    async def revoke(self, allowance_id: str, by: str = "") -> None:
        """Revokes an allowance: afterwards nothing passes through it, or through a kept answer."""
        await self._allowances.execute(allowances.Revoke(allowance_id, by))
        await self._recall.call_back()

    async def await_recall(self, host: str, seen: int, timeout_s: float) -> int:
        """Answers when kept answers are called back. A host that keeps any always waits here."""
        return await self._recall.wait_for_call(host, seen, timeout_s)

    async def leases_dropped(self, host: str, call: int) -> None:
        """Records a host's answer to call number ``call``: it keeps none of the earlier answers."""
        self._recall.returned(host, call)

    async def allowances(self) -> list[Allowance]:
        return await self._allowances.query(lambda state: list(state.allowances.values()))

    async def import_allowances(self, given: list[Allowance]) -> int:
        """Take over signed allowances; Tampered, naming it, for one with a wrong signature."""
        keyring = self._runtime.keyring
        for one in given:
            data = signing_bytes(one)
            if not any(keyring.verify(issuer, data, one.signature) for issuer in keyring.issuers):
                raise Tampered(f"allowance {one.id}: its signature is not of this cluster's key")
        reply = await self._allowances.execute(allowances.Import(tuple(given)))
        return len(reply.ids) if isinstance(reply, allowances.Stored) else 0

    async def clear_session(self, family_id: str) -> None:
        await self._allowances.execute(allowances.ClearSession(family_id))

    async def await_decision(self, request_id: str, timeout_s: float) -> Entry:
        """The entry when it is decided; deferred when time is up or nobody is there to decide."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            entity = await self._approvals.entity()
            entry = entity.state.requests.get(request_id)
            if entry is None or entry.finished is not None:
                break
            watched, left = await self._is_watched(entry.request.family_id), deadline - loop.time()
            if not watched or left <= 0:
                if entry.status is Status.PENDING:
                    await self._defer(request_id, watched)
                break
            await self._wait_for_change(min(left, _COME_BACK_S / 2))
        return await self._approvals.query(lambda state: approvals.get(state, request_id))

    async def _defer(self, request_id: str, watched: bool) -> None:
        reason = "nobody answered in time" if watched else "nobody is there to answer"
        await self._approvals.execute(approvals.Defer(request_id, reason))
        await self._announce()

    async def decide(self, command: approvals.Decide) -> Resolution:
        """Decides a request, and grants what the decision says: an allowance, or a token.

        The grant comes second: stores may be taken over one by one, and a grant without its
        decision would belong to nobody. If it fails, the same decision sent again makes it; a token
        also comes by itself.
        """
        root = (await self._runtime.registry.workspace(self._workspace_id)).path
        known = (await self._approvals.entity()).state.requests.get(command.request_id)
        decision = cast(Resolution, await self._approvals.execute(command))
        allowance = known and _allowance_for(known.request, decision, command.pattern, root)
        if allowance:
            await self._allowances.execute(
                allowances.Grant(self._signed(allowance), decision.decided_by)
            )
        if decision.scope is Scope.ALWAYS:
            await self._issue_token(command.request_id)
        await self._announce()
        return decision

    async def open_requests(self) -> list[Entry]:
        now = self._runtime.clock()
        return await self._approvals.query(lambda state: approvals.open_requests(state, now))

    async def watch(
        self, seen: int, family_id: str | None, timeout_s: float
    ) -> tuple[int, list[Entry]]:
        """Open requests (of one family, or all) as soon as anything changed after ``seen``.

        The watcher counts as present to answer.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        self._watchers[family_id] = deadline + _WATCHER_GONE_S
        while self._version == seen and (left := deadline - loop.time()) > 0:
            await self._wait_for_change(left)
        self._watchers[family_id] = loop.time() + _WATCHER_GONE_S
        version = self._version
        entries = [
            entry
            for entry in await self.open_requests()
            if family_id in (None, entry.request.family_id)
        ]
        return version, entries

    async def unwatch(self, family_id: str | None) -> None:
        """Removes a watcher: requests that wait for it are deferred at once."""
        self._watchers.pop(family_id, None)
        await self._announce()

    async def _is_watched(self, family_id: str) -> bool:
        """True if watched; an earlier actor's watchers count until they had time to come back."""
        now = asyncio.get_running_loop().time()
        if self._since is None:
            first = (await self._approvals.entity()).epoch == 1
            self._since = now - _COME_BACK_S if first else now
        if now - self._since < _COME_BACK_S:
            return True
        return max(self._watchers.get(family_id, 0.0), self._watchers.get(None, 0.0)) > now

    async def _looked_after(self, sent: Sequence[approvals.Command]) -> None:
        if sent:
            await self._announce()
        entity = await self._approvals.entity()
        due = approvals.tokens_due(entity.state, self._runtime.clock()).keys()
        self._issued &= due
        if missing := sorted(due - self._issued):
            await entity.confirmed()
        for request_id in missing:
            with contextlib.suppress(RetinueError):  # of one token, and not of the others
                await self._issue_token(request_id)

    async def _issue_token(self, request_id: str) -> None:
        """Requests the token of a stored decision, unless the decision is over."""
        state = (await self._approvals.entity()).state
        due = approvals.tokens_due(state, self._runtime.clock())
        if request_id in due:
            await self._capabilities.issue(*due[request_id])
            self._issued.add(request_id)

    async def _announce(self) -> None:
        async with self._changed:
            self._version += 1
            self._changed.notify_all()

    async def _wait_for_change(self, limit_s: float) -> None:
        version = self._version
        async with self._changed:
            try:
                async with asyncio.timeout(limit_s):
                    await self._changed.wait_for(lambda: self._version != version)
            except TimeoutError:
                return

    def _signed(self, allowance: Allowance) -> Allowance:
        signature = self._runtime.keyring.sign(signing_bytes(allowance))
        return structs.replace(allowance, signature=signature)


_LASTING = frozenset({Scope.SESSION, Scope.WORKSPACE, Scope.CUSTOM})


def _allowance_for(
    request: ApprovalRequest, decision: Resolution, pattern: Pattern | None, root: str | None
) -> Allowance | None:
    """The allowance that an approval grants beyond one action; its id makes a repeat harmless."""
    if not decision.approved or decision.scope not in _LASTING:
        return None
    session_only = decision.scope is Scope.SESSION or root is None  # no workspace: the family's
    covered = pattern if decision.scope is Scope.CUSTOM else from_action(request.action, root)
    if covered is None:
        return None
    return Allowance(
        id=derived_id(f"allowance of {request.id}"),
        pattern=covered,
        created=decision.decided_at,
        session_only=session_only,
        family_id=request.family_id if session_only else None,
        workspace_root=root,
    )
