"""The protocol between a supervisor and its cluster's incarnation: one line of JSON each."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from retinue.cluster.local.running import Part
from retinue.cluster.settings import ClusterSettings

STOP = b"stop\n"


class Order(msgspec.Struct, frozen=True):
    """The parameters to begin with.

    ``left``: the runs to leave interrupted; None in the first life, which leaves all it finds.
    """

    left: tuple[str, ...] | None


class Up(msgspec.Struct, frozen=True, tag=True):
    """The cluster is up."""

    address: str
    settings: ClusterSettings
    parts: tuple[Part, ...]


class Left(msgspec.Struct, frozen=True, tag=True):
    """The interrupted runs that nobody has resumed yet."""

    ids: tuple[str, ...]


class Lost(msgspec.Struct, frozen=True, tag=True):
    """A part of the cluster has died, so the incarnation ends."""

    why: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The cluster could not be brought up; ``final``: True if another attempt is useless."""

    why: str
    final: bool


Said: TypeAlias = Up | Left | Lost | Failed
