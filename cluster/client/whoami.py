"""The name of the person or program behind a client, for the audit log."""

from __future__ import annotations

import getpass
import os
import platform


def actor_name(given: str | None = None) -> str:
    """The name given, else the login name with the machine's, as in ``ann@laptop``."""
    if given and given.strip():
        return given.strip()
    try:
        login = getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user need not have a name
        login = f"user {os.getuid()}"
    return f"{login}@{platform.node() or 'unknown'}"
