"""Asks a cluster's head, within seconds, to admit this client: Ray tries for half a minute."""

from __future__ import annotations

import os
import sys
import threading
import time

import ray
from ray.exceptions import AuthenticationError, RayError

from retinue.actors.domain.errors import ClusterUnavailable
from retinue.cluster.ray import joining, private, tokens

_ANSWERS_S = 10
_NODE_STARTS_S = 3.0


def require_joinable(address: str) -> str:
    """The head's HOST:PORT, once it admits us; raises ClusterUnavailable, sooner than Ray would."""
    try:
        address = private.head_address(address)
    except (ConnectionError, ValueError, OSError) as error:
        raise unavailable(address, error) from error
    try:
        has_token = private.has_token()
    except AuthenticationError as error:
        raise joining.bad_token(error.message) from error
    with_token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if with_token and not has_token:  # Ray would end this process
        raise joining.no_token(address)
    joining.require_reachable(address)
    try:
        found = _ask_head(address)
    except AuthenticationError as error:
        if with_token:
            raise joining.wrong_token(address, tokens.source()) from error
        raise joining.no_token(address) from error
    except RayError as error:
        raise joining.no_head(address) from error
    level = os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "patch")
    python = ".".join(map(str, sys.version_info[:3]))
    joining.require_same_versions(address, found.versions, ray.__version__, python, level)
    deadline = time.monotonic() + _NODE_STARTS_S
    while found.nodes.isdisjoint(private.nodes_here()):
        if time.monotonic() > deadline:
            raise joining.no_node_here(address)
        time.sleep(0.5)
        found = _ask_head(address)
    return address


def _ask_head(address: str) -> private.Head:
    """The head's answer; raises RayError if there is none, or not that of a head."""
    answers: list[private.Head | RayError] = []

    def ask() -> None:
        try:
            answers.append(private.ask_head(address, _ANSWERS_S))
        except RayError as error:
            answers.append(error)

    asking = threading.Thread(target=ask, daemon=True)  # Ray's own patience is 40 s
    asking.start()
    asking.join(_ANSWERS_S)
    answer = answers[0] if answers else RayError("no answer")
    if isinstance(answer, RayError):
        raise answer
    return answer


def unavailable(address: str | None, error: Exception) -> ClusterUnavailable:
    """The error, in one line, for a Ray that can't be joined at ``address`` or (None) started."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if address is None:
        return ClusterUnavailable(f"Ray does not start on this machine: {text}")
    return ClusterUnavailable(f"no Ray cluster can be joined at {address}: {text}")
