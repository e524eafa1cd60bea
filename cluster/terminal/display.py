"""Progress during long work: drawn in place on a terminal, plain lines elsewhere.

All of it goes to standard error, so that standard output has only the result.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

from rich.console import Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from retinue.cluster.terminal.progress import Progress
from retinue.cluster.terminal.render import lasting, one_line, say, stderr, usd

_LINES = 5


class Display(Protocol):
    """Shows progress as often as it likes; `update` is called every ``period_s`` seconds."""

    period_s: float

    def update(self, progress: Progress) -> None: ...
    def paused(self) -> contextlib.AbstractContextManager[None]: ...
    def close(self) -> None: ...


def make_display() -> Display:
    """The display that fits standard error."""
    return LiveDisplay() if stderr().is_terminal else PlainDisplay()


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """Shows a line on a terminal for as long as the block takes; nothing elsewhere."""
    console = stderr()
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        yield


class LiveDisplay:
    """Redraws a few lines in place."""

    period_s: float = 0.2

    def __init__(self) -> None:
        self._spinner = Spinner("dots")
        self._started = time.monotonic()
        self._live: Live | None = self._begun()

    def update(self, progress: Progress) -> None:
        if self._live:
            took = time.monotonic() - self._started
            self._live.update(drawing(progress, took, self._spinner), refresh=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to somebody else."""
        self.close()
        try:
            yield
        finally:
            self._live = self._begun()

    def close(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def _begun(self) -> Live:
        live = Live(console=stderr(), auto_refresh=False, transient=True)
        live.start()
        return live


class PlainDisplay:
    """A line when anything has changed."""

    period_s: float = 2.0

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._last = tally(Progress(()))

    def update(self, progress: Progress) -> None:
        line = tally(progress)
        if line != self._last:
            self._last = line
            say(f"retinue: {line}, {lasting(time.monotonic() - self._started)}")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Does nothing: plain lines do not get in the way."""
        yield

    def close(self) -> None:
        """Does nothing: there is nothing to tidy up."""


def tally(progress: Progress) -> str:
    """The counts and the cost on one line."""
    counts = progress.counts()
    parts = [
        f"{count} {name}"
        for name, count in (
            ("running", counts.running),
            ("finished", counts.finished),
            ("failed", counts.failed),
            ("queued", counts.queued),
        )
        if count
    ]
    agents = f"sub-agents: {', '.join(parts)}" if parts else "running"
    return f"{agents}, {usd(progress.spent)}"


def drawing(progress: Progress, took_s: float, spinner: RenderableType) -> RenderableType:
    """The terminal's picture: the tally, and the sub-agents at work with their times."""
    if isinstance(spinner, Spinner):
        spinner.update(text=Text(f"{tally(progress)}, {lasting(took_s)}"))
    now = time.time()
    lines = [
        Text(
            f"  {one_line(one.label)}  {lasting(max(now - one.since / 1_000_000, 1))}",
            style="dim",
            no_wrap=True,
            overflow="ellipsis",
        )
        for one in progress.running(_LINES)
    ]
    return Group(spinner, *lines)
