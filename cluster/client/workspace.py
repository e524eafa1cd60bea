"""A workspace, as its client holds it."""

from __future__ import annotations

import asyncio

from retinue.actors.domain.budget.commands import SetCap, SetHold
from retinue.actors.domain.budget.state import WORKSPACE, Hold
from retinue.actors.domain.permissions.allowances.allowance import Allowance
from retinue.actors.domain.permissions.patterns import Pattern
from retinue.actors.domain.values.money import Usd
from retinue.actors.durable.audit import Report
from retinue.actors.requests import SessionAt
from retinue.actors.views import WorkspaceSettings
from retinue.cluster.client.budgets import BudgetStatus, budget_status, cap_of
from retinue.cluster.client.calls import Calls
from retinue.cluster.client.inbox import InboxRequest
from retinue.cluster.client.session import Session
from retinue.cluster.directory.audit_export import render_audit


class Workspace:
    """A registered workspace."""

    def __init__(self, calls: Calls, settings: WorkspaceSettings) -> None:
        self._calls = calls
        self._settings = settings
        self._stores = calls.stores(settings.workspace_id)

    @property
    def id(self) -> str:
        """The workspace's id, which its path gives."""
        return self._settings.workspace_id

    @property
    def path(self) -> str:
        """The workspace's directory."""
        return str(self._settings.path)

    @property
    def settings(self) -> WorkspaceSettings:
        """Path, policy and boundary, as they are stored."""
        return self._settings

    async def budget(self) -> BudgetStatus:
        """The workspace's spend and reservations, collected from all its sessions first."""
        return await budget_status(self._calls, self.id, WORKSPACE)

    async def set_budget(
        self, max_usd: Usd | None, *, warn_at_percent: int = 80, by: str | None = None
    ) -> None:
        """Raises or lowers the cap; it stays until somebody sets another one.

        Args:
            max_usd: The cap in USD; None for no cap. Below what is spent it blocks.
            warn_at_percent: The share of the cap from which a warning is logged, 0 to 100.
            by: Who does it, for the audit log (default: the client's ``actor``).

        Raises InvalidValue for an amount that is none.
        """
        command = SetCap(WORKSPACE, cap_of(max_usd, warn_at_percent), by or self._calls.actor)
        await self._stores.budget.set_cap(command)

    async def hold(self, why: str, *, cancel: bool = False, by: str | None = None) -> int:
        """Puts on the brake: no action is authorised, no run or sub-agent begins, anywhere here.

        What is at work stands still at its next such step, until `release`; meanwhile its time does
        not run. Who holds again changes who and why.

        Args:
            why: The reason, which everybody is told who is refused.
            cancel: Whether all root sessions with runs are cancelled then, too.
            by: Who does it, for the audit log (default: the client's ``actor``).

        Returns how many sessions were cancelled. Raises InvalidValue for an empty reason.
        """
        by = by or self._calls.actor
        await self._stores.budget.set_hold(SetHold(why, by))
        return await self._cancel_all(by) if cancel else 0

    async def release(self, *, by: str | None = None) -> Hold | None:
        """Lets go of the brake: everything goes on where it stood.

        Args:
            by: Who does it, for the audit log (default: the client's ``actor``).

        Returns the hold that was, or None.
        """
        return await self._stores.budget.set_hold(SetHold(None, by or self._calls.actor))

    async def held(self) -> Hold | None:
        """The hold on the workspace, with its author, reason and time; None if there is none."""
        return await self._stores.budget.held()

    async def _cancel_all(self, by: str) -> int:
        places = {id: self._calls.registry.locate(id) for id in await self._running()}
        found = await asyncio.gather(*places.values())
        here = [
            id for id, place in zip(places, found, strict=True) if place.workspace_id == self.id
        ]
        return sum(await asyncio.gather(*(self._cancel_if_busy(id, by) for id in here)))

    async def _running(self) -> list[str]:
        return await self._calls.registry.running()

    async def _cancel_if_busy(self, id: str, by: str) -> bool:
        view = await self._calls.sessions.view(SessionAt(id))
        busy = bool(view.queued or view.running)
        if busy:
            await Session(self._calls, id).cancel(by=by)
        return busy

    async def allow(
        self,
        pattern: Pattern,
        *,
        max_uses: int | None = None,
        expires_in_s: float | None = None,
        id: str | None = None,
        by: str | None = None,
    ) -> Allowance:
        """Lets every session of the workspace do what ``pattern`` matches without asking.

        It is durable, and holds on every host, when this returns.

        Args:
            pattern: Which actions it covers.
            max_uses: How often it may be used, by all together (default: without limit).
            expires_in_s: For how long, in seconds (default: until `revoke`).
            id: Its id (default: a fresh one); the same id twice is one allowance.
            by: Who gives it, for the audit log (default: the client's ``actor``).

        Raises InvalidValue for a pattern or a number that is none; LimitReached if the workspace
        has too many.
        """
        now = self._calls.now()
        allowance = Allowance(
            id=id or self._calls.new_id(),
            pattern=pattern,
            created=now,
            expires=None if expires_in_s is None else now + int(expires_in_s * 1_000_000),
            max_uses=max_uses,
            uses_left=max_uses,
            workspace_root=self._settings.path,
        )
        return await self._stores.permissions.grant(allowance, by or self._calls.actor)

    async def allowances(self) -> list[Allowance]:
        """All allowances of the workspace, session-only ones included."""
        return await self._stores.permissions.allowances()

    async def revoke(self, allowance_id: str, *, by: str | None = None) -> None:
        """Withdraws an allowance: once this returns nobody passes through it.

        Args:
            allowance_id: The allowance's id.
            by: Who does it, for the audit log (default: the client's ``actor``).

        Raises NotFound for an id that the workspace does not have.
        """
        await self._stores.permissions.revoke(allowance_id, by or self._calls.actor)

    async def audit(self) -> list[Report]:
        """The audit log: every chain of the workspace, verified; see `Report.problem`."""
        keys = await self._calls.queries.audit_chains(self.id)
        return [await self._calls.queries.audit_report(key) for key in keys]

    async def export_audit(self) -> str:
        """The audit log as a signed JSON document (`retinue.cluster.directory.audit_export`)."""
        return await self._calls.queries.sign_audit(render_audit(self.path, await self.audit()))

    async def inbox(self) -> list[InboxRequest]:
        """The requests that wait for a decision now, the most urgent first."""
        entries = await self._stores.permissions.open_requests()
        return [InboxRequest(self._calls, self.id, entry) for entry in entries]
