"""What an actor needs to know to join: plain data that travels to every node."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from platformdirs import user_state_path

from actors.domain.errors import InvalidValue
from actors.domain.keyring import Keyring
from cluster.redis.connection import Connection, DiskWait

DEFAULT_NAMESPACE = "troupe"
_MIB = 1024 * 1024

# What actors ask Ray for, so that an autoscaler sees what does not fit. Four hosts for a processor,
# as on one machine: 64 hosts are 16 processors and 16 GiB. A host takes 54 MB and its sessions some
# more, a store takes 54 MB and hardly any processor: 1,000 of them are one.
STORE_CPUS = 0.001


class ClusterSettings(msgspec.Struct, frozen=True):
    """Where Redis is, where the key is, and how the pool behaves. Times in seconds.

    ``redis_url`` is redis://, rediss:// (TLS), unix://, redis+sentinel://host:26379,host:26379/name
    or redis+cluster://host:7000,host:7001; `cluster.redis.deployment` has it in full.
    ``wait_for_disk`` has every commit wait until it is on disk, which takes Redis 7.2 or newer.
    ``host_cpus`` and ``*_memory`` (bytes) are what an actor asks Ray for; it may use more.
    """

    redis_url: str
    namespace: str = DEFAULT_NAMESPACE
    key_file: str | None = None
    max_hosts: int = 64
    warm_hosts: int = 2
    idle_s: float = 600.0
    wait_for_disk: DiskWait | None = None
    host_cpus: float = 0.25
    host_memory: int = 256 * _MIB
    store_memory: int = 64 * _MIB

    def connection(self) -> Connection:
        """A connection of one's own to the cluster's Redis."""
        return Connection(self.redis_url, self.namespace, wait_for_disk=self.wait_for_disk)

    def keyring(self) -> Keyring:
        """The cluster's key: from ``key_file``, else TROUPE_KEY_FILE, else TROUPE_KEY.

        From a file it is read again whenever something is met that a newer key has sealed.
        """
        file = self.key_file or os.environ.get("TROUPE_KEY_FILE")
        if file:
            path = Path(file)
            keyring = Keyring.parse(_read_private(path))
            keyring.reload = lambda: Keyring.parse(_read_private(path))
            return keyring
        text = os.environ.get("TROUPE_KEY")
        if not text:
            raise InvalidValue("no cluster key: set TROUPE_KEY_FILE or TROUPE_KEY on every node")
        return Keyring.parse(text)


def disk_wait(text: str | None) -> DiskWait | None:
    """What TROUPE_WAIT_FOR_DISK says: ``1``, or ``1,2`` for the disks of two replicas as well."""
    if text in (None, "", "0"):
        return None
    local, _, replicas = str(text).partition(",")
    try:
        return DiskWait(local=int(local), replicas=int(replicas or "0"))
    except ValueError:
        raise InvalidValue(
            "wait_for_disk: TROUPE_WAIT_FOR_DISK must be 0, 1, or as in 1,2 with the replicas",
            field="wait_for_disk",
        ) from None


def state_directory() -> Path:
    """Where a local cluster keeps its state: TROUPE_HOME, else the user's state directory."""
    home = os.environ.get("TROUPE_HOME")
    directory = Path(home) if home else user_state_path("troupe")
    directory = directory.expanduser().absolute()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidValue(f"TROUPE_HOME: {directory} can't be used: {error.strerror}") from error
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


def _read_private(file: Path) -> str:
    try:
        if file.stat().st_mode & 0o077:
            raise InvalidValue(f"{file} can be read by others: chmod 600 {file}")
        return file.read_text()
    except OSError as error:
        raise InvalidValue(f"the cluster key {file} can't be read: {error.strerror}") from error
