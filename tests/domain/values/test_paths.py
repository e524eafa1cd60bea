"""Paths as text: one look at many of them says what a look at each of them says."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from retinue.actors.domain.values.paths import covered_by_none, covers, is_under, is_under_any

SEGMENTS = st.sampled_from(("a", "b", "ab", "a b", "é"))
PATHS = st.lists(SEGMENTS, max_size=4).map(lambda names: "/" + "/".join(names))
GLOBS = st.tuples(PATHS, st.sampled_from(("", "/**", "/*", "/*/b", "/**/b", "*"))).map("".join)


@given(path=PATHS, roots=st.lists(PATHS, max_size=4).map(tuple))
def test_a_path_is_under_any_root_that_it_is_under(path: str, roots: tuple[str, ...]) -> None:
    assert is_under_any(path, roots) == any(is_under(path, root) for root in roots)


@given(path=PATHS, globs=st.lists(GLOBS, max_size=4).map(tuple))
def test_what_is_covered_is_never_taken_for_covered_by_none(
    path: str, globs: tuple[str, ...]
) -> None:
    if covered_by_none(globs, path):
        assert not any(covers(glob, path) for glob in globs)


@given(path=PATHS, roots=st.lists(PATHS, max_size=4))
def test_for_plain_directories_one_look_is_enough(path: str, roots: list[str]) -> None:
    globs = tuple(f"{root.rstrip('/')}/**" for root in roots)
    assert covered_by_none(globs, path) == (not any(covers(glob, path) for glob in globs))
