"""The memory of workers: what each was seen to take at most, who is asked before another is started, what comes up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext

import msgspec

from edged.bundle.manifest import Manifest, Variant, digest
from edged.worker.process import Worker

# Weights lie in memory once as read and once as the engine lays them out; the rest is what a worker takes without any.
_FILE_SHARE, _WORKER_BYTES = 2, 16 * 2**20
# So many are remembered, the newest; what differs by less is the same.
_MOST, _SAME_BYTES = 256, 2**20


class Need(msgspec.Struct, frozen=True):
    """What a worker that is to be started will take at its peak."""

    manifest: Manifest
    variant: Variant
    peak_bytes: int


class Fit(msgspec.Struct, frozen=True):
    """Whether a worker would find room; `text` has the numbers."""

    beside: bool
    """Beside all that matters as much."""
    instead: bool
    """At least once the worker of its model's serving revision has gone."""
    text: str


Ask = Callable[[Need], AbstractAsyncContextManager[None]]
"""Entered before a worker is started, and left when it is ready or has failed. Raises EdgedError (memory_short)."""


Judge = Callable[[Need, int], Awaitable[Fit]]
"""Says whether a worker would find room, given which revision of its model serves."""


def granted(_: Need) -> AbstractAsyncContextManager[None]:
    """There is always enough."""
    return nullcontext()


async def _fits(_: Need, __: int) -> Fit:
    return Fit(beside=True, instead=True, text="no limit is known")


class Memory:
    """What was measured, in this life of the daemon and before, and whom to ask."""

    def __init__(
        self, ask: Ask = granted, judge: Judge = _fits, runtimes: Mapping[str, str | None] | None = None
    ) -> None:
        """`runtimes`: their versions, since another one takes another amount."""
        self.ask = ask
        self.judge = judge
        self.news = asyncio.Event()
        """Set when there is something new to be kept for the next life."""
        self.coming: list[Variant] = []
        """Those that are being loaded now, also for a trial."""
        self._runtimes = runtimes or {}
        self._peaks: dict[str, int] = {}

    @property
    def peaks(self) -> Mapping[str, int]:
        """Bytes, by what they were measured of."""
        return self._peaks

    def recall(self, peaks: Mapping[str, int]) -> None:
        """Takes what was measured in an earlier life."""
        self._peaks = {**peaks, **self._peaks}

    @contextmanager
    def loading(self, variant: Variant) -> Iterator[None]:
        """Held while a worker of `variant` comes up."""
        self.coming.append(variant)
        try:
            yield
        finally:
            self.coming.remove(variant)

    def is_coming(self, manifest: Manifest) -> bool:
        """Whether a worker of one of its variants comes up now; another model's may be equal to one of them."""
        return any(variant is each for variant in manifest.variants for each in self.coming)

    def measure(self, manifest: Manifest, variant: Variant, worker: Worker, *, building: bool = False) -> None:
        """Looks at what a worker, or one that only builds, has taken so far; the largest look counts.

        Pages of files and what it shares with others are left out as they are now: they are not its own.
        """
        taken = worker.usage()
        own_bytes = taken.peak_bytes - (taken.resident_bytes - taken.private_bytes)
        key = self._key(manifest, variant, building=building)
        before = self._peaks.get(key, 0)
        if own_bytes > before:
            self._peaks[key] = own_bytes
            for oldest in list(self._peaks)[:-_MOST]:
                del self._peaks[oldest]
        if own_bytes > before + _SAME_BYTES:
            self.news.set()

    def _key(self, manifest: Manifest, variant: Variant, *, building: bool) -> str:
        engine = f"{variant.runtime} {self._runtimes.get(variant.runtime)}"
        return f"{digest(manifest)} {variant.name} {engine}" + (" building" if building else "")

    def need(self, manifest: Manifest, variant: Variant, cap_bytes: int, *, building: bool = False) -> Need:
        """What a worker will take: as measured, as the manifest says, or as its file's size suggests."""
        measured = self._peaks.get(self._key(manifest, variant, building=building), 0)
        declared = variant.requires.memory_mib * 2**20
        guessed = manifest.file(variant.file).size * _FILE_SHARE + _WORKER_BYTES
        return Need(manifest, variant, min(measured or declared or guessed, cap_bytes))
