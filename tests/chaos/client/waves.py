"""What the driver does, wave by wave: derived from the seed, and the same on every run.

A wave is a few families that share a workspace, its cap, allowances of few uses, two tokens of
one use each, and an allowance that is revoked while they work.
"""

from __future__ import annotations

import random
from typing import Literal

from msgspec import Struct

from retinue.actors.domain.permissions.allowances.allowance import Allowance
from retinue.actors.domain.permissions.capabilities.token import Token, mint
from retinue.actors.domain.permissions.patterns import ExactTool
from retinue.actors.domain.session.settings import Isolation
from retinue.actors.domain.values.ids import derived_id
from retinue.actors.domain.values.keyring import Keyring
from tests.chaos.workloads.life import CENT, GUARDED

FAMILIES_PER_WAVE = 6
WORKSPACES = 2
TOKENS = 2

_MADE_US = 1_750_000_000_000_000
_YEARS_US = 20 * 365 * 24 * 3_600_000_000

Answer = Literal["once", "session", "workspace", "always", "deny"]
Ending = Literal["none", "end", "cancel", "cancel_child"]


class RunPlan(Struct, frozen=True):
    """A run; ``label`` is that of its errand."""

    id: str
    label: str


class FamilyPlan(Struct, frozen=True):
    """A root session and what is done with it. Times in seconds, amounts in nano-USD."""

    number: int
    wave: int
    id: str
    isolation: Isolation
    budget: int
    levels: int
    slow: float
    runs: list[RunPlan]
    messages: list[float]
    ending: Ending
    ends_after: float


class WavePlan(Struct, frozen=True):
    """What the families of a wave share. ``margin`` is what they may spend together, nano-USD."""

    number: int
    workspace: int
    user: str
    margin: int
    uses: int
    limited: str
    shared: str
    tokens: list[str]
    revoked_after: float
    families: list[FamilyPlan]


def wave(seed: str, number: int) -> WavePlan:
    """The plan of a wave."""
    rng = random.Random(f"{seed}/wave/{number}")
    first = number * FAMILIES_PER_WAVE
    families = [_family(seed, first + at, number) for at in range(FAMILIES_PER_WAVE)]
    return WavePlan(
        number,
        workspace=number % WORKSPACES,
        user=f"{number:016x}",
        margin=rng.randint(250, 800) * CENT,
        uses=rng.randint(2, 6),
        limited=derived_id(f"{seed}/limited/{number}"),
        shared=derived_id(f"{seed}/shared/{number}"),
        tokens=[derived_id(f"{seed}/token/{number}/{at}") for at in range(TOKENS)],
        revoked_after=rng.uniform(2.0, 8.0),
        families=families,
    )


def allowance(id: str, tool: str, uses: int | None, root: str) -> Allowance:
    """An allowance for one tool: the same one, however often it is made."""
    pattern = ExactTool(GUARDED, tool)
    return Allowance(id, pattern, _MADE_US, max_uses=uses, uses_left=uses, workspace_root=root)


def token(keyring: Keyring, plan: WavePlan, at: int) -> Token:
    """A token that is good for one use of one tool: the same one, however often it is made."""
    return mint(
        keyring,
        id=plan.tokens[at],
        resource=f"mcp://{GUARDED}:single-{plan.number}-{at}",
        permissions=("invoke",),
        now=_MADE_US,
        expires=_MADE_US + _YEARS_US,
        user=plan.user,
        audit_entry=f"wave {plan.number}",
        single_use=True,
    )


def scope_for(request_id: str, shared: bool) -> Answer:
    """How a request is decided, whoever is asked and however often.

    ``shared`` is for a tool that many want, so that no approval makes them stop competing for it.
    """
    scopes: list[Answer] = ["once", "once", "deny"]
    if not shared:
        scopes += ["session", "workspace", "always"]
    return random.Random(f"scope/{request_id}").choice(scopes)


def deciders(request_id: str) -> list[str]:
    """Who decides a request: one person, two at once, or nobody."""
    count = random.Random(f"deciders/{request_id}").choice((0, 1, 1, 1, 2))
    return ["ann", "ben"][:count]


def _family(seed: str, number: int, wave: int) -> FamilyPlan:
    rng = random.Random(f"{seed}/family/{number}")
    label = f"f{number}"
    return FamilyPlan(
        number,
        wave,
        id=derived_id(f"{seed}/family/{number}"),
        isolation=rng.choice(("shared", "process")),
        budget=rng.randint(60, 400) * CENT,
        levels=rng.choice((0, 1, 1, 2, 2)),
        slow=rng.choice((0.5, 1.0, 2.0)),
        runs=[
            RunPlan(derived_id(f"{seed}/run/{number}/{at}"), f"{label}r{at}")
            for at in range(rng.randint(1, 2))
        ],
        messages=[rng.uniform(0.0, 3.0) for _ in range(rng.randint(0, 4))],
        ending=rng.choice(("none", "none", "end", "cancel", "cancel", "cancel_child")),
        ends_after=rng.uniform(0.3, 5.0),
    )
