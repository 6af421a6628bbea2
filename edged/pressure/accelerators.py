"""Watches the accelerators that models run on, moves models away from one that fails, and back when it works again.

A device without any is never woken for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

from edged import clock, log
from edged.bundle.exclusion import excludes
from edged.bundle.manifest import Variant
from edged.errors import Code, EdgedError
from edged.events import EventLog, Severity
from edged.models import heartbeat, renewing, restarts
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.pressure import reset, watchdog
from edged.pressure.watchdog import Action, Beat, Watched
from edged.system import hardware
from edged.system.life import Life
from edged.worker.child import Child
from edged.worker.process import Worker

_log = log.get("pressure")

_LOOK_S, _DEADLINE_S = 10.0, 5.0
_RESET_S = 10.0
_RENEWED = "its accelerator has failed, and is tried by another worker"

# How the sensors of each kind begin.
_SENSORS = {"nvidia": "nvidia", "edgetpu": "coral:"}

User = tuple[Resident, Variant]

Proven = Callable[[Resident, float], bool | None]
"""Whether the callers of a resident show that it has worked within so many seconds."""


class _UntriedError(Exception):
    """Its worker is busy, or none came up for want of room, or of an accelerator that another has: it says nothing."""


class Accelerators:
    """One for the daemon."""

    def __init__(
        self,
        root: Path,
        residency: Residency,
        proven: Proven,
        doubts: Callable[[], Mapping[str, str]],
        events: EventLog,
        life: Life,
        look_s: float = _LOOK_S,
        deadline_s: float = _DEADLINE_S,
    ) -> None:
        """`doubts`: the sensors that make no sense, and why. `deadline_s`: for a heartbeat."""
        self._root = root
        self._residency = residency
        self._proven = proven
        self._doubts = doubts
        self._events = events
        self._life = life
        self._look_s = look_s
        self._deadline_s = deadline_s
        self._watched: dict[str, Watched] = {}
        self._zeros: WeakKeyDictionary[Resident, dict[str, bool]] = WeakKeyDictionary()
        """By variant, whether it has ever answered a heartbeat well; not there where it never answered one."""
        self._resetting: Child | None = None
        self._told: set[str] = set()
        """The kinds of which it was told that a look failed."""

    async def run(self) -> None:
        """Watches until it is cancelled."""
        changes = self._residency.changes
        while True:
            count = changes.count
            kinds = {variant.requires.accelerator for _, variant in self._users()}
            kinds |= {kind for kind, watched in self._watched.items() if watched.failed}
            for kind in sorted(kinds):
                try:
                    await self._look(kind)
                except Exception as error:  # noqa: BLE001 - else none would be watched any more
                    self._passed_over(kind, error)
            if kinds:
                await asyncio.sleep(self._look_s)
            else:
                await changes.after(count)

    def _users(self) -> Iterator[User]:
        """What runs on an accelerator now, or would if that worked."""
        for resident in self._residency.all():
            for variant in resident.choice.runnable if resident.loaded else ():
                kind = variant.requires.accelerator
                if kind and (variant is resident.variant or self._failed(kind)):
                    yield resident, variant

    def _passed_over(self, kind: str, error: Exception) -> None:
        """A look met a defect of edged, which says nothing of the device. Told once."""
        if (watched := self._watched.get(kind, Watched())).failed:
            self._watched[kind] = watchdog.put_off(watched, clock.monotonic())
        if kind not in self._told:
            self._told.add(kind)
            text = f"a look at accelerator {kind} failed: {type(error).__name__}: {error}; it stays as it is"
            self._events.record(Severity.ERROR, "accelerator_not_watched", kind, text)

    def _failed(self, kind: str) -> str:
        return self._watched.get(kind, Watched()).failed

    async def _look(self, kind: str) -> None:
        watched = self._watched.get(kind, Watched())
        if watched.failed and watchdog.due(watched, clock.monotonic()) is not Action.RETRY:
            return
        users = [user for user in self._users() if user[1].requires.accelerator == kind]
        beat = await self._beat(kind, users, retry=bool(watched.failed))
        if beat is None:
            if watched.failed:
                self._watched[kind] = watchdog.put_off(watched, clock.monotonic())
            return
        self._watched[kind], action = watchdog.step(watched, beat, clock.monotonic())
        was, why = watched.failed, self._failed(kind)
        if was and was != why:
            self._life.recover(_told(kind, was))
        if why and was != why:
            self._life.degrade(_told(kind, why))
        if action is Action.FAIL:
            text = f"{_told(kind, why)}; it is tried again later"
            self._events.record(Severity.ERROR, "accelerator_failed", kind, text)
        elif action is Action.RECOVER:
            found = "works again" if users else "may be used again: no model is left to try it with"
            self._events.record(Severity.INFO, "accelerator_works", kind, f"accelerator {kind} {found}")
        if was != why or watchdog.is_gone(watched) != watchdog.is_gone(self._watched[kind]):
            failed = {each: state for each, state in self._watched.items() if state.failed}
            gone = [each for each, state in failed.items() if watchdog.is_gone(state)]
            self._residency.avoid({each: _told(each, state.failed) for each, state in failed.items()}, gone)

    async def _beat(self, kind: str, users: Sequence[User], *, retry: bool) -> Beat | None:
        """One look; None when there is nothing to be learned now."""
        if not hardware.present(kind, self._root):
            return Beat(present=False)
        doubt = self._doubt(kind)
        alive = Beat(answered_s=0.0, doubt=doubt)
        if retry and not users:  # no model is left to try it with: the next one will tell
            return alive
        if retry:
            await self._reset(kind)
            for user in sorted(users, key=lambda user: (self._has_answered(*user) is not True, _serves(*user) is None)):
                try:
                    return await self._retry(*user, doubt) or alive
                except _UntriedError:
                    continue  # it was not tried; a smaller one may find room
            return None
        steady = [(*user, worker) for user in users if user[0].steady and (worker := user[0].worker) is not None]
        proven = any(self._proven(resident, self._look_s) is not False for resident, *_ in steady)
        for resident, variant, worker in steady:
            if proven and self._has_answered(resident, variant) is not None:
                continue
            heard = await self._ask(
                resident, variant, worker, doubt
            )  # its first only teaches where callers are answered
            if heard is not None and not proven:
                return heard
        return alive if steady else None

    async def _retry(self, resident: Resident, variant: Variant, doubt: str) -> Beat | None:
        """By the worker that serves, if it is of this variant: beside it there may be room for none. Else by its own.

        Where that worker fails, it may be that alone which is broken: another takes its place. Raises _UntriedError.
        """
        if worker := _serves(resident, variant):
            proven = self._proven(resident, self._look_s)
            if proven is None:  # it is at a long batch, or hangs in one: that tells
                raise _UntriedError
            if proven:
                return None
            heard = await self._ask(resident, variant, worker, doubt)
            if heard is None or heard.is_well or self._residency.on_trial(resident):  # a trial judges one worker
                return heard
            await self._renew(resident, worker)
        if worker := _serves(resident, variant):
            return await self._ask(resident, variant, worker, doubt)
        return await self._hear(resident, variant, self._try_out(resident, variant), None, doubt)

    async def _ask(self, resident: Resident, variant: Variant, worker: Worker, doubt: str) -> Beat | None:
        return await self._hear(resident, variant, heartbeat.beat(worker, resident.manifest), self._deadline_s, doubt)

    async def _try_out(self, resident: Resident, variant: Variant) -> float:
        """Bounded by what a worker may take to load. Raises _UntriedError besides what `heartbeat.try_out` raises."""
        try:
            return await heartbeat.try_out(resident, variant)
        except EdgedError as error:
            if restarts.is_short(error) or self._is_taken(variant, error):
                raise _UntriedError from error
            raise

    async def _renew(self, resident: Resident, worker: Worker) -> None:
        """Has another take the place of the worker that serves, where it comes up in the time that it may take."""
        caps = worker.caps
        try:
            async with asyncio.timeout(caps.inference_s + caps.load_s + caps.first_inference_s):
                await renewing.renew(resident, _RENEWED)
        except (EdgedError, TimeoutError) as error:  # the next heartbeat tells
            _log.warning("no other worker took over", model=resident.name, why=str(error) or "it takes too long")

    def _has_answered(self, resident: Resident, variant: Variant) -> bool | None:
        """Whether a heartbeat was ever answered well; None where none was answered."""
        return self._zeros.get(resident, {}).get(variant.name)

    async def _hear(
        self,
        resident: Resident,
        variant: Variant,
        answer: Coroutine[None, None, float],
        limit_s: float | None,
        doubt: str,
    ) -> Beat | None:
        """What comes of a heartbeat; None where it was refused by what never answered one well, which tells nothing."""
        known = self._zeros.setdefault(resident, {})
        answered_s, refused, failure = None, "", ""
        try:
            async with asyncio.timeout(limit_s):
                answered_s = await answer
        except heartbeat.RefusedError as error:
            if not known.setdefault(variant.name, False):
                return None
            refused = str(error)
        except TimeoutError:
            pass
        except (EdgedError, OSError) as error:
            failure = str(error)
        else:
            known[variant.name] = True
        return Beat(answered_s=answered_s, deadline_s=self._deadline_s, refused=refused, failure=failure, doubt=doubt)

    def _doubt(self, kind: str) -> str:
        """Why its temperature makes no sense."""
        sensor = _SENSORS.get(kind)
        return next((why for name, why in self._doubts().items() if sensor and name.startswith(sensor)), "")

    async def _reset(self, kind: str) -> None:
        """Where that is offered, nobody has it open, and no earlier reset hangs."""
        path = reset.offered(kind, self._root)
        if path is None or self._is_open(kind):
            return
        if self._resetting is not None and not self._resetting.reaped.done():
            return
        try:
            child = self._resetting = reset.begin(path)
            try:
                why = (await child.stop(_RESET_S)).text
            finally:
                child.kill()
        except OSError as error:
            why = str(error)
        if why == "exit status 0":
            self._events.record(
                Severity.INFO, "accelerator_reset", kind, f"accelerator {kind} was reset through {path}"
            )
        else:
            text = f"accelerator {kind} could not be reset through {path} within {_RESET_S:g} s: {why}; see the log"
            self._events.record(Severity.WARNING, "accelerator_not_reset", kind, text)

    def _is_open(self, kind: str) -> bool:
        """Whether some worker may be at work on it."""
        return any(each.requires.accelerator == kind for each in self._held())

    def _is_taken(self, variant: Variant, error: EdgedError) -> bool:
        """Whether that is why a worker of `variant` did not come up: another has the one device that it could have."""
        return error.code is Code.DEVICE_UNAVAILABLE and any(excludes(variant, each) for each in self._held())

    def _held(self) -> Iterator[Variant]:
        """What workers may be at work on: those that serve, go, come up, or were lost and are still there."""
        for each in self._residency.known():
            yield from (lost.variant for lost in each.lost)
            yield from each.terms.memory.coming
            if each.ready and not each.steady:  # another takes its place
                yield from each.manifest.variants
            elif each.variant and (each.worker or each.resting):
                yield each.variant


def _serves(resident: Resident, variant: Variant) -> Worker | None:
    """The worker by which it serves, where that is of `variant` and stays."""
    return resident.worker if resident.steady and resident.variant is variant else None


def _told(kind: str, why: str) -> str:
    return f"accelerator {kind} has failed: {why}"
