"""The shared stores as actors: thin shells around the state machines of `actors.domain`."""

from __future__ import annotations

import asyncio
import math
from typing import cast

from msgspec import structs

from actors import metrics
from actors.domain import allowances, approvals, budget, capabilities
from actors.domain.actions import Action, resource
from actors.domain.allowances import Allowance
from actors.domain.approvals import ApprovalRequest, Decision, Entry, Scope, Status
from actors.domain.capability_token import Token, mint, verify
from actors.domain.errors import CallError, Tampered
from actors.domain.ids import derived_id
from actors.domain.money import NANO
from actors.domain.patterns import Pattern, from_action
from actors.domain.resource_pattern import exactly
from actors.holder import Holder
from actors.machines import ALLOWANCES, APPROVALS, BUDGET, CAPABILITIES
from actors.permission_leases import LEASE_S
from actors.ports import Asked
from actors.recall import Recall
from actors.wiring import Wiring

_SLACK_LIMIT_S = 2.0
"""How long the budget waits for a host to return its slack, in seconds."""

ALWAYS_US = 60 * 60 * 1_000_000
"""How long the token of an approval "always" is good for: one hour."""

_WATCHER_GONE_S = 10.0
_COME_BACK_S = 3.0
"""How long after its last poll a watcher counts as being there."""


class BudgetActor:
    """``budget/<workspace>``: implements `actors.ports.BudgetPort`."""

    def __init__(self, wiring: Wiring, scope: str) -> None:
        self._scope = scope
        self._holder = Holder(BUDGET, scope, "budget", wiring)
        self._clock = wiring.clock
        self._recall = Recall(_SLACK_LIMIT_S, once=True)

    async def open_family(self, command: budget.OpenFamily) -> None:
        await self._holder.execute(command)

    async def admit(self, command: budget.Admit) -> budget.Admitted | budget.Refused:
        return cast("budget.Admitted | budget.Refused", await self._holder.execute(command))

    async def lease(self, wants: list[budget.Want]) -> list[budget.Granted | budget.Exceeded]:
        """Decide each wish. Before one is refused, slack that others hold is called back."""
        command = budget.Lease(wants)
        if self._recall.any_lent and await self._would_refuse(command):
            await self._recall.call_back()
        behind = budget.behind((await self._holder.entity()).state, wants)
        replies = _granted(await self._holder.execute(command))
        await self._measure()
        if behind:
            return [
                budget.Granted(0, behind=True) if want.session in behind else reply
                for want, reply in zip(wants, replies, strict=True)
            ]
        if any(isinstance(one, budget.Granted) and one.warning for one in replies):
            self._recall.announce()  # near a threshold everybody asks, so that all see it
        return replies

    async def _would_refuse(self, command: budget.Lease) -> bool:
        entity = await self._holder.entity()
        try:
            _, would_be = budget.decide(entity.state, command, self._clock())
        except CallError:
            return False  # `lease` is about to meet the same error
        return any(isinstance(one, budget.Exceeded) for one in _granted(would_be))

    async def _measure(self) -> None:
        level = budget.level((await self._holder.entity()).state, budget.WORKSPACE)
        metrics.SPENT_USD.set(level.spent / NANO, self._scope)
        metrics.CAP_USD.set(math.inf if level.max is None else level.max / NANO, self._scope)

    async def await_recall(self, host: str, seen: int, timeout_s: float) -> int:
        """Answered when slack is called back. A host that has lent slack on always waits here."""
        return await self._recall.wait_for_call(host, seen, timeout_s)

    async def return_slack(self, host: str, call: int, wants: list[budget.Want]) -> None:
        """A host's answer to call number ``call``: the reports of all its purses."""
        await self._holder.execute(budget.Lease(wants))
        self._recall.returned(host, call)

    async def set_cap(self, command: budget.SetCap) -> None:
        await self._holder.execute(command)

    async def open_workspace(self, command: budget.OpenWorkspace) -> budget.Standing:
        """The cap that holds: the one that is given, if none was ever named."""
        return cast(budget.Standing, await self._holder.execute(command))

    async def set_hold(self, command: budget.SetHold) -> budget.Hold | None:
        """Pull the brake or let go of it. From now on every commit in the workspace is told.

        Hosts are called all the same: those that have little to commit learn of it, too.
        """
        hold = cast("budget.Hold | None", await self._holder.execute(command))
        self._recall.announce()
        return hold

    async def held(self) -> budget.Hold | None:
        """Who holds the workspace, if anybody does."""
        entity = await self._holder.entity()
        hold = entity.state.brake.hold
        await entity.confirmed()
        return hold

    async def children(self, family_id: str) -> int:
        """How many sub-agents a family has had so far."""
        entity = await self._holder.entity()
        family = entity.state.families.get(family_id)
        await entity.confirmed()
        return family.children if family else 0

    async def levels(self, names: list[str]) -> list[budget.Level]:
        entity = await self._holder.entity()
        levels = [budget.level(entity.state, name) for name in names]
        await entity.confirmed()
        return levels


