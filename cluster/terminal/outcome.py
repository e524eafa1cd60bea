"""The end of a command: its exit code, an error in one line, and JSON."""

from __future__ import annotations

import json
import os
import traceback

from retinue.actors.domain.errors import CallError, RetinueError
from retinue.actors.domain.values.json_value import JsonValue
from retinue.cluster.terminal.render import say

OK = 0
FAILED = 1
WRONG_CALL = 2
UNAVAILABLE = 3
INTERRUPTED = 130


def print_json(document: JsonValue) -> None:
    """Prints a command's one JSON document."""
    print(json.dumps(document, indent=2, ensure_ascii=False), flush=True)


def report(error: Exception, as_json: bool) -> int:
    """Reports an error in one line, with ``as_json`` also as a document; returns the exit code."""
    kind, message, code = type(error).__name__, str(error), UNAVAILABLE
    if isinstance(error, CallError):
        code = WRONG_CALL
    elif not isinstance(error, RetinueError):
        message = f"{kind}: {message}; this should not happen (RETINUE_DEBUG=1 shows where)"
    line = " ".join(message.split())
    say(f"retinue: {line}")
    if os.environ.get("RETINUE_DEBUG"):
        traceback.print_exception(error)
    if as_json:
        details = error.details if isinstance(error, RetinueError) else {}
        print_json({"error": {"kind": kind, "message": line, "details": dict(details)}})
    return code
