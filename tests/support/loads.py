"""What a worker is told to load or to build, and one that does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from edged.worker import process
from edged.worker.messages import Build, Load

_Asked = TypeVar("_Asked", Load, Build)

# Long enough for an engine that is imported, on a machine that does ten things at once.
CAPS = process.Caps(load_s=60, first_inference_s=60, inference_s=60, memory_bytes=4 * 2**30, arena_bytes=16 * 2**20)


def changed(asked: _Asked, **changes: Any) -> _Asked:
    """The same but for `changes`: of itself, of its source, or of how that is opened."""
    of_source = _taken(asked.source, changes)
    of_options = _taken(asked.source.options, changes)
    options = msgspec.structs.replace(asked.source.options, **of_options)
    source = msgspec.structs.replace(asked.source, **of_source, options=options)
    return msgspec.structs.replace(asked, **changes, source=source)


def _taken(of: msgspec.Struct, changes: dict[str, Any]) -> dict[str, Any]:
    return {name: changes.pop(name) for name in of.__struct_fields__ if name in changes}


@asynccontextmanager
async def worker(load: Load) -> AsyncIterator[process.Worker]:
    """A worker that has loaded `load`, until the block ends."""
    started = await process.start(load, CAPS)
    try:
        yield started
    finally:
        await started.stop(5)
