"""The versions installed here, with which shipped agents are marked."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import metadata

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The version that decides whether code pickled elsewhere means the same here."""


@lru_cache
def installed(distribution: str) -> str:
    """The version of an installed distribution, "" if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
