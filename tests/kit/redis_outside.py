"""Redis as others deploy it: behind TLS, watched by Sentinels, and as a Cluster of its own."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self, cast

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from retinue.cluster.redis.server import find_binary
from tests.kit.redis_server import Line, RedisServer

_LIMIT_S = 20.0
_SLOTS = 16384
_HIGHEST_PORT = 55000  # a Cluster's nodes talk to one another at their port + 10000


def free_port() -> int:
    """A port that nobody listens at, with the one 10000 above it free too."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            with contextlib.suppress(OSError):
                if port < _HIGHEST_PORT:
                    other.bind(("127.0.0.1", port + 10000))
                    return port


def wait_for(condition: Callable[[], object]) -> None:
    """Return when ``condition()`` is true; errors of Redis count as not yet."""
    deadline = time.monotonic() + _LIMIT_S
    while True:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Node(RedisServer):
    """A server at a port of 127.0.0.1, with a directory of its own."""

    def __init__(self, directory: Path, **settings: str) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.port = free_port()
        super().__init__(directory, port=str(self.port), bind="127.0.0.1", **settings)

    @contextlib.contextmanager
    def client(self) -> Iterator[redis.Redis]:
        """A plain client, for what tests do behind our back."""
        with redis.Redis(port=self.port, socket_timeout=10) as client:
            yield client

    def take_over(self) -> None:
        """As a replica in a Cluster, become the primary in agreement with the one before."""
        with self.client() as client:
            _tell(client, "CLUSTER FAILOVER")

    def roll_back_to(self, copy: Path) -> None:
        """End it, and start it again from the copy of its directory that `save_to` has made."""
        self.kill()
        shutil.rmtree(self.directory)
        shutil.copytree(copy, self.directory, ignore=shutil.ignore_patterns("r.sock"))
        self.start()

    def save_to(self, copy: Path) -> None:
        """Copy what is on disk, as a backup does."""
        shutil.copytree(self.directory, copy, ignore=shutil.ignore_patterns("r.sock"))


class Sentinel:
    """One Sentinel, which is a quorum by itself, for ``primary`` by the name of ``prime``."""

    def __init__(self, directory: Path, primary: Node, password: str = "") -> None:
        directory.mkdir()
        self.port = free_port()
        self._conf = directory / "sentinel.conf"
        self._conf.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor prime 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds prime 300\n"
            "sentinel failover-timeout prime 2000\n"
            + (f"requirepass {password}\n" if password else "")
        )
        self._password = password or None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [find_binary(), str(self._conf), "--sentinel"], stdout=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process
        self._process.kill()
        self._process.wait()

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/prime"

    def answers(self) -> bool:
        """Whether it is there by now."""
        with redis.Redis(port=self.port, password=self._password, socket_timeout=5) as client:
            return bool(client.ping())

    def name_instead(self, primary: Node) -> None:
        """Have it name another primary from now on."""
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            client.sentinel_remove("prime")
            client.sentinel_monitor("prime", "127.0.0.1", primary.port, 1)

    def knows_a_replica(self) -> bool:
        """Whether it could fail over now."""
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            replicas = client.sentinel_slaves("prime")
            return bool(replicas) and all(
                one["flags"] == "slave"
                and one["info-refresh"]
                and one["master-link-status"] == "ok"
                for one in replicas
            )


@contextlib.contextmanager
def watched(directory: Path) -> Iterator[tuple[Node, Node, Sentinel]]:
    """A primary, a replica of it, and a Sentinel that knows them."""
    at_once = {"repl_diskless_sync_delay": "0"}
    with (
        Node(directory / "1", **at_once) as primary,
        Node(directory / "2", **at_once) as replica,
        Sentinel(directory / "s", primary) as sentinel,
    ):
        with replica.client() as client:
            client.replicaof("127.0.0.1", primary.port)
        wait_for(sentinel.knows_a_replica)
        yield primary, replica, sentinel


