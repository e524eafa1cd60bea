"""The command line on a state directory of its own, and what its commands came to."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from tests.kit.warm import Command

AGENTS = Path("tests/kit/cluster_agents.py")


class Finished(SimpleNamespace):
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, object]:
        return cast("dict[str, object]", json.loads(self.out))

    @property
    def budgets(self) -> list[dict[str, object]]:
        """What `budget` listed."""
        return cast("list[dict[str, object]]", self.document["budgets"])

    @property
    def session(self) -> str:
        """The id that `run` said first."""
        return self.err.splitlines()[0].removeprefix("retinue: session ")


class Shell:
    """Runs `retinue` in processes of its own, all on one state directory."""

    def __init__(self, home: Path, workspace: Path) -> None:
        self.workspace = workspace
        self.environment = {**os.environ, "RETINUE_HOME": str(home)}

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator[Command]:
        """A command that is under way."""
        with Command(arguments, self.environment) as command:
            try:
                yield command
            finally:
                command.kill()

    def retinue(self, *arguments: str) -> Finished:
        with self.started(*arguments) as command:
            return self.finish(command)

    def finish(self, command: Command) -> Finished:
        out, err = command.communicate()
        return Finished(code=command.wait(), out=out, err=err)

    def run(self, agent: str, prompt: str = "", *options: str) -> Finished:
        return self.retinue("run", *self.arguments(agent, prompt), *options)

    def until_at_work(self) -> str:
        """The session that is at work, as soon as there is one."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            document = self.retinue("ps", "--state", "running", "--json").document
            for one in cast("list[dict[str, str]]", document["sessions"]):
                return one["id"]
        raise TimeoutError("nothing is at work")

    def arguments(self, agent: str, prompt: str) -> list[str]:
        workspace = ["--workspace", str(self.workspace)]
        return [f"{AGENTS}:{agent}", "--prompt", prompt, *workspace, "--isolation", "shared"]
