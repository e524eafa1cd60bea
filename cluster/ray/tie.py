"""The tie between a client's process and its cluster, and the reaction to its loss.

Ray waits a minute for a control service that is gone, in every call, and then ends the process with
a message of its own. So a thread checks, without asking Ray, that the cluster's essential processes
are alive. Once one is not, all calls under way and all further ones fail with the cause, and the
client leaves Ray before it gives up. A process is in one cluster at a time: one tie.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from retinue.actors.domain.errors import ClusterUnavailable

T = TypeVar("T")

_LOOK_EVERY_S = 0.5
_CALLS_FAIL_S = 0.2
_JOIN_LIMIT_S = 2.0
_LEAVE_LIMIT_S = 8.0  # Ray tries for 5 s to tell a head that is gone


class Tie:
    """The tie of this process; it costs nothing while nobody watches it."""

    def __init__(self) -> None:
        self.lost: str | None = None
        self.on_stuck: Callable[[str], None] | None = None
        self.joined: int = 0
        """Counts the clusters joined here: nothing found in one is valid in the next."""
        self._watch: _Watch | None = None
        self._last: _Watch | None = None
        self._pending: set[Callable[[], object]] = set()

    @contextlib.contextmanager
    def joining(self, look: Callable[[], str | None]) -> Iterator[None]:
        """Watches the joining of a cluster, which Ray lets nobody interrupt.

        If the cluster is lost meanwhile, Ray's error becomes ClusterUnavailable with the cause; if
        there is no error in time, ``on_stuck`` is called in a thread.
        """
        done = threading.Event()

        def give_up() -> None:
            if not done.wait(_JOIN_LIMIT_S) and self.on_stuck:
                self.on_stuck(str(self.lost))

        watch = _Watch(self, look, give_up)
        try:
            yield
        except Exception as error:
            if self.lost is not None:
                raise ClusterUnavailable(self.lost) from error
            raise
        finally:
            done.set()
            watch.stop()

    def begin(self) -> None:
        """Note that a cluster was joined: nothing is lost yet."""
        self.lost = None
        self.joined += 1

    def fasten(self, look: Callable[[], str | None], leave: Callable[[], None]) -> None:
        """Watch the cluster from now on.

        ``look`` returns the reason it is lost, or None; ``leave`` then leaves Ray. Both run in a
        thread.
        """
        self._watch = _Watch(self, look, leave)

    def loosen(self) -> bool:
        """Stop watching; True if Ray is still to be left, since the cluster is not lost."""
        watch, self._watch = self._watch, None
        if watch is None:
            return self.lost is None
        self._last = watch
        watch.stop()
        if self.lost is None:
            self.settle()
        return self.lost is None

    def settle(self) -> None:
        """Wait until a lost cluster is left, or loosened: then another one may be joined."""
        if self._last:
            self._last.join()

    @property
    def watched(self) -> bool:
        """True if a loss would be noticed."""
        return self._watch is not None

    def require(self) -> None:
        """Raises ClusterUnavailable, with the reason, if the cluster is lost."""
        if self.lost is not None:
            raise ClusterUnavailable(self.lost)

    async def answer(self, asked: Awaitable[T]) -> T:
        """The answer; raises ClusterUnavailable as soon as the cluster is lost."""
        if not self.watched:
            return await asked
        self.require()
        task: asyncio.Task[T] = asyncio.ensure_future(_awaited(asked))
        loop = asyncio.get_running_loop()
        give_up = functools.partial(loop.call_soon_threadsafe, task.cancel)
        self._pending.add(give_up)
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or not current.cancelling():
                self.require()
            raise
        finally:
            self._pending.discard(give_up)
            task.cancel()

    async def find(self, look_up: Callable[[], T]) -> T:
        """The result of a look-up that may take long, without delaying the process's end."""
        if not self.watched:
            return await asyncio.to_thread(look_up)
        return await self.answer(_in_thread(look_up))

    def _lose(self, why: str) -> None:
        self.lost = why
        for give_up in list(self._pending):
            with contextlib.suppress(RuntimeError):  # that loop is closed
                give_up()


class _Watch:
    """A thread that looks after the cluster until it is stopped or the cluster is lost."""

    def __init__(self, tie: Tie, look: Callable[[], str | None], leave: Callable[[], None]) -> None:
        self._tie = tie
        self._look = look
        self._leave = leave
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tie", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self) -> None:
        self._thread.join(_LEAVE_LIMIT_S)

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_S):
            if (why := self._look()) is not None:
                self._tie._lose(why)
                time.sleep(_CALLS_FAIL_S)  # first those who wait hear of it
                self._leave()
                return


async def _awaited(asked: Awaitable[T]) -> T:
    return await asked


def _in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """The result of ``work``, done in a thread that does not delay the process's end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def set_outcome(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:
            failure = error
        try:
            loop.call_soon_threadsafe(set_outcome, result, failure)
        except RuntimeError:  # nobody waits any more
            return

    threading.Thread(target=run, daemon=True).start()
    return future


TIE = Tie()
