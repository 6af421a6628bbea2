"""A loop whose time passes only when nothing is left to do, so that hours of waiting take none, the same each time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

# Jobs of threads are done one after the other, and never at the very time of another.
_BETWEEN_S = 1e-6

# More turns without any time are no work.
_MOST_TURNS = 10_000


class VirtualLoop(asyncio.SelectorEventLoop):
    """What is given to a thread is done between two turns; `job_s` is how long it takes."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.job_s = 0.0
        self.is_cut = False
        """No job is done any more: the power has gone."""
        self._jobs_until_s = 0.0
        super().__init__(_Skipping(self))

    def time(self) -> float:
        """Seconds from some start."""
        return self.now_s

    def run_in_executor(self, _: Any, job: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Does `job`, once its time has come, in the loop's own thread."""
        future: asyncio.Future[Any] = self.create_future()

        def do() -> None:
            if self.is_cut:
                return
            try:
                found = job(*args)
            except Exception as error:  # noqa: BLE001 - whoever waits is told
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(found)

        self._jobs_until_s = max(self.now_s, self._jobs_until_s) + self.job_s + _BETWEEN_S
        self.call_at(self._jobs_until_s, do)
        return future

    def cut(self) -> None:
        """Ends everything where it is; nothing of it reaches the disk."""
        self.is_cut = True
        self.set_exception_handler(lambda *_: None)
        while tasks := asyncio.all_tasks(self):
            for task in tasks:
                task.cancel()
            self.run_until_complete(_a_few_turns())
        self.close()


async def _a_few_turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class _Skipping(selectors.SelectSelector):
    """Waits by moving the loop's time on. Nothing comes from outside."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Raises RuntimeError where everything waits for something that will never be, or nothing ever waits."""
        if timeout is None:
            raise RuntimeError("everything waits, and nothing is on its way")
        self._turns = 0 if timeout else self._turns + 1
        if self._turns > _MOST_TURNS:
            raise RuntimeError(f"the loop has turned {_MOST_TURNS} times, and no time has passed")
        self._loop.now_s += max(timeout, 0.0)
        return []
