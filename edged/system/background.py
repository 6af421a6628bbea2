"""Parts of the daemon that run beside the rest, until it stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from edged import log

_log = log.get("app")


def run(
    stack: contextlib.AsyncExitStack, what: str, part: Coroutine[Any, Any, None], degrade: Callable[[str], None]
) -> None:
    """Runs `part` until the stack is left. Its end by a defect is told, since nobody else would notice."""
    task = asyncio.create_task(part, name=what)

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a part of edged has ended by a defect", what=what, exc_info=error)
            degrade(f"the {what} has ended by a defect of edged; its log says more")

    task.add_done_callback(ended)
    stack.push_async_callback(end, [task])


async def end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Ends tasks that are not done yet; whatever they end with is theirs."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
