"""The command ``retinue``: its commands and their options. The other files here do the work.

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 the run
failed, 2 the call is wrong, 3 the system can't now, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer
from typer.exceptions import Abort, TyperException

import retinue
from retinue.actors.domain.errors import ClusterUnavailable, InvalidValue
from retinue.actors.domain.permissions.approvals.request import ApprovalScope
from retinue.actors.domain.session.settings import Isolation
from retinue.cluster.cli import audit as audit_commands
from retinue.cluster.cli import brake as brake_commands
from retinue.cluster.cli import inspect as inspect_commands
from retinue.cluster.cli import local as local_commands
from retinue.cluster.cli import node as node_commands
from retinue.cluster.cli import run as run_commands
from retinue.cluster.cli import session as session_commands
from retinue.cluster.cli.common import run_until_done
from retinue.cluster.ray.tie import TIE
from retinue.cluster.terminal.outcome import INTERRUPTED, OK, WRONG_CALL, print_json, report
from retinue.cluster.terminal.render import Folding, say

_SIBLINGS = 20

app: typer.Typer = typer.Typer(
    name="retinue",
    help="Trees of agents that share budgets and permissions, and survive crashes.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Approve: TypeAlias = Literal["ask", "all", "none"]
Verdict: TypeAlias = Literal["approve", "deny"]

AgentName = Annotated[str, typer.Argument(metavar="FILE:AGENT", help="An async function in a file")]
SessionId = Annotated[
    str, typer.Argument(metavar="ID", help="A session, or 6 characters of its id or more")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output")]
By = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Who does it, for the audit log (default: login@machine)"),
]
Answers = Annotated[Approve, typer.Option(help="Who answers when an agent asks for approval")]


def _version(asked: bool) -> None:
    if asked:
        print(f"retinue {retinue.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Say which version", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """Take what comes before a command."""


@app.command()
def up(as_json: AsJson = False) -> int:
    """Start a cluster on this machine that the other commands join."""
    return local_commands.up(as_json)


@app.command()
def down(as_json: AsJson = False) -> int:
    """Stop the cluster that `up` has started; sessions stay, and can be resumed."""
    return local_commands.down(as_json)


@app.command()
def run(
    agent: AgentName,
    prompt: Annotated[str, typer.Option(help="What the agent is told")] = "",
    workspace: Annotated[
        Path | None, typer.Option(help="The directory it works in (default: this one)")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="USD", help="Most that the session may spend (100)")
    ] = None,
    per_action: Annotated[
        str | None, typer.Option(metavar="USD", help="Most that one action may cost (10)")
    ] = None,
    isolation: Annotated[
        Isolation | None, typer.Option(help="A process of its own (default), or a shared one")
    ] = None,
    approve: Answers = "ask",
    run_id: Annotated[
        str | None, typer.Option(metavar="UUID", help="The same id twice is one run")
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="Run in this session instead of a new one")
    ] = None,
    by: By = None,
    as_json: AsJson = False,
) -> int:
    """Run an agent and wait for its result."""
    options = run_commands.RunOptions(
        agent=agent,
        prompt=prompt,
        workspace=workspace,
        budget=budget,
        per_action=per_action,
        isolation=isolation,
        approve=approve,
        run_id=run_id,
        session=session,
        by=by,
    )
    return run_until_done(lambda: run_commands.run(options, as_json))


@app.command()
def ps(
    workspace: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Only those of this directory")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Only those of this user")] = None,
    state: Annotated[inspect_commands.State | None, typer.Option(help="Only those so")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Made since then: 90s, 30min, 2h, 7d, a date")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Made before then")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many sessions, the newest first")] = 20,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on where another page has ended")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """List sessions."""
    options = inspect_commands.PsOptions(workspace, user, state, since, until, limit, after)
    return run_until_done(lambda: inspect_commands.ps(options, as_json))


@app.command()
def tree(
    session: SessionId,
    depth: Annotated[int | None, typer.Option(min=0, help="Levels below the session")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Fold no long lists")] = False,
    as_json: AsJson = False,
) -> int:
    """Show a session and its sub-agents, with the cost of each and of each branch."""
    folding = Folding(depth, None if everything else _SIBLINGS)
    return run_until_done(lambda: inspect_commands.tree(session, folding, as_json))


@app.command()
def show(
    session: SessionId,
    messages: Annotated[int, typer.Option(min=0, help="How many of the last messages")] = 10,
    as_json: AsJson = False,
) -> int:
    """Show all about one session."""
    return run_until_done(lambda: inspect_commands.show(session, messages, as_json))


@app.command()
def budget(
    session: Annotated[str | None, typer.Argument(metavar="ID", help="A session")] = None,
    workspace: Annotated[Path | None, typer.Option(help="A workspace's directory")] = None,
    cap: Annotated[
        str | None, typer.Option("--set", metavar="USD", help="The new cap (workspace: or `none`)")
    ] = None,
    by: By = None,
    as_json: AsJson = False,
) -> int:
    """Show what was spent and may be, or change a cap."""
    return run_until_done(lambda: inspect_commands.budget(session, workspace, cap, by, as_json))


@app.command()
def hold(
    why: Annotated[str, typer.Option(help="What others are told")],
    workspace: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The workspace (default: this directory)")
    ] = None,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Cancel what is at work, too, for good")
    ] = False,
    by: By = None,
    as_json: AsJson = False,
) -> int:
    """Brake: let nothing begin in a workspace; what is at work stands still at its next step."""
    return run_until_done(lambda: brake_commands.hold(workspace, why, cancel, by, as_json))


@app.command()
def release(
    workspace: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The workspace (default: this directory)")
    ] = None,
    by: By = None,
    as_json: AsJson = False,
) -> int:
    """Let a workspace that is on hold go on."""
    return run_until_done(lambda: brake_commands.release(workspace, by, as_json))


@app.command()
def approvals(
    request: Annotated[str | None, typer.Argument(metavar="ID", help="A request")] = None,
    verdict: Annotated[Verdict | None, typer.Argument(metavar="approve|deny")] = None,
    scope: Annotated[
        ApprovalScope | None, typer.Option(help="How far it reaches (default: once)")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why it is denied")] = None,
    by: By = None,
    as_json: AsJson = False,
) -> int:
    """List what waits for a decision, or decide it."""
    if request is None:
        return run_until_done(lambda: inspect_commands.list_approvals(as_json))
    if verdict is None:
        raise InvalidValue(f"approvals: approve or deny {request}?")
    if verdict == "approve" and reason is None:
        chosen = scope or "once"
        return run_until_done(lambda: inspect_commands.approve(request, chosen, by, as_json))
    if verdict == "deny" and scope is None:
        return run_until_done(lambda: inspect_commands.deny(request, reason or "", by, as_json))
    raise InvalidValue("approvals: --scope goes with approve, --reason with deny")


@app.command()
def resume(
    session: Annotated[str | None, typer.Argument(metavar="ID", help="A session")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that were interrupted")] = False,
    approve: Answers = "ask",
    by: By = None,
    as_json: AsJson = False,
) -> int:
    """Go on with runs that were interrupted or are queued, and wait for their results."""
    return run_until_done(lambda: run_commands.resume(session, everything, approve, by, as_json))


@app.command()
def cancel(session: SessionId, by: By = None, as_json: AsJson = False) -> int:
    """Stop a session and all below it, for good."""
    return run_until_done(lambda: session_commands.cancel(session, by, as_json))


@app.command()
def end(session: SessionId, by: By = None, as_json: AsJson = False) -> int:
    """Close a session and all below it: it takes no more runs."""
    return run_until_done(lambda: session_commands.end(session, by, as_json))


@app.command()
def export(
    session: SessionId,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE")] = None,
    as_json: AsJson = False,
) -> int:
    """Write a session as a document."""
    return run_until_done(lambda: session_commands.export(session, output, as_json))


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A session document; - for input")],
    skip_bad_messages: Annotated[
        bool, typer.Option("--skip-bad-messages", help="Leave out messages that are wrong")
    ] = False,
    agent: Annotated[
        str | None, typer.Option(metavar="FILE:AGENT", help="The agent that it is to run")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Take in a session document."""
    return run_until_done(lambda: session_commands.import_(file, skip_bad_messages, agent, as_json))


