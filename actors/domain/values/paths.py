"""Absolute paths as text: collapsing and containment. Resolving links is up to the caller."""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Iterator

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.globs import matches

MAX_LENGTH = 4096

_MAGIC = re.compile(r"[*?\[]")


def collapsed(path: object, field: str = "path") -> str:
    """An absolute path with ``.``, ``..``, doubled and trailing slashes removed.

    Raises InvalidValue, naming ``field``, for a value that is not text or not absolute, holds a NUL
    or is over 4096 characters long.
    """
    if not isinstance(path, str) or not path.startswith("/"):
        raise InvalidValue(f"{field}: {path!r} is not an absolute path", field=field)
    if "\0" in path:
        raise InvalidValue(f"{field}: {path!r} holds a NUL", field=field)
    if len(path) > MAX_LENGTH:
        raise InvalidValue(f"{field}: a path of over {MAX_LENGTH} characters", field=field)
    # normpath keeps two leading slashes, which name the same file as one
    return "/" + posixpath.normpath(path).lstrip("/")


def is_under(path: str, root: str) -> bool:
    """True if ``path`` is ``root`` or inside it; both collapsed. A shared prefix is not enough."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def is_under_any(path: str, roots: tuple[str, ...]) -> bool:
    """Returns whether `is_under` is true for any of ``roots``, by a single comparison with all."""
    return (path + "/").startswith(_below(roots))


@functools.lru_cache(maxsize=1024)
def _below(roots: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(root.rstrip("/") + "/" for root in roots)


def covered_by_none(globs: tuple[str, ...], path: str) -> bool:
    """Returns whether a single comparison shows that `covers` is false for all of ``globs``."""
    roots = _roots(globs)
    return roots is not None and not is_under_any(path, roots)


@functools.lru_cache(maxsize=1024)
def _roots(globs: tuple[str, ...]) -> tuple[str, ...] | None:
    """The globs as plain paths; None if some of them have wildcards."""
    bases = [_base(glob) for glob in globs]
    return tuple(base for base, _ in bases) if all(is_plain for _, is_plain in bases) else None


def covers(glob: str, path: str) -> bool:
    """True if the glob matches ``path`` or a directory above it; ``/a/**`` covers ``/a`` too."""
    base, is_plain = _base(glob)
    if is_plain:
        return is_under(path, base)
    return any(matches(glob, place) or matches(base, place) for place in _upwards(path))


@functools.lru_cache(maxsize=4096)
def _base(glob: str) -> tuple[str, bool]:
    """A glob without a final ``/**``, and whether the rest is a plain path."""
    base = glob.removesuffix("/**")
    return base, not _MAGIC.search(base)


def may_hold(path: str, glob: str) -> bool:
    """True if something below ``path`` might match the glob, judging by the start of the glob."""
    base = glob.removesuffix("/**")
    magic = _MAGIC.search(base)
    start = base[: magic.start()].rpartition("/")[0] if magic else base
    return is_under(start or "/", path)


def _upwards(path: str) -> Iterator[str]:
    while path != "/":
        yield path
        path = path.rpartition("/")[0] or "/"
    yield path