@contextlib.contextmanager
def redis_cluster(directory: Path, replicas: int = 0) -> Iterator[list[Node]]:
    """Three nodes that share the slots, then ``replicas`` replicas of the first."""
    with contextlib.ExitStack() as stack:
        nodes = [
            stack.enter_context(
                Node(
                    directory / f"{at}",
                    cluster_enabled="yes",
                    cluster_node_timeout="2000",
                    repl_diskless_sync_delay="0",
                )
            )
            for at in range(3 + replicas)
        ]
        _share_slots(nodes[:3])
        for node in nodes[1:]:
            with node.client() as client:
                _tell(client, "CLUSTER MEET", "127.0.0.1", nodes[0].port)
        wait_for(lambda: all(_is_whole(node, len(nodes)) for node in nodes))
        for node in nodes[3:]:
            _follow(nodes[0], node)
        wait_for(lambda: all(_replicas_seen(node) == replicas for node in nodes))
        yield nodes


def _share_slots(nodes: list[Node]) -> None:
    bounds = [_SLOTS * at // len(nodes) for at in range(len(nodes) + 1)]
    for at, node in enumerate(nodes):
        with node.client() as client:
            _tell(client, "CLUSTER SET-CONFIG-EPOCH", at + 1)
            _tell(client, "CLUSTER ADDSLOTS", *range(bounds[at], bounds[at + 1]))


def _is_whole(node: Node, size: int) -> bool:
    with node.client() as client:
        state = cast("dict[str, str]", _tell(client, "CLUSTER INFO"))
        return state["cluster_state"] == "ok" and state["cluster_known_nodes"] == f"{size}"


def _replicas_seen(node: Node) -> int:
    with node.client() as client:
        nodes = cast("dict[str, dict[str, object]]", _tell(client, "CLUSTER NODES"))
        return sum("slave" in str(one["flags"]) for one in nodes.values())


def _tell(client: redis.Redis, *words: str | int | bytes) -> object:
    return client.execute_command(*words)  # type: ignore[no-untyped-call]


def _follow(primary: Node, replica: Node) -> None:
    with primary.client() as one, replica.client() as other:
        _tell(other, "CLUSTER REPLICATE", cast(bytes, _tell(one, "CLUSTER MYID")))
        wait_for(lambda: other.info("replication").get("master_link_status") == "up")


class Certificates:
    """A certificate authority, and what it has signed for 127.0.0.1, as files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named("the authority of a test")
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(_pem(self._signed(self._name, self._key, is_ca=True)))
        self.server, self.server_key = self._pair("server")
        self.client, self.client_key = self._pair("client")

    def context(self, wants_client: bool = False) -> ssl.SSLContext:
        """For the server's end; ``wants_client`` has clients show a certificate too."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server, self.server_key)
        context.load_verify_locations(self.ca)
        context.verify_mode = ssl.CERT_REQUIRED if wants_client else ssl.CERT_NONE
        return context

    def _pair(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, key_file = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        certificate.write_bytes(_pem(self._signed(_named(name), key, is_ca=False)))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, key_file

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, is_ca: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        host = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([host]), critical=False)
            .add_extension(authority, critical=False)
            .sign(self._key, hashes.SHA256())
        )


class DiskFront(Line):
    """Answers WAITAOF in front of a server that has none: the local disk has it, and no other."""

    async def _requests(
        self, client: asyncio.StreamReader, server: asyncio.StreamWriter, broken: asyncio.Event
    ) -> None:
        while request := await client.read(1 << 20):
            before, wait, after = request.partition(b"*4\r\n$7\r\nWAITAOF\r\n")
            assert not after or after.endswith(b"\r\n")
            if wait:
                self.cuts += 1
                broken.set()
            server.write(before)

    async def _answers(
        self, server: asyncio.StreamReader, client: asyncio.StreamWriter, broken: asyncio.Event
    ) -> None:
        while answer := await server.read(1 << 20):
            client.write(answer)
            if broken.is_set() and answer.endswith(b"+OK\r\n"):
                broken.clear()
                client.write(b"*2\r\n:1\r\n:0\r\n")


class TlsFront:
    """Ends TLS in front of a server: what we start need not have been built with it."""

    def __init__(self, server: RedisServer, context: ssl.SSLContext) -> None:
        self._target = server.socket
        self._context = context
        self._pumps: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = free_port()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._carry, "127.0.0.1", self.port, ssl=self._context
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        if self._pumps:
            await asyncio.wait(self._pumps)

    async def _carry(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_unix_connection(self._target)
        for source, target in ((client, to_server), (server, to_client)):
            task = asyncio.create_task(_pump(source, target))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                target.write(data)
    finally:
        target.close()


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
