"""The plan: which faults come in which round, and when. It depends on nothing but the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal, TypeAlias, get_args

from msgspec import Struct

Kind: TypeAlias = Literal[
    "session_host",
    "shared_host",
    "budget",
    "allowances",
    "capabilities",
    "directory",
    "node",
    "driver",
    "redis",
    "paused_host",
    "cut_before",
    "cut_after",
    "slow_redis",
    "gcs",
]

KINDS: tuple[Kind, ...] = get_args(Kind)

_OUTAGES: tuple[Kind, ...] = ("redis", "cut_before", "cut_after", "slow_redis")
_ACTORS: tuple[Kind, ...] = ("session_host", "shared_host", "shared_host", "budget", "allowances")
_AIMED = 0.5
_SECOND_FAULT = 0.25
_FIRST_AT_S = (0.3, 2.0)
_LENGTH_S = (4.0, 6.0)


class Fault(Struct, frozen=True):
    """A fault, ``at`` seconds into its round. ``pick`` (0 to 1) chooses among what it can hit and
    ``strength`` (0 to 1) how long or how hard."""

    kind: Kind
    at: float
    pick: float
    strength: float


class Round(Struct, frozen=True):
    """A stretch of time, in seconds, with one or two faults in it."""

    number: int
    length: float
    faults: list[Fault]


def rounds(seed: int, count: int) -> list[Round]:
    """The plan for ``count`` rounds; each kind comes once before any comes again."""
    rng = random.Random(f"{seed}/plan")
    kinds = _kinds(rng)
    found = []
    for number in range(1, count + 1):
        faults = [_fault(rng, next(kinds))]
        if faults[0].kind in _OUTAGES and rng.random() < _AIMED:
            faults.append(_during(rng, faults[0]))
        elif rng.random() < _SECOND_FAULT:
            faults.append(_fault(rng, rng.choice(KINDS)))
        found.append(Round(number, rng.uniform(*_LENGTH_S), faults))
    return found


def _during(rng: random.Random, outage: Fault) -> Fault:
    """An actor that dies while Redis is away or slow, with what it could not write yet."""
    kind = rng.choice(_ACTORS)
    return Fault(kind, outage.at + rng.uniform(0.1, 0.8), rng.random(), rng.random())


def _kinds(rng: random.Random) -> Iterator[Kind]:
    while True:
        yield from rng.sample(KINDS, len(KINDS))


def _fault(rng: random.Random, kind: Kind) -> Fault:
    return Fault(kind, rng.uniform(*_FIRST_AT_S), rng.random(), rng.random())
