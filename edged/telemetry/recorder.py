"""Facts into windows, windows and events into the spool: off the loop, and whatever the disk does."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from edged import clock, log
from edged.events import Event
from edged.facts import Fact
from edged.telemetry import spool_file
from edged.telemetry.aggregate import Aggregate
from edged.telemetry.intake import Intake
from edged.telemetry.messages import Happening, Lost
from edged.telemetry.spool import Spool
from edged.telemetry.window import Window

_P = ParamSpec("_P")
_Given = TypeVar("_Given")

_log = log.get("telemetry")

# The longest a window gets when the day's writes are used up, and how long a day of writes is.
_LONG_S = 3600.0
_DAY_S = 86_400.0

# What a transaction writes, as measured: pages of the table, the facts and the log, and their copies.
_WRITE_BYTES = 20 * 1024


class NotKeptError(Exception):
    """The spool cannot be used now: its disk is full, read-only or gone."""


class DefectError(NotKeptError):
    """What was asked of the spool is a defect of edged: no spool takes it, now or later."""


class Recorder:
    """The open window and the one thread that the spool is used by."""

    def __init__(self, folder: Path, cap_bytes: int, window_s: float, daily_write_bytes: int) -> None:
        self.problem = ""
        """Why nothing is kept on the disk now, for people."""
        self.damage = ""
        """What was set aside, for people."""
        self.used_bytes = 0
        """What the spool took of the disk when something was last stored."""
        self.kept: Callable[[], None] = lambda: None
        """Called when there is something new to send."""
        self.closing: Callable[[], None] = lambda: None
        """Called before a window ends, for what is read once a window."""
        self.closed: Callable[[Window], None] = lambda _window: None
        """Called with each window that has ended."""
        self.set_aside: Callable[[str], None] = lambda _why: None
        """Called when a damaged spool was set aside."""
        self.now_ms: Callable[[], int] = clock.wall_ms
        """What time it is when a spool is opened, in ms since 1970; called in its thread."""
        self._folder = folder
        self._cap_bytes = cap_bytes
        self._window_s = window_s
        self._daily_write_bytes = daily_write_bytes
        self._written_bytes = 0
        self._day_began_s = clock.monotonic()
        self._open = Aggregate(clock.monotonic(), clock.wall_ms())
        self._pending: Window | None = None
        self._events = Intake(clock.monotonic())
        self._thread = ThreadPoolExecutor(1, "spool")
        self._spool: Spool | None = None
        self._storing = asyncio.Lock()
        self._lost_windows = 0
        self._damage_told = True
        self._coarse, self._held = False, False
        self._to_coarsen = False
        self._new = asyncio.Event()

    @property
    def lost(self) -> Lost:
        """What is lost, and not counted in the spool yet."""
        return Lost(self._lost_windows, self._events.lost)

    def limit(self, *, coarse: bool, held: bool) -> None:
        """`coarse`: windows become hours, those that are kept already too. `held`: until further notice, what happens
        is kept in memory."""
        if (coarse, held) == (self._coarse, self._held):
            return
        self._to_coarsen = coarse and not held and (self._to_coarsen or self._held or not self._coarse)
        self._coarse, self._held = coarse, held
        self._new.set()

    def apply(self, window_s: float, daily_write_bytes: int) -> None:
        """These hold from the next window on."""
        self._window_s, self._daily_write_bytes = window_s, daily_write_bytes

    def add(self, fact: Fact) -> None:
        """Folds a fact into the open window."""
        self._open.add(fact)

    def tell(self, event: Event) -> None:
        """Takes an event of the daemon's."""
        if self._events.take(event, clock.monotonic()):
            self._new.set()

    async def run(self) -> None:
        """Closes windows as their time comes, and stores events as they come."""
        due_s = clock.monotonic() + self._window_s
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(due_s - clock.monotonic(), 0)):
                    await self._new.wait()
            self._new.clear()
            if clock.monotonic() >= due_s:
                self.close_window()
                due_s = clock.monotonic() + (self._window_s if self._may_write() else _LONG_S)
            if self._held:
                continue
            # What the thread is about must not be forgotten when the daemon stops just then.
            await asyncio.shield(asyncio.ensure_future(self.store()))
            if self._to_coarsen:
                self._to_coarsen = False
                with contextlib.suppress(NotKeptError):
                    await asyncio.shield(asyncio.ensure_future(self.do(Spool.coarsen)))

    def _may_write(self) -> bool:
        now_s = clock.monotonic()
        if now_s - self._day_began_s >= _DAY_S:
            self._day_began_s, self._written_bytes = now_s, 0
        return self._written_bytes < self._daily_write_bytes and not self._coarse

    def close_window(self) -> None:
        """Ends the open window. It waits, merged with those that wait already, until the disk takes it."""
        self.closing()
        window = self._open.close(clock.monotonic(), clock.wall_ms(), clock_synchronized=clock.synchronized())
        self.closed(window)
        self._pending = window if self._pending is None else self._pending.merged(window)

    async def store(self) -> None:
        """Brings to the disk what waits. What the disk does not take goes on waiting; what meets a defect is lost."""
        async with self._storing:
            with contextlib.suppress(NotKeptError):
                if self._pending is not None:
                    await self._store_window(self._pending)
                while waiting := self._events.waiting:
                    try:
                        await self.do(_append_event, *waiting[0])
                    except DefectError:  # else it would be the first for ever
                        self._events.lost += 1
                    waiting.popleft()
                    self._written_bytes += _WRITE_BYTES
                    self.kept()
            if not self._damage_told:
                self._damage_told = True
                self.set_aside(self.damage)

    async def _store_window(self, window: Window) -> None:
        """Brings what is pending to the disk. Raises NotKeptError."""
        self._pending, lost = None, self.lost
        try:
            await self.do(Spool.append_window, window, lost)
        except DefectError:
            self._lost_windows += 1
            return
        except NotKeptError:
            later = self._pending
            self._pending = window if later is None else window.merged(later)
            raise
        self._events.lost -= lost.events
        self._lost_windows -= lost.windows
        self._written_bytes += _WRITE_BYTES
        self.used_bytes = await self.do(Spool.used_bytes)
        self.kept()

    async def do(
        self, function: Callable[Concatenate[Spool, _P], _Given], *arguments: _P.args, **named: _P.kwargs
    ) -> _Given:
        """Calls a function of the spool in its thread; a damaged spool is made anew first.

        Raises NotKeptError, and DefectError of it. Where it fails, it is called once more with a spool in memory.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: self._in_thread(function, *arguments, **named)
        )

    def _in_thread(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        damage, written_ms = "", 0
        for attempt in (1, 2, 3):  # as it lies there, opened and looked through anew, made anew
            try:
                if self._spool is None:
                    written_ms = max(written_ms, spool_file.written_ms(self._folder))
                    if damage:
                        self.damage = spool_file.set_aside(self._folder, damage)
                        self._damage_told = False
                    self._spool = Spool(self._folder, self._cap_bytes, self.now_ms(), written_ms)
                found = function(self._spool, *arguments, **named)
            except Exception as error:
                self._close()  # opened anew, whatever it was: a file system may have been mounted anew
                if not isinstance(error, MemoryError):  # which is nobody's fault, and may pass
                    self._try_in_memory(function, *arguments, **named)
                if spool_file.is_damage(error) and attempt < 3:
                    damage = str(error) or type(error).__name__ if attempt == 2 else ""
                    continue
                if not self.problem:
                    _log.warning("telemetry is kept in memory", folder=str(self._folder), why=str(error))
                self.problem = f"{self._folder} takes no telemetry: {error}; what happens is merged in memory meanwhile"
                raise NotKeptError(self.problem) from error
            self.problem = ""
            return found
        raise AssertionError("the last attempt returns or raises")

    def _try_in_memory(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """What no spool takes is a defect of edged, and no reason to touch the file.

        Raises DefectError, or NotKeptError where there is not even memory enough to tell.
        """
        try:
            with contextlib.closing(Spool(None, self._cap_bytes, self.now_ms())) as spool:
                function(spool, *arguments, **named)
        except MemoryError as error:
            raise NotKeptError("there is not enough memory to tell a defect from damage") from error
        except Exception as error:
            _log.exception("the spool met a defect of edged")
            self.problem = f"the spool met a defect of edged: {type(error).__name__}: {error}; the log says more"
            raise DefectError(self.problem) from error

    async def close(self) -> None:
        """Stores the open window, and closes the spool."""
        self.close_window()
        await self.store()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _close(self) -> None:
        if self._spool is not None:
            with contextlib.suppress(sqlite3.Error):
                self._spool.close()
            self._spool = None


def _append_event(kept_in: Spool, happening: Happening, kept: bool) -> int:
    return kept_in.append_event(happening, kept=kept)
