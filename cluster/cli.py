"""The command ``troupe``: one function for each of its commands.

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 the run
failed, 2 the call is wrong, 3 the system can't now, 130 interrupted.
"""

from __future__ import annotations

from enum import StrEnum

import typer

app = typer.Typer(
    name="troupe",
    help="Trees of agents that share budgets and permissions, and survive crashes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Isolation(StrEnum):
    PROCESS = "process"
    SHARED = "shared"


class Approve(StrEnum):
    ASK = "ask"
    ALL = "all"
    NONE = "none"


class Verb(StrEnum):
    APPROVE = "approve"
    DENY = "deny"


class Scope(StrEnum):
    ONCE = "once"
    SESSION = "session"
    WORKSPACE = "workspace"
    ALWAYS = "always"
