"""Obstacles between a client and a cluster: addresses, tokens, versions. Judged without Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from retinue.actors.domain.errors import ClusterUnavailable, InvalidValue
from retinue.cluster.local.running import running

ADDRESS = "RAY_ADDRESS"
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

_REACH_S = 5.0
_GIVE_TOKEN = (
    "set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with it, to the token that the cluster's "
    "head was started with"
)


def address_or_none(given: str | None) -> str | None:
    """The address given, else RAY_ADDRESS; None to start Ray here. Raises InvalidValue if wrong."""
    address = given or os.environ.get(ADDRESS) or None
    if address is None or address == "local":
        return None
    source = "address" if given else ADDRESS
    if "://" in address:
        raise InvalidValue(
            f"{source}: {address.partition('://')[0]}:// is for Ray Client or Ray's jobs, and "
            "Retinue's clients join the cluster itself: give HOST:6379 on one of its nodes, or "
            "submit the client as a job (`ray job submit`)",
            field=source,
        )
    if address != "auto" and not address.rpartition(":")[2].isdigit():
        raise InvalidValue(f"{source}: {address!r} is not HOST:PORT or auto", field=source)
    return address


def outlives_us() -> bool:
    """Returns whether commands join a cluster instead of starting their own."""
    return address_or_none(None) is not None or running() is not None


def require_reachable(address: str) -> None:
    """Raises ClusterUnavailable, in seconds and with the reason, if nothing listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise ClusterUnavailable(
            f"nothing listens at {address} ({reason}): is Ray's head running there, is this its "
            "port (6379 unless it was told otherwise), and may this machine reach it?"
        ) from error


def no_token(address: str) -> ClusterUnavailable:
    """The error for a cluster that asks for a token when there is none."""
    return ClusterUnavailable(
        f"the Ray cluster at {address} wants a token, and this client has none: {_GIVE_TOKEN}"
    )


def bad_token(reason: str) -> ClusterUnavailable:
    """The error for a token that can't be read."""
    return ClusterUnavailable(f"Ray's token can't be used: {reason}: {_GIVE_TOKEN}")


def wrong_token(address: str, source: str) -> ClusterUnavailable:
    """The error for a token from ``source`` that the cluster refuses."""
    return ClusterUnavailable(
        f"the Ray cluster at {address} refuses the token from {source}: {_GIVE_TOKEN}"
    )


def no_head(address: str) -> ClusterUnavailable:
    """The error for an address at which something other than a cluster's head listens."""
    return ClusterUnavailable(
        f"what listens at {address} does not answer as Ray's head: give the port of its control "
        "service (6379 unless it was told otherwise), not 10001 or the dashboard's 8265"
    )


def no_node_here(address: str) -> ClusterUnavailable:
    """The error for a machine without a node: Ray's clients share memory with one."""
    return ClusterUnavailable(
        f"this machine is no node of the Ray cluster at {address}, and clients run on one: submit "
        "the client as a job (`ray job submit`), run it on a node or in its pod, or make this "
        f"machine a node that takes no work (`ray start --address={address} --num-cpus=0`)"
    )


def require_same_versions(
    address: str, cluster: Mapping[str, str], ray: str, python: str, level: str
) -> None:
    """Raises ClusterUnavailable, naming both, if the cluster has another Ray or Python.

    ``cluster`` has ``ray_version`` and ``python_version``; ``level`` is the part of Python's
    version that is compared: ``patch`` (all of it) or ``minor``.
    """
    theirs = cluster.get("ray_version", ray)
    if theirs != ray:
        raise ClusterUnavailable(
            f"the cluster at {address} runs Ray {theirs}, and this client has Ray {ray}: "
            f"install ray=={theirs} here, or run the client in the cluster's image",
            cluster=theirs,
            client=ray,
        )
    theirs = cluster.get("python_version", python)
    compared = 2 if level == "minor" else 3
    if theirs.split(".")[:compared] != python.split(".")[:compared]:
        patch = theirs.split(".")[:2] == python.split(".")[:2]
        hint = "; for the last number alone, set RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL=minor"
        raise ClusterUnavailable(
            f"the cluster at {address} runs Python {theirs}, and this client Python {python}: run "
            f"the client with Python {theirs}, or in the cluster's image{hint if patch else ''}",
            cluster=theirs,
            client=python,
        )
