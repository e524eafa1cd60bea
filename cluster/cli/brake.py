"""The commands that brake: `hold`, `release`."""

from __future__ import annotations

from pathlib import Path

from retinue.actors.domain.budget.state import Hold
from retinue.actors.domain.errors import InvalidValue
from retinue.cluster.cli.audit import find_workspace
from retinue.cluster.cli.common import connected
from retinue.cluster.terminal.outcome import OK, print_json
from retinue.cluster.terminal.overview import hold_json, hold_text
from retinue.cluster.terminal.render import say


async def hold(
    directory: Path | None, why: str, cancel: bool, by: str | None, as_json: bool
) -> int:
    """Let nothing begin in a workspace, and with ``cancel`` end all work under way there."""
    path = directory or Path.cwd()
    if not path.is_dir():
        raise InvalidValue(f"--workspace: {path} is not a directory")
    async with connected(actor=by) as retinue:
        workspace = await retinue.workspace(path)
        cancelled = await workspace.hold(why, cancel=cancel)
        held = await workspace.held()
        if as_json:
            print_json(
                {"workspace": workspace.path, "held": hold_json(held), "cancelled": cancelled}
            )
            return OK
        say(
            f"retinue: workspace {workspace.path} is on hold: nothing begins there until "
            f"`retinue release --workspace {workspace.path}`"
        )
        if cancel:
            say(f"retinue: {cancelled} session{'' if cancelled == 1 else 's'} cancelled")
    return OK


async def release(directory: Path | None, by: str | None, as_json: bool) -> int:
    """Let a workspace go on."""
    async with connected(actor=by) as retinue:
        workspace = await find_workspace(retinue, directory)
        before = await workspace.release()
        if as_json:
            print_json({"workspace": workspace.path, "was_held": hold_json(before)})
        elif before is None:
            say(f"retinue: workspace {workspace.path} was not on hold")
        else:
            say(f"retinue: workspace {workspace.path} goes on; it was {hold_text(before)}")
    return OK


def say_held(path: str, hold: Hold) -> None:
    """Prints a line about a workspace on hold, and the way out."""
    say(f"retinue: workspace {path} is {hold_text(hold)}")
    say(f"retinue: `retinue release --workspace {path}` lets it go on")
