"""The settings of a session and its family, with the defaults."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.money import Usd, to_nano
from retinue.actors.domain.values.record import Record

Isolation: TypeAlias = Literal["process", "shared"]

DEFAULT_TIMEOUT_S = 300.0

_MOST = 10**12  # more than anybody can run, and less than what a journal can hold


class BudgetConfig:
    """The session budget: shared by a root session and all its sub-agents."""

    __slots__ = ("per_action_max", "session_max", "warn_at_percent")

    def __init__(
        self,
        session_max_usd: Usd = 100,
        per_action_max_usd: Usd = 10,
        warn_at_percent: int = 80,
    ) -> None:
        """Sets the caps of a root session and all its sub-agents together.

        Args:
            session_max_usd: What all may spend, in USD (default: 100).
            per_action_max_usd: What one action may cost, in USD (default: 10).
            warn_at_percent: The share of the session's cap from which a warning is logged (default:
                80); clamped to 0 to 100.

        Raises InvalidValue, naming the field, for an amount or percentage that is none.
        """
        self.session_max: int = to_nano(session_max_usd, "session_max_usd")
        self.per_action_max: int = to_nano(per_action_max_usd, "per_action_max_usd")
        if isinstance(warn_at_percent, bool) or not isinstance(warn_at_percent, int | float):
            raise InvalidValue("warn_at_percent: not a number", field="warn_at_percent")
        if isinstance(warn_at_percent, float) and math.isnan(warn_at_percent):
            raise InvalidValue("warn_at_percent: NaN is not a percentage", field="warn_at_percent")
        self.warn_at_percent: int = int(min(max(warn_at_percent, 0), 100))


class Limits(Record, frozen=True):
    """Limits of a family of sub-agents.

    ``max_depth`` counts levels below the root; ``max_concurrent`` is how many sub-agents of the
    family run at once; ``max_children`` is per parent and ``max_total`` over the family's life.
    Each session keeps the results of its last ``max_results`` runs.
    """

    max_depth: int = 3
    max_concurrent: int = 4
    max_children: int = 10_000
    max_total: int = 100_000
    max_results: int = 32  # for ever: sessions of before it was stored are replayed with it

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
                raise InvalidValue(
                    f"{name}: must be a whole number from 0 to {_MOST:,}", field=name
                )
        for name in ("max_concurrent", "max_results"):
            if getattr(self, name) == 0:
                raise InvalidValue(f"{name}: must be 1 or more", field=name)
