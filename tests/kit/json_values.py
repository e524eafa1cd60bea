"""JSON values of any kind, and deep ones."""

from __future__ import annotations

from hypothesis import strategies as st

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


def nested(depth: int) -> object:
    """A list in a list, ``depth`` levels deep."""
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value
