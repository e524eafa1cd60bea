"""A budget's spend, and its cap in words."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from msgspec import Struct

from retinue.actors.domain.budget.state import Cap
from retinue.actors.domain.budget.totals import Level
from retinue.actors.domain.session.settings import BudgetConfig
from retinue.actors.domain.session.state import Budget
from retinue.actors.domain.values.money import Usd, to_nano, to_usd, usd_text
from retinue.cluster.client.calls import Calls


class BudgetStatus(Struct, frozen=True):
    """Money at one level, exact when it was asked for. Amounts in nano-USD and as USD."""

    spent: int
    reserved: int
    max: int | None

    @property
    def spent_usd(self) -> Decimal:
        """The amount spent, in USD."""
        return to_usd(self.spent)

    @property
    def reserved_usd(self) -> Decimal:
        """The amount reserved for actions under way, in USD."""
        return to_usd(self.reserved)

    @property
    def max_usd(self) -> Decimal | None:
        """The cap in USD; None where there is none."""
        return None if self.max is None else to_usd(self.max)


def budget_of(config: BudgetConfig) -> Budget:
    """The budget of a session, from its profile's settings."""
    return Budget(config.session_max, config.per_action_max, config.warn_at_percent)


def cap_of(max_usd: Usd | None, warn_at_percent: int) -> Cap:
    """The cap for the amount given; raises InvalidValue for an invalid amount."""
    most = None if max_usd is None else to_nano(max_usd, "max_usd")
    return Cap(most, min(max(warn_at_percent, 0), 100))


def cap_text(cap: Cap) -> str:
    """A cap in words."""
    if cap.max is None:
        return "none"
    return f"{usd_text(cap.max)} USD with a warning at {cap.warn_at_percent} %"


async def budget_status(calls: Calls, workspace_id: str, name: str) -> BudgetStatus:
    """The spend of a budget by name, after every host has reported."""
    status = await calls.directory.status()
    await asyncio.gather(
        *(calls.host(host.name).report(workspace_id) for host in status.hosts),
        return_exceptions=True,
    )
    level: Level = (await calls.stores(workspace_id).budget.levels([name]))[0]
    return BudgetStatus(level.spent, level.reserved, level.max)
