"""The meaning of Redis errors: the chance that waiting helps, and one line for a person."""

from __future__ import annotations

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from retinue.actors.domain.errors import StoreUnavailable

_SIGNS = {
    "CERTIFICATE_VERIFY_FAILED": (
        "shows a TLS certificate that is not trusted: name its CA in the URL with "
        "?ssl_ca_certs=/path/to/ca.pem, and the host as the certificate does"
    ),
    "WRONG_VERSION_NUMBER": "does not speak TLS: check the port, or write redis and not rediss",
    "alert certificate required": (
        "wants a client certificate: name it in the URL with ?ssl_certfile=…&ssl_keyfile=…"
    ),
    "alert unknown ca": "does not trust our client certificate: check ssl_certfile in the URL",
    "WRONGPASS": "refuses the password or user: check the URL's user and password",
    "NOAUTH": "wants a password: give it in the URL",
    "invalid username-password": "refuses the password or user: check the URL",
    "cluster support disabled": "is no Redis Cluster: write redis:// and not redis+cluster://",
    "OOM": "is full: raise maxmemory",
    "MISCONF": "can't write to its disk: is it full? (stop-writes-on-bgsave-error)",
    "READONLY": "is a read-only replica: give the primary's address",
    "NOPERM": "does not let this user run our commands: check its ACL",
    "can't run this command": "does not let this user run our commands: check its ACL",
    "ACL failure": "does not let this user run our commands: check its ACL",
    "No permissions": "does not let this user run our commands: check its ACL",
    "can't access": "does not let this user use our keys: check its ACL",
}
_FOR_GOOD = (
    "auth:AuthenticationError",
    "CERTIFICATE_VERIFY_FAILED",
    "WRONG_VERSION_NUMBER",
    "certificate required",
    "unknown ca",
    "cluster support disabled",
)
_FAIL_OVER = frozenset(
    {
        "READONLY",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "NOREPLICAS",
        "UNBLOCKED",
        "TRYAGAIN",
        "MOVED",
        "ASK",
    }
)


def is_outage(error: Exception, fails_over: bool = False) -> bool:
    """Returns whether waiting may help; ``fails_over`` if another server may become the primary."""
    cause = root(error)
    if isinstance(cause, AuthenticationError) or _shows(cause, _FOR_GOOD):
        return False
    if isinstance(cause, ResponseError):
        return fails_over and (_code(cause) in _FAIL_OVER or "-READONLY" in str(cause))
    return isinstance(cause, ConnectionError | TimeoutError | OSError)


def explain(error: Exception, url: str) -> StoreUnavailable:
    """The error for a person to act on, in one line."""
    error = root(error)
    text, where = " ".join(str(error).split()), shown(url)
    said = f"{_code(error)} {text}".lower()
    if _code(error) in ("MOVED", "CROSSSLOT"):
        meaning = "is a node of a Redis Cluster: write redis+cluster://host:port,host:port"
        return StoreUnavailable(f"Redis at {where} {meaning}", cause=text)
    if isinstance(error, MasterNotFoundError):
        text, _, details = text.partition(" : ")
        if "AuthenticationError" in details:
            meaning = "has Sentinels that want a password: ?sentinel_password=… in the URL"
        else:
            meaning = f"has no Sentinel that answers and knows a primary ({text})"
        return StoreUnavailable(f"Redis at {where} {meaning}", cause=text)
    for sign, meaning in _SIGNS.items():
        if sign.lower() in said:
            return StoreUnavailable(f"Redis at {where} {meaning}", cause=text)
    if isinstance(error, AuthenticationError):
        return StoreUnavailable(f"Redis at {where} refuses the password or user", cause=text)
    if isinstance(error, ResponseError):
        return StoreUnavailable(f"Redis at {where} refused a command: {text}", cause=text)
    return StoreUnavailable(
        f"Redis at {where} does not answer: start it, or check the address ({text})", cause=text
    )


def root(error: Exception) -> Exception:
    """The error inside the client library's: it reports a refused login as a lost connection."""
    inner = error.args[0] if error.args else None
    return inner if isinstance(inner, RedisError) else error


def shown(url: str) -> str:
    """The URL without user, password and options, so without any secret."""
    scheme, separator, rest = url.partition("://")
    place = (rest if separator else url).rpartition("@")[2].partition("?")[0]
    return f"{scheme}{separator}{place}" if separator else place


def _shows(error: Exception, signs: tuple[str, ...]) -> bool:
    said = str(error).lower()
    return any(sign.lower() in said for sign in signs)


def _code(error: Exception) -> str:
    """The first word of the server's error."""
    code = getattr(error, "status_code", None)
    return code or str(error).partition(" ")[0]