def _granted(replies: budget.Reply) -> list[budget.Granted | budget.Exceeded]:
    return cast("list[budget.Granted | budget.Exceeded]", replies)


class PermissionsActor:
    """``allowances/<workspace>``: implements `actors.ports.PermissionsPort`."""

    def __init__(self, wiring: Wiring, scope: str) -> None:
        self._wiring = wiring
        self._scope = scope
        self._allowances = Holder(ALLOWANCES, scope, "allowances", wiring)
        self._approvals = Holder(APPROVALS, scope, "approvals", wiring)
        self._recall = Recall(LEASE_S)
        self._changed = asyncio.Condition()
        self._version = 1
        self._watchers: dict[str | None, float] = {}
        self._since: float | None = None

    async def consume(
        self, op: str, action: Action, family_id: str, root: str | None
    ) -> Allowance | None:
        reply = await self._allowances.execute(allowances.Consume(op, action, family_id, root))
        return reply.allowance if isinstance(reply, allowances.Consumed) else None

    async def grant(self, allowance: Allowance, by: str = "") -> Allowance:
        signed = self._signed(allowance)
        await self._allowances.execute(allowances.Grant(signed, by))
        return signed

    async def revoke(self, allowance_id: str, by: str = "") -> None:
        """Once this returns nobody passes through it, by an answer kept from before either."""
        await self._allowances.execute(allowances.Revoke(allowance_id, by))
        await self._recall.call_back()

    async def await_recall(self, host: str, seen: int, timeout_s: float) -> int:
        """Answered when kept answers are called back. A host that keeps any always waits here."""
        return await self._recall.wait_for_call(host, seen, timeout_s)

    async def leases_dropped(self, host: str, call: int) -> None:
        """A host's answer to call number ``call``: it keeps none of the answers from before."""
        self._recall.returned(host, call)

    async def allowances(self) -> list[Allowance]:
        entity = await self._allowances.entity()
        found = list(entity.state.allowances.values())
        await entity.confirmed()
        return found

    async def import_allowances(self, given: list[Allowance]) -> int:
        """Take over signed allowances; Tampered, naming it, for one with a wrong signature."""
        keyring = self._wiring.keyring
        for one in given:
            data = allowances.signing_bytes(one)
            if not any(keyring.verify(issuer, data, one.signature) for issuer in keyring.issuers):
                raise Tampered(f"allowance {one.id}: its signature is not of this cluster's key")
        reply = await self._allowances.execute(allowances.Import(tuple(given)))
        return len(reply.ids) if isinstance(reply, allowances.Stored) else 0

    async def clear_session(self, family_id: str) -> None:
        await self._allowances.execute(allowances.ClearSession(family_id))

    async def ask(self, request: ApprovalRequest) -> Asked:
        entry = cast(Entry, await self._approvals.execute(approvals.Ask(request)))
        await self._announce()
        return Asked(entry, await self._is_watched(request.family_id))

    async def await_decision(self, request_id: str, timeout_s: float) -> Entry:
        """The entry when it is decided; deferred when time is up or nobody is there to decide."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        reason = "nobody answered in time"
        while True:
            entity = await self._approvals.entity()
            entry = entity.state.requests.get(request_id)
            if entry is None or entry.status is not Status.PENDING:
                break
            if not await self._is_watched(entry.request.family_id):
                reason = "nobody is there to answer"
                break
            left = deadline - loop.time()
            if left <= 0:
                break
            await self._wait_for_change(min(left, _COME_BACK_S / 2))
        reply = await self._approvals.execute(approvals.Defer(request_id, reason))
        await self._announce()
        return cast(Entry, reply)

    async def claim(
        self, op: str, session_id: str, family_id: str, argument_hash: str
    ) -> Decision | None:
        command = approvals.ClaimOnce(op, session_id, family_id, argument_hash)
        return cast("Decision | None", await self._approvals.execute(command))

    async def decide(
        self,
        request_id: str,
        scope: Scope,
        decided_by: str,
        argument_hash: str,
        reason: str,
        pattern: Pattern | None,
    ) -> Decision:
        """Decide a request, and grant what the decision says.

        The grant comes second: two stores may be taken over one by one, and a grant without its
        decision would be nobody's. If it fails, the same decision sent again brings it.
        """
        root = (await self._wiring.registry.workspace(self._scope)).path
        known = (await self._approvals.entity()).state.requests.get(request_id)
        command = approvals.Decide(request_id, scope, decided_by, argument_hash, reason)
        decision = cast(Decision, await self._approvals.execute(command))
        allowance = known and _allowance_for(known.request, decision, pattern, root)
        if allowance:
            await self._allowances.execute(
                allowances.Grant(self._signed(allowance), decision.decided_by)
            )
        await self._announce()
        return decision

    async def open_requests(self) -> list[Entry]:
        entity = await self._approvals.entity()
        found = approvals.open_requests(entity.state, self._wiring.clock())
        await entity.confirmed()
        return found

    async def watch(
        self, seen: int, family_id: str | None, timeout_s: float
    ) -> tuple[int, list[Entry]]:
        """Open requests (of one family, or all) as soon as anything changed after ``seen``.

        Whoever watches counts as being there to answer.
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
        """The watcher has left: requests that wait for it are deferred at once."""
        self._watchers.pop(family_id, None)
        await self._announce()

    async def _is_watched(self, family_id: str) -> bool:
        """Who watched the actor before this one counts until they had time to come back."""
        now = asyncio.get_running_loop().time()
        if self._since is None:
            first = (await self._approvals.entity()).epoch == 1
            self._since = now - _COME_BACK_S if first else now
        if now - self._since < _COME_BACK_S:
            return True
        return max(self._watchers.get(family_id, 0.0), self._watchers.get(None, 0.0)) > now

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
        signature = self._wiring.keyring.sign(allowances.signing_bytes(allowance))
        return structs.replace(allowance, signature=signature)


