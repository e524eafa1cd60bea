"""The settings an actor needs to join: plain data that travels to every node."""

from __future__ import annotations

import msgspec

from retinue.actors.domain.errors import InvalidValue

DEFAULT_NAMESPACE = "retinue"
_MIB = 1024 * 1024

# What actors ask Ray for, so that an autoscaler sees what does not fit. Four hosts for a processor,
# as on one machine: 64 hosts are 16 processors and 16 GiB. A host takes 54 MB and its sessions some
# more, a store takes 54 MB and hardly any processor: 1,000 of them are one.
STORE_CPUS = 0.001


class DiskWait(msgspec.Struct, frozen=True):
    """The number of disks a row must reach before it counts: ``WAITAOF`` of Redis 7.2 or newer.

    ``local`` is 1 for the primary's own disk, ``replicas`` the number of others. With
    ``appendfsync everysec`` each wait takes up to a second, so set it to ``always``.
    """

    local: int = 1
    replicas: int = 0
    timeout_s: float = 5.0


class ClusterSettings(msgspec.Struct, frozen=True):
    """The location of Redis and of the key, and the pool's behaviour. Times in seconds.

    ``redis_url`` is redis://, rediss:// (TLS), unix://, redis+sentinel://host:26379,host:26379/name
    or redis+cluster://host:7000,host:7001; `retinue.cluster.redis.deployment` has it in full.
    ``wait_for_disk`` has every commit wait until it is on disk, which takes Redis 7.2 or newer.
    ``host_cpus`` and ``*_memory`` (bytes): the resources an actor asks Ray for; it may use more.
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


def disk_wait(text: str | None) -> DiskWait | None:
    """Parses RETINUE_WAIT_FOR_DISK: ``1``, or ``1,2`` for the disks of two replicas as well."""
    if text in (None, "", "0"):
        return None
    local, _, replicas = str(text).partition(",")
    try:
        return DiskWait(local=int(local), replicas=int(replicas or "0"))
    except ValueError:
        raise InvalidValue(
            "wait_for_disk: RETINUE_WAIT_FOR_DISK must be 0, 1, or as in 1,2 with the replicas",
            field="wait_for_disk",
        ) from None
