"""What is stored: a struct whose fields are written in their order, without their names.

So a field is never moved, removed or given another meaning. A new one goes to the end, has a
default, which is what older bytes give, and takes a new version: an older node would read past
it, and forget it with the next snapshot.
"""

from __future__ import annotations

from msgspec import Struct


class Record(Struct, frozen=True, array_like=True):
    """The base of the values and events that journals hold; states are mutable and of their own."""