_LASTING = frozenset({Scope.SESSION, Scope.WORKSPACE, Scope.CUSTOM})


def _allowance_for(
    request: ApprovalRequest, decision: Decision, pattern: Pattern | None, root: str | None
) -> Allowance | None:
    """What an approval grants beyond the one action; its id makes a repeat harmless."""
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


class CapabilitiesActor:
    """``capabilities``: implements `actors.ports.CapabilitiesPort`."""

    def __init__(self, wiring: Wiring, scope: str) -> None:
        self._wiring = wiring
        self._holder = Holder(CAPABILITIES, scope, "capabilities", wiring)

    async def add(self, token: Token) -> None:
        """Accept a token; Tampered or InvalidValue if it is not one of ours or not valid."""
        verify(self._wiring.keyring, token, self._wiring.clock())
        await self._holder.execute(capabilities.Add(token))

    async def find(
        self, op: str, action: Action, family_id: str, user_id: str, only: list[str] | None
    ) -> Token | None:
        """The token that covers ``action`` for operation ``op``; ``only`` narrows the choice."""
        entity = await self._holder.entity()
        uri, permission = resource(action)
        token = capabilities.find(
            entity.state,
            uri,
            permission,
            family_id=family_id,
            user=user_id,
            now=self._wiring.clock(),
            op=op,
            only=only,
        )
        await entity.confirmed()
        return token

    async def use(self, op: str, token_id: str) -> bool:
        reply = await self._holder.execute(capabilities.Use(op, token_id))
        return not isinstance(reply, capabilities.UseRefused)

    async def issue(self, request: ApprovalRequest, user_id: str) -> Token:
        """The token of an approval "always": what was asked for, and nothing more, for 1 h."""
        uri, permission = resource(request.action)
        token = mint(
            self._wiring.keyring,
            id=derived_id(f"token of {request.id}"),
            resource=exactly(uri),
            permissions=(permission,),
            now=request.created,
            expires=self._wiring.clock() + ALWAYS_US,
            user=user_id,
            audit_entry=request.id,
        )
        entity = await self._holder.entity()
        known = entity.state.tokens.get(token.id)
        if known is None:
            await self._holder.execute(capabilities.Add(token))
        await entity.confirmed()
        return known or token

    async def revoke(self, token_id: str) -> None:
        await self._holder.execute(capabilities.Revoke(token_id))

    async def tokens(self) -> list[Token]:
        entity = await self._holder.entity()
        found = capabilities.usable(entity.state, self._wiring.clock())
        await entity.confirmed()
        return found
