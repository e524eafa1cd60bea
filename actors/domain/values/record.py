"""The form of stored data: a struct whose fields are written in order, without their names.

So a field is never moved, removed or given another meaning. A new one goes to the end, has a
default, which older bytes then have, and takes a new version: an older node would read past it,
and lose it with the next snapshot.
"""

from __future__ import annotations

from msgspec import Struct


class Record(Struct, frozen=True, array_like=True):
    """The base of the values and events that journals hold; states are mutable and of their own."""