audit: typer.Typer = typer.Typer(help="Read a workspace's audit log, and verify its hash chains.")
app.add_typer(audit, name="audit", no_args_is_help=True)
AuditOf = Annotated[
    Path | None, typer.Option("--workspace", help="The workspace's directory (default: this one)")
]


@audit.command("show")
def audit_show(
    workspace: AuditOf = None,
    last: Annotated[int, typer.Option(min=0, help="How many of the newest entries")] = 50,
    as_json: AsJson = False,
) -> int:
    """Show who was allowed what, on what ground, and who decided."""
    return run_until_done(lambda: audit_commands.show(workspace, last, as_json))


@audit.command("verify")
def audit_verify(workspace: AuditOf = None, as_json: AsJson = False) -> int:
    """Name the first entry that was changed, removed or moved; exit code 1 if there is one."""
    return run_until_done(lambda: audit_commands.verify(workspace, as_json))


@audit.command("export")
def audit_export(
    workspace: AuditOf = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE")] = None,
) -> int:
    """Write the log as a JSON document, signed by the cluster's issuer key."""
    return run_until_done(lambda: audit_commands.export(workspace, output))


@app.command()
def drain(
    node: Annotated[
        str, typer.Argument(metavar="NODE", help="A node's id, its beginning, its name or address")
    ],
    as_json: AsJson = False,
) -> int:
    """Move what a node of the cluster holds to the others, so that it can be taken away."""
    return run_until_done(lambda: node_commands.drain(node, as_json))


@app.command()
def doctor(
    of_cluster: Annotated[
        bool, typer.Option("--cluster", help="Every node of RAY_ADDRESS's cluster, or of `up`'s")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Say what is there, what is missing, and what to do about it."""
    if of_cluster:
        return run_until_done(lambda: local_commands.examine_cluster(as_json))
    return local_commands.examine(as_json)


def invoke(arguments: Sequence[str]) -> int:
    """Run one command; its exit code."""
    as_json = "--json" in arguments
    try:
        code = app(list(arguments), prog_name="retinue", standalone_mode=False)
    except TyperException as error:
        return _usage(error, as_json)
    except (Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        return report(error, as_json)
    return code if isinstance(code, int) else OK


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    TIE.on_stuck = _end_stuck
    code = invoke(sys.argv[1:])
    if TIE.lost is None:
        sys.exit(code)
    _leave(code)  # Ray would take its time to tell a cluster that is gone


def _end_stuck(why: str) -> None:
    _leave(report(ClusterUnavailable(why), "--json" in sys.argv))


def _leave(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _usage(error: TyperException, as_json: bool) -> int:
    message = " ".join(error.format_message().split())
    if not message:  # nothing was asked for, and the help has been shown
        return OK
    say(f"retinue: {message} (see `retinue --help`)")
    if as_json:
        print_json({"error": {"kind": "UsageError", "message": message, "details": {}}})
    return WRONG_CALL


if __name__ == "__main__":
    main()
