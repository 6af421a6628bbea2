"""A model's worker replaced by another of the same variant, because somebody wants it so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from edged.bundle.exclusion import excludes
from edged.errors import Code, EdgedError
from edged.models.states import State

if TYPE_CHECKING:
    from edged.models.resident import Resident
    from edged.worker.process import Worker


Refusal = EdgedError | OSError | None
"""Why a worker could not be loaded beside another; None: it was."""


class Renewal:
    """Of one resident: whether it is asked for, and why. `told`: the resident is to look again."""

    def __init__(self, told: asyncio.Event) -> None:
        self.why = ""
        self._told = told
        self._done: asyncio.Future[Refusal] | None = None

    @property
    def asked(self) -> bool:
        """Whether another worker is to take the place of the one that serves."""
        return self._done is not None

    def ask(self, why: str) -> asyncio.Future[Refusal]:
        """Asks for it; resolves when that is done, or could not be."""
        self.why = why
        self._done = self._done or asyncio.get_running_loop().create_future()
        self._told.set()
        return self._done

    def end(self, refusal: Refusal) -> None:
        """It has taken the place, or could not."""
        done, self._done, self.why = self._done, None, ""
        if done is not None and not done.done():
            done.set_result(refusal)


async def renew(resident: Resident, why: str) -> str:
    """Replaces the worker of `resident`, and says how; `why` is what people are told.

    Nobody's request fails: where memory holds both workers, and their device is open to both, the new one is loaded
    beside the old one; else requests wait until it is. Raises EdgedError: why there is no new worker.
    """
    if resident.state is State.FAILED:
        if await resident.stop(why):
            resident.start()
        await _settled(resident)
        return "it had failed, and was loaded again"
    if resident.resting:
        return "it rests without a worker; the next request brings a new one"
    if not resident.steady:
        raise EdgedError(Code.MODEL_UNAVAILABLE, f"model {resident.name} is {resident.state}", "its worker is new")
    before, variant = resident.worker, resident.variant
    assert before is not None and variant is not None  # noqa: S101, PT018 - it is steady
    if excludes(variant, variant):
        await _one_after_the_other(resident, before, why)
        return "one process at a time can have its device, so requests waited until the new one was loaded"
    done = resident.renewal.ask(why)
    either: list[asyncio.Future[Any]] = [done, before.ended]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not done.done():  # it died just then, and is started again as ever
        resident.renewal.end(None)
    refusal = done.result()
    if refusal is None:
        await _settled(resident)
        return "another worker was loaded beside it and took its place"
    if not (isinstance(refusal, EdgedError) and refusal.code is Code.MEMORY_SHORT):
        raise EdgedError(
            Code.LOAD_FAILED, f"the worker stays, another does not load: {refusal}", "see the model's log"
        ) from refusal
    await _one_after_the_other(resident, before, why)
    return f"memory holds one worker only, so requests waited until the new one was loaded ({refusal.message})"


async def _one_after_the_other(resident: Resident, before: Worker, why: str) -> None:
    """Has the worker end once it has answered what it has, and then the next load. Raises EdgedError."""
    resident.rest(why)
    while resident.worker is before and resident.resting:
        await resident.changes.after(resident.changes.count)
    resident.wake()
    await _settled(resident)


async def _settled(resident: Resident) -> None:
    """Waits until it is loaded, or stands by. Raises EdgedError where it fails."""
    resident.wake()
    while not resident.ready and not resident.resting:
        if resident.state is State.FAILED or resident.leaving:
            raise EdgedError(Code.LOAD_FAILED, f"model {resident.name} is {resident.state}: {resident.reason}")
        await resident.changes.after(resident.changes.count)
