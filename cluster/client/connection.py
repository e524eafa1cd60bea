"""A client's place in a cluster: one that it joins, or one that it brings up for itself."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from msgspec import structs

from retinue.actors.domain.errors import InvalidValue, RetinueError
from retinue.cluster.local import running as up
from retinue.cluster.ray import bootstrap
from retinue.cluster.ray.joining import ADDRESS, address_or_none
from retinue.cluster.ray.tie import TIE
from retinue.cluster.settings import ClusterSettings, DiskWait


@dataclass
class Connection:
    """A connection opened and closed by the client, which can rejoin a local cluster it has lost.

    ``durable``: True if Redis must keep its data; None asks nothing of it (for tools that only
    look around).
    """

    address: str | None
    redis_url: str | None
    namespace: str
    durable: bool | None
    idle_s: float
    wait_for_disk: DiskWait | None = None
    _connected: bootstrap.Connected | None = field(default=None, init=False)
    _joined: up.Running | None = field(default=None, init=False)

    async def open(self) -> ClusterSettings:
        """Joins the cluster, or brings one up, after checking the Redis given."""
        redis_url = bootstrap.redis_url_or_none(self.redis_url)
        address = address_or_none(self.address)
        if (
            redis_url and address is None and self.durable is not None
        ):  # else the nodes must reach it, which we need not
            settings = ClusterSettings(redis_url, self.namespace, wait_for_disk=self.wait_for_disk)
            await bootstrap.check_redis(settings, self.durable)
        self._connected = connected = await self._connect(address, redis_url)
        if self.wait_for_disk and not redis_url:
            try:
                await bootstrap.check_redis(connected.settings)
            except RetinueError:
                connected.close()
                raise
        return connected.settings

    def close(self) -> None:
        """Leaves the cluster, and takes down everything brought up for this client."""
        if self._connected:
            self._connected.close()
        self._connected = None

    @property
    def comes_back(self) -> bool:
        """True while the local cluster is lost and being brought back."""
        return TIE.lost is not None and self._joined is not None and up.running() is not None

    async def rejoin(self, limit_s: float) -> bool:
        """Rejoins a lost local cluster once it is back, within ``limit_s`` seconds.

        Returns False if nothing is up any more; raises ClusterUnavailable with the reason if it
        is not back in time.
        """
        if self._joined is None or self._connected is None:
            return False
        await up.next_incarnation(self._joined.incarnation, limit_s)
        found = await up.joinable()
        if found is None:
            return False
        self._connected.close()
        await asyncio.to_thread(TIE.settle)
        self._connected = self._join(found)
        return True

    async def _connect(self, address: str | None, redis_url: str | None) -> bootstrap.Connected:
        if address is not None:
            if redis_url is None:
                source = "address=" if self.address else ADDRESS
                raise InvalidValue(
                    f"redis_url: give the cluster's Redis with {source} (or RETINUE_REDIS_URL)",
                    field="redis_url",
                )
            settings = ClusterSettings(
                redis_url,
                self.namespace,
                bootstrap.local_key_file(),
                idle_s=self.idle_s,
                wait_for_disk=self.wait_for_disk,
            )
            return bootstrap.join(address, settings, durable=self.durable)
        found = await up.joinable()
        if found and redis_url in (None, found.settings.redis_url):
            return self._join(found)
        return bootstrap.bring_up(redis_url, self.namespace, self.idle_s, self.wait_for_disk)

    def _join(self, found: up.Running) -> bootstrap.Connected:
        def look() -> str | None:
            return up.loss(found, up.standing(), up.alive)

        self._joined = found
        settings = structs.replace(found.settings, namespace=self.namespace)
        with TIE.joining(look):
            return bootstrap.join(found.address, settings, look=look)
