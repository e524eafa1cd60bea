"""The plan: which faults come in which round, and when. It depends on nothing but the seed.

A stage says what can be hit there (`Menu`); how it is hit is no concern of the plan.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator, Sequence

from msgspec import Struct

_AIMED = 0.5
_SECOND_FAULT = 0.25
_FIRST_AT_S = (0.3, 2.0)
_LENGTH_S = (4.0, 6.0)


class Menu(Struct, frozen=True):
    """The faults of a stage, which has a ``share`` of all rounds.

    All ``kinds``, those that are an ``outage``, and the ones to come ``during`` an outage, as often
    as they are named.
    """

    stage: str
    share: float
    kinds: list[str]
    outages: list[str]
    during: list[str]


class Fault(Struct, frozen=True):
    """A fault, ``at`` seconds into its round.

    ``pick`` (0 to 1) chooses among what it can hit and ``strength`` (0 to 1) how long or how hard.
    """

    kind: str
    at: float
    pick: float
    strength: float


class Round(Struct, frozen=True):
    """A stretch of time, in seconds, with the faults in it."""

    number: int
    length: float
    faults: list[Fault]


def only(menu: Menu, kinds: Collection[str]) -> Menu:
    """A menu with those of its kinds that are named."""
    lists = (menu.kinds, menu.outages, menu.during)
    return Menu(menu.stage, menu.share, *([one for one in each if one in kinds] for each in lists))


def rounds(seed: int, count: int, menus: Sequence[Menu]) -> dict[str, list[Round]]:
    """The plan for ``count`` rounds, by stage; each kind comes once before any comes again."""
    found, first = {}, 1
    for menu, share in zip(menus, _split(count, menus), strict=True):
        found[menu.stage] = _rounds(random.Random(f"{seed}/plan/{menu.stage}"), first, share, menu)
        first += share
    return found


def _split(count: int, menus: Sequence[Menu]) -> list[int]:
    """How many rounds each stage has: its share, and if there are enough, one for each kind."""
    shares = [round(count * menu.share) for menu in menus[:-1]]
    shares.append(count - sum(shares))
    needs = [len(menu.kinds) for menu in menus]
    if sum(needs) <= count:
        for at, need in enumerate(needs):
            taken = max(need - shares[at], 0)
            shares[at] += taken
            most = max(range(len(shares)), key=lambda one: shares[one] - needs[one])
            shares[most] -= taken
    return shares


def _rounds(rng: random.Random, first: int, count: int, menu: Menu) -> list[Round]:
    """Where there are fewer rounds than kinds, several kinds come in a round."""
    kinds = _kinds(rng, menu.kinds)
    at_once = math.ceil(len(menu.kinds) / count) if count else 0
    found = []
    for number in range(first, first + count):
        faults = [_fault(rng, next(kinds)) for _ in range(at_once)]
        if menu.during and faults[0].kind in menu.outages and rng.random() < _AIMED:
            faults.append(_during(rng, faults[0], menu.during))
        elif rng.random() < _SECOND_FAULT:
            faults.append(_fault(rng, rng.choice(menu.kinds)))
        found.append(Round(number, rng.uniform(*_LENGTH_S), faults))
    return found


def _during(rng: random.Random, outage: Fault, kinds: Sequence[str]) -> Fault:
    """An actor that dies while Redis is away or slow, with what it could not write yet."""
    return Fault(rng.choice(kinds), outage.at + rng.uniform(0.1, 0.8), rng.random(), rng.random())


def _kinds(rng: random.Random, kinds: Sequence[str]) -> Iterator[str]:
    while True:
        yield from rng.sample(kinds, len(kinds))


def _fault(rng: random.Random, kind: str) -> Fault:
    return Fault(kind, rng.uniform(*_FIRST_AT_S), rng.random(), rng.random())
