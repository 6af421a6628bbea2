"""A thread for what may take long, or never end: a driver that is asked, a disk that is written to."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_Found = TypeVar("_Found")


class Reader(Generic[_Found]):
    """Runs one call at a time on a daemon thread, made for the first: one that hangs keeps nobody from ending the
    process."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending: asyncio.Future[_Found] | None = None

    async def read(self, what: Callable[[], _Found], limit_s: float) -> _Found:
        """What it gives. Raises TimeoutError after `limit_s`, and whatever it raises.

        The call goes on then. Until it has ended TimeoutError is raised at once, and what it gives is dropped: it is
        old.
        """
        if self._pending is not None and not self._pending.done():
            raise TimeoutError("an earlier call has not ended yet")
        self._pending = self._start(what)
        async with asyncio.timeout(limit_s):
            return await asyncio.shield(self._pending)

    def close(self, last: Callable[[], None] = lambda: None) -> None:
        """Ends the thread when what it does has ended, and `last` after that."""
        if self._pending is not None:
            self._pending.cancel()
        if self._thread is not None:
            self._jobs.put(last)
            self._jobs.put(None)

    def _start(self, what: Callable[[], _Found]) -> asyncio.Future[_Found]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Found] = loop.create_future()

        def job() -> None:
            try:
                found = what()
            except Exception as error:  # noqa: BLE001 - handed to who asked
                _tell(loop, future, error=error)
            else:
                _tell(loop, future, found=found)

        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="sensors", daemon=True)
            self._thread.start()
        self._jobs.put(job)
        return future

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _tell(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[_Found],
    *,
    found: _Found | None = None,
    error: Exception | None = None,
) -> None:
    def resolve() -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(found)  # type: ignore[arg-type]

    with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(resolve)
