"""What derived variants run: built on this device from a file of the bundle, once, and taken from the cache after that.

A key says of what, by what and for what something was built: the file's digest; the engine, its version, the variant's
options; the device's driver, system image and instruction sets; for engines that build for sizes and for the very GPU
also the inputs' shapes and the GPUs. Whatever of these changes, the old file is not looked at any more, and serves
again where the system goes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from edged import clock
from edged.bundle.manifest import Manifest, Variant
from edged.changes import Changes
from edged.errors import Code, EdgedError
from edged.events import EventLog, Severity
from edged.models.cache import Built, Cache
from edged.runtimes.base import ENGINES
from edged.worker.messages import Derived, FileRef

Build = Callable[[Path, int], Awaitable[None]]
"""Builds into a file, of so many bytes at most. Raises EdgedError or OSError."""


class Platform(msgspec.Struct, frozen=True):
    """What else than its file and its engine decides what an engine builds."""

    runtimes: Mapping[str, str | None]
    """Their versions."""
    system: str = ""
    """The driver and the system image, which brings the drivers that come with the kernel."""
    instruction_sets: frozenset[str] = frozenset()
    gpus: tuple[str, ...] = ()
    """Their models, and what tells which of them are this daemon's."""


class Workshop:
    """One for the daemon: it builds one thing at a time."""

    def __init__(
        self,
        cache: Cache,
        platform: Platform,
        events: EventLog | None = None,
        changes: Changes | None = None,
        in_use: Callable[[], Iterable[Manifest]] = tuple,
    ) -> None:
        """`changes` are marked when what is built, or wanted at once, has changed; what is `in_use` stays built."""
        self.wanted = 0
        """Loads that wait for something to be built."""
        self._cache = cache
        self._platform = platform
        self._events = events
        self._changes = changes or Changes()
        self._in_use = in_use
        self._built: dict[str, Built] = {}
        self._spoiled: set[str] = set()
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Looks for what earlier lives built; what cannot be read is built again."""
        try:
            self._built = await asyncio.to_thread(self._cache.look)
        except OSError as error:
            if self._events is not None:
                what = f"{self._cache.root} cannot be used: {error.strerror}"
                self._events.record(Severity.ERROR, Code.NOT_PERMITTED, "cache", what)

    def lacks(self, manifest: Manifest, variant: Variant) -> str:
        """Why a variant cannot be loaded as it is; empty where it can, as all that are not derived."""
        if not variant.derived or self._key(manifest, variant) in self._built:
            return ""
        return f"{variant.name} is not built yet: it is built on this device from {variant.file}"

    async def take(self, manifest: Manifest, variant: Variant, build: Build) -> Derived:
        """What a variant loads, built where it is not yet, which a load waits for. Raises as `build` does."""
        built = self._built.get(self._key(manifest, variant)) or await self._at_once(manifest, variant, build)
        with contextlib.suppress(OSError):  # it goes a little sooner, or is missed by the worker
            await asyncio.to_thread(self._cache.used, built)
        return Derived(str(self._cache.root), FileRef(built.name, built.size, built.sha256))

    async def _at_once(self, manifest: Manifest, variant: Variant, build: Build) -> Built:
        self.wanted += 1
        self._changes.mark()
        try:
            return await self.build(manifest, variant, build)
        finally:
            self.wanted -= 1
            self._changes.mark()

    async def build(self, manifest: Manifest, variant: Variant, build: Build) -> Built:
        """Builds what a variant loads, unless it is built. Raises as `build` does, and says so in an event."""
        key = self._key(manifest, variant)
        async with self._turn:
            if built := self._built.get(key):
                return built
            began = clock.monotonic()
            try:
                built = await self._make(key, build)
            except (EdgedError, OSError) as error:
                code = error.code if isinstance(error, EdgedError) else Code.LOAD_FAILED
                text = f"variant {variant.name} of revision {manifest.revision} cannot be built: {error}"
                self._record(Severity.WARNING, "build_failed", manifest, variant, text, reason=code)
                raise
        text = f"variant {variant.name} of revision {manifest.revision} is built from {variant.file}"
        took_s = round(clock.monotonic() - began, 3)
        self._record(Severity.INFO, "variant_built", manifest, variant, text, build_s=took_s, bytes=built.size)
        return built

    async def _make(self, key: str, build: Build) -> Built:
        held = {self._key(manifest, each) for manifest in self._in_use() for each in manifest.variants if each.derived}
        try:
            path, most_bytes = await asyncio.to_thread(self._cache.begin, held)
            await build(path, most_bytes)
            return await asyncio.to_thread(self._cache.keep, path, key, held)
        finally:  # something may have made room, or was not finished
            with contextlib.suppress(OSError):
                self._built = await asyncio.to_thread(self._cache.look)

    async def check(self, manifest: Manifest, variant: Variant) -> None:
        """Forgets what was built of a variant where its file is damaged. Raises OSError."""
        built = self._built.get(self._key(manifest, variant))
        if built is not None and await asyncio.to_thread(self._cache.damaged, built):
            await self.spoil(manifest, variant, EdgedError(Code.DERIVED_UNUSABLE, f"{built.name} is damaged"))

    async def spoil(self, manifest: Manifest, variant: Variant, why: EdgedError) -> bool:
        """Forgets what was built of a variant, since it cannot be used; whether it is worth while to build it again."""
        key = self._key(manifest, variant)
        first = key not in self._spoiled
        self._spoiled.add(key)
        if built := self._built.pop(key, None):
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._cache.discard, built)
        self._record(Severity.WARNING, why.code, manifest, variant, why.message)
        self._changes.mark()
        return first

    def _key(self, manifest: Manifest, variant: Variant) -> str:
        platform = self._platform
        parts: tuple[object, ...] = (
            manifest.file(variant.file).sha256,
            variant.runtime,
            platform.runtimes.get(variant.runtime),
            variant.options,
            platform.system,
            sorted(platform.instruction_sets),
        )
        engine = ENGINES.get(variant.runtime)
        if engine is not None and engine.builds_for_sizes:
            sizes = {tensor.name: tensor.shape for tensor in manifest.inputs}
            parts += (manifest.max_batch_size, sorted(sizes.items()), platform.gpus)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def _record(
        self, severity: Severity, code: str, manifest: Manifest, variant: Variant, text: str, **details: object
    ) -> None:
        known = {"revision": manifest.revision, "variant": variant.name}
        if self._events is not None:
            self._events.record(severity, code, manifest.name, text, **known, **details)
