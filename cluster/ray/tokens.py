"""The token with which Ray admits clients: its choice, its storage, and its handing to Ray."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from retinue.cluster.local.state import state_directory
from retinue.cluster.ray import joining, private


def use_own_token() -> None:
    """Has Ray ask for a token: the one given, else one kept with the state (0600)."""
    if "RAY_AUTH_MODE" in os.environ:
        private.read_token_again()
        return
    if _use_given_token():
        return
    file = _own_token_file()
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(secrets.token_hex(32))
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(file)
    _turn_tokens_on()


def use_token() -> None:
    """Chooses the token to join with: the environment's, our own cluster's, or that of Ray's file.

    A token that is given is used, even without RAY_AUTH_MODE.
    """
    if "RAY_AUTH_MODE" in os.environ:
        private.read_token_again()
        return
    if _use_given_token():
        return
    if _own_token_file().exists():
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(_own_token_file())
        _turn_tokens_on()
    elif _rays_token_file().exists():
        _turn_tokens_on()


def _use_given_token() -> bool:
    given = any(os.environ.get(name) for name in joining.TOKEN_VARIABLES)
    if given:
        _turn_tokens_on()
    return given


def _turn_tokens_on() -> None:
    os.environ["RAY_AUTH_MODE"] = "token"
    private.read_token_again()


def source() -> str:
    """The source of Ray's token, in Ray's order."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    return os.environ.get("RAY_AUTH_TOKEN_PATH") or str(_rays_token_file())


def _own_token_file() -> Path:
    return state_directory() / "ray_token"


def _rays_token_file() -> Path:
    return Path.home() / ".ray" / "auth_token"
