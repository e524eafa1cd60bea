"""The state directory of this machine, and the cluster's key."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_state_path

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.keyring import Keyring
from retinue.cluster.settings import ClusterSettings


def state_directory() -> Path:
    """The state directory of a local cluster: RETINUE_HOME, else the user's state directory."""
    home = os.environ.get("RETINUE_HOME")
    directory = Path(home) if home else user_state_path("retinue")
    directory = directory.expanduser().absolute()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidValue(f"RETINUE_HOME: {directory} can't be used: {error.strerror}") from error
    return directory


def ensure_key(directory: Path) -> Path:
    """The key file of a state directory, made on first use, readable by its owner only."""
    file = directory / "key"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return file
    with os.fdopen(descriptor, "w") as out:
        out.write(os.urandom(32).hex() + "\n")
    return file


def cluster_key(settings: ClusterSettings) -> Keyring:
    """The cluster's key: from ``key_file``, else RETINUE_KEY_FILE, else RETINUE_KEY.

    A file is read again whenever something sealed by a newer key is met.
    """
    file = settings.key_file or os.environ.get("RETINUE_KEY_FILE")
    if file:
        path = Path(file)
        found = Keyring.parse(_read_private(path))
        found.reload = lambda: Keyring.parse(_read_private(path))
        return found
    text = os.environ.get("RETINUE_KEY")
    if not text:
        raise InvalidValue("no cluster key: set RETINUE_KEY_FILE or RETINUE_KEY on every node")
    return Keyring.parse(text)


def _read_private(file: Path) -> str:
    try:
        if file.stat().st_mode & 0o077:
            raise InvalidValue(f"{file} can be read by others: chmod 600 {file}")
        return file.read_text()
    except OSError as error:
        raise InvalidValue(f"the cluster key {file} can't be read: {error.strerror}") from error
