"""One model's update, carried out: each event is stepped, journaled, and its effects performed."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from edged import clock, log
from edged.errors import EdgedError
from edged.events import Severity
from edged.update import policy, trial
from edged.update.blame import PutOff, judge, quarantined
from edged.update.machine import (
    OUTLIVED_S,
    RUNS,
    Effect,
    Event,
    Happened,
    Phase,
    Soaked,
    State,
    step,
)
from edged.update.reasons import Reason
from edged.update.records import Committed, Transition
from edged.update.said import Awaits, Said, Stage, Terms, deferred, said
from edged.update.shop import Shop
from edged.update.stages import Stages

_log = log.get("update")

# What stands in the way without being the model's fault, as a journal that cannot be written, is looked at again then;
# what still does twice as late each time, since each time is rows of the journal, and where two revisions are to change
# places has requests wait.
_PAUSE_S = 15.0
_LONGEST_PAUSE_S = 3600.0

# A soak that was paused is behind its hour by as much, and is asked again no sooner.
_LEFT_S = 60.0

# So long somebody who asked waits until a course has taken that in.
_HEARD_S = 5.0

# What no start needs to know: nothing is given up, and nothing waits, because it could not be kept.
_FORGETTABLE = (Event.DEFERRED, Event.RESUMED, Event.LASTED)

# What stands in the way still does, for all that these say; that two revisions are to change places is kept, though.
_NO_NEWS = (*_FORGETTABLE, Event.SWAPS)

# Neither takes back what changed places: one begins it, the other ends it; before a start nothing had been begun.
_SWAPPING = (Event.SWAPS, Event.SWAPPED, Event.STARTED)


class Course:
    """One model's update. Everything that happens to it passes through one queue, one thing after the other."""

    def __init__(self, state: State, shop: Shop, terms: Terms) -> None:
        self.state = state
        self.floor = 1
        self.text = ""
        """What happened last, in words."""
        self.put_off = PutOff()
        self.stages = Stages(shop, terms, self.post)
        self._shop = shop
        self._terms = terms
        self._said: asyncio.Queue[tuple[Said | None, int]] = asyncio.Queue()
        """None: what it may wait for has changed."""
        self._work: asyncio.Task[None] | None = None
        self._turn = 0
        """Counts pieces of work, so that what a given up one says is not heard."""
        self._awaits: Awaits | None = None
        self._pause_s = _PAUSE_S
        self._ending: set[asyncio.Task[None]] = set()
        self._recorded: State | None = state
        """What the journal says; None while that changes."""
        self._owed: list[tuple[State, State, Said]] = []
        """What happened and could not be kept, as that the route flipped back: what is written first, in this order.

        No more than a soak's crashes and its end: what comes after is not begun before that.
        """
        self._waits: Said | None = None
        """What was said, and could not be kept, and is not begun before it is."""
        self._timer: asyncio.TimerHandle | None = None
        self._unkept = ""
        """Why the last step could not be kept, as it was told; empty where it was."""

    def post(self, happened: Happened) -> None:
        """Something happened outside."""
        self._said.put_nowait((Said(happened), 0))

    def look_again(self) -> None:
        """What pauses it, or keeps its route from flipping, may be another thing by now, or nothing."""
        self._said.put_nowait((None, 0))

    def hurry(self) -> None:
        """Somebody asks who may have mended what stood in the way: what was to be tried again later is tried now."""
        self.stages.hurry()
        if self._waits is not None:
            self._said.put_nowait((self._waits, self._turn))
        elif self.state.deferred and self._awaits is Awaits.TIME:
            self._pause_s = _PAUSE_S
            self.post(Happened(Event.RESUMED, "somebody asked"))

    def fetch_anew(self) -> None:
        """What is being fetched comes from another repository now."""
        if self.state.phase is Phase.FETCHING:
            self.post(Happened(Event.RESUMED, "it comes from another repository now"))

    async def heard(self) -> None:
        """Waits until what was posted has been taken in, unless that takes long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_HEARD_S):
                await self._said.join()

    async def run(self) -> None:
        """Goes on until it is cancelled."""
        self._time(policy.SURVIVED_S)
        unknowing = 0
        try:
            while True:
                found, turn = await self._said.get()
                unknowing = max(0, unknowing - 1)
                try:
                    if self._owed:
                        with contextlib.suppress(EdgedError):  # the next look is soon
                            await self._pay()
                        unknowing = self._said.qsize() + 1  # what was said until now was, before that could be read
                    if unknowing and found is not None and found.happened.event is Event.WANTED:
                        continue  # by somebody who could not know what was owed: it is looked at again
                    if turn in (0, self._turn) and (found := found or self._changed()) is not None:
                        await self._advance(found)
                finally:
                    self._said.task_done()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            soaked = self.stages.soaked
            await self._stop_work()
            await self.leave(soaked)
            for task in self._ending:
                task.cancel()
            await asyncio.gather(*self._ending, return_exceptions=True)

    async def count_start(self) -> None:
        """Keeps, before it is loaded, that a revision goes on soaking: this device may not survive that."""
        old, found = self.state, said(Event.STARTED)
        if old.phase is Phase.SOAKING and not policy.crash_loop(old):
            new, _ = step(old, found.happened)
            try:
                await self._record(old, new, found)
            except EdgedError:
                return  # it is counted once it is loaded
            except asyncio.CancelledError:
                await self.leave()
                raise
            self.state = new

    async def leave(self, soaked: Soaked | None = None) -> None:
        """Keeps that this life ends as it should, beside whatever was being written then."""
        ledger = self._shop.ledger
        with contextlib.suppress(EdgedError):  # the next start takes it for one after a crash
            if self._recorded is None and not self._owed:  # what was being written is by now, or never will be
                self.state = self._recorded = (await ledger.do(ledger.journal.states)).get(self.state.model, self.state)
            found = Said(Happened(Event.STOPPED, soaked=soaked))
            new, _ = step(self.state, found.happened)
            if self._recorded is not None:
                await self._pay()
                if new != self.state:
                    await self._record(self.state, new, found)

    def _time(self, delay_s: float) -> None:
        """Has what runs be told of as having lasted, in a while and then now and again."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._lasted) if self.state.phase in RUNS else None

    def _lasted(self) -> None:
        self.post(Happened(Event.LASTED))
        soaked = self.stages.soaked or self.state.soaked
        left_s = OUTLIVED_S - (soaked.lasted_s - self.state.outlived.lasted_s)
        self._time(max(left_s, _LEFT_S) if left_s > 0 else OUTLIVED_S)

    def _seen(self, happened: Happened) -> Happened:
        """The event, with how what serves has done, and its soak."""
        serving = self.state.serving
        record = self._shop.outcomes.record(self.state.model, serving.revision) if serving else None
        return msgspec.structs.replace(happened, soaked=self.stages.soaked, record=record)

    def _fell_back(self, new: State) -> bool:
        """Whether a start chose otherwise than the journal says, which is kept like anything that is decided."""
        return self._recorded is not None and self._recorded.serving is not None and new != self._recorded

    def _changed(self) -> Said | None:
        """What follows for what is under way from how things are now."""
        state = self.state
        if self._waits is not None:
            return None  # for the journal alone; what it begins may rest then
        if why := self._terms.paused(state.phase):
            ended = self._work is not None and self._work.done()  # what it said comes next, and the one after it rests
            return None if ended or why == state.deferred else deferred(why, Awaits.PRESSURE)
        shut = self._awaits is Awaits.GATE and self._terms.gate(state.model)
        return None if not state.deferred or shut or self._awaits is Awaits.TIME else said(Event.RESUMED)

    async def _advance(self, found: Said) -> None:
        old, starts = self.state, found.happened.event is Event.STARTED
        if starts and (why := policy.crash_loop(old)):
            found = said(Event.FAILED, why, Reason.CRASH_LOOP)
        new, effects = step(old, self._seen(found.happened))
        flips = Effect.FLIP in effects and found.happened.event is not Event.SWAPPED
        if flips and (why := self._terms.gate(old.model)):  # which has been shut since the stage asked
            found = deferred(why, Awaits.GATE)
            new, effects = step(old, found.happened)
        if new == old and not effects and not (starts and self._fell_back(new)):
            return
        if effects or new.phase is not old.phase:
            await self._stop_work()
            if old.swaps and old.phase is Phase.TRIAL and found.happened.event not in _SWAPPING:
                await self.stages.swap_back(old)  # what has changed places already was not heard
        if Effect.FLIP_BACK in effects and new.serving is not None:
            # No caller waits for a disk: until the row below is written, a start finds the soak and goes on with it.
            await self.stages.flip_back(old, new.serving)
        try:
            await self._journal(old, new, found)
        except EdgedError as error:
            self._tell_unkept(error)
            event = found.happened.event
            goes_on = starts and old.phase in (Phase.IDLE, Phase.SOAKING)
            if Effect.FLIP_BACK in effects or event is Event.CRASHED or goes_on:  # it has happened, whatever is kept
                self._owed.append((old, new, found))
            elif event not in _FORGETTABLE:
                if event is Event.SWAPPED:  # what cannot be kept is not begun, and requests wait
                    await self.stages.swap_back(old)
                    found = said(Event.RESUMED)
                self.state, self._awaits = msgspec.structs.replace(old, deferred=str(error)), Awaits.TIME
                self._shop.changes.mark()
                self._begin(_after_pause(found))
                self._waits = found
                return
        self.state = new
        if found.happened.event is not Event.LASTED:  # which says nothing of why
            self.text = found.happened.text
        self.put_off.add(old, found)
        self._shop.changes.mark()
        if found is self._waits:
            self._waits = None
        if new.phase is not old.phase:
            self._time(policy.SURVIVED_S)
        if found.happened.event not in _NO_NEWS:
            self._pause_s = _PAUSE_S
        for effect in effects:
            await self._perform(effect, old)
        if effects:
            self._awaits = found.awaits
        if found.awaits is Awaits.PRESSURE and new.phase is Phase.SOAKING:
            self._begin(self.stages.rest)
        if found.awaits is Awaits.TIME:
            again = (said(Event.RESUMED), self._turn)
            asyncio.get_running_loop().call_later(self._pause_s, self._said.put_nowait, again)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _tell_unkept(self, error: EdgedError) -> None:
        """Once, until something is kept again."""
        if str(error) != self._unkept:
            self._unkept = str(error)
            self._shop.events.record(Severity.ERROR, error.code, self.state.model, str(error))

    async def _pay(self) -> None:
        """Keeps what could not be kept before. Raises EdgedError."""
        while self._owed:
            await self._record(*self._owed[0])
            self._owed.pop(0)

    async def _journal(self, old: State, new: State, found: Said) -> None:
        """Raises EdgedError."""
        await self._pay()
        await self._record(old, new, found)

    async def _record(self, old: State, new: State, found: Said) -> None:
        happened, shop = found.happened, self._shop
        held = await quarantined(old, found, shop.library, shop.environment, self.stages.manifest, clock.wall())
        committed = self._committed(new)
        about = old.target or new.target or happened.target or new.serving
        transition = Transition(
            at=clock.wall(),
            model=new.model,
            revision=about.revision if about else 0,
            before=old.phase,
            event=happened.event,
            after=new.phase,
            cause=new.cause or old.cause,
            reason=happened.reason or "",
            text=happened.text,
            evidence=dict(found.evidence),
        )
        before, self._recorded = self._recorded, None
        try:
            await shop.ledger.do(shop.ledger.journal.record, new, transition, held, committed)
        except EdgedError:
            self._recorded = before
            raise
        self._recorded, self._unkept = new, ""
        severity = Severity.WARNING if happened.reason else Severity.INFO
        text = f"{old.phase} → {new.phase}" + (f": {happened.text}" if happened.text else "")
        details = {**found.evidence, "revision": transition.revision}
        shop.events.record(severity, happened.reason or f"update_{happened.event}", new.model, text, **details)

    def _committed(self, new: State) -> Committed | None:
        if new.phase is not Phase.COMMITTED or new.serving is None:
            return None
        resident = self.stages.resident(new.model, new.serving)
        self.floor = max(self.floor, resident.manifest.min_revision if resident else 1)
        return Committed(model=new.model, serving=new.serving, previous=new.previous, floor=self.floor)

    async def _perform(self, effect: Effect, old: State) -> None:
        model, target = old.model, old.target
        match effect:
            case Effect.DISCARD if target is not None:
                # Rubbish, which the next collection finds; EdgedError: a name under which nothing was fetched.
                with contextlib.suppress(OSError, EdgedError):
                    await asyncio.to_thread(self._shop.library.store.discard_staging, model, target.revision)
            case Effect.END_TRIAL if target is not None and target != self.state.serving:
                end = self.stages.end_trial(model, target.revision, self.state.serving)
                task = asyncio.create_task(end, name=f"end of a trial of {model}")
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)
            case Effect.FLIP:
                await self.stages.flip_over(self.state)
            case Effect.FLIP_BACK | Effect.PAUSE | Effect.DISCARD | Effect.END_TRIAL:
                pass  # done before the journal; the work has been stopped; there is nothing to do it to
            case _:
                self._begin(self._in_turn(self.stages.of(effect)))

    def _in_turn(self, stage: Stage) -> Stage:
        """A stage that waits for what is still ending, and says so where it is to rest."""

        async def begin(state: State) -> Said:
            if self._ending:  # which may be the trial of the very revision that is wanted anew, or tried anew
                await asyncio.wait(self._ending)
            why = self._terms.paused(state.phase)
            return deferred(why, Awaits.PRESSURE) if why else await stage(state)

        return begin

    def _begin(self, stage: Stage) -> None:
        self._turn += 1
        name = f"update of {self.state.model}: {self.state.phase}"
        self._work = asyncio.create_task(self._carry_out(stage, self.state, self._turn), name=name)

    async def _carry_out(self, stage: Stage, state: State, turn: int) -> None:
        """What goes wrong in a stage becomes an event too; a defect of edged is no model's fault."""
        try:
            found = await stage(state)
        except trial.FailedError as error:
            found = Said(Happened(Event.FAILED, error.text, error.reason), variant=error.variant)
        except (EdgedError, OSError) as error:
            found = judge(state.phase, error)
        except Exception as error:  # noqa: BLE001 - logged; the update waits, and serving goes on
            _log.exception("an update met a defect of edged", model=state.model, phase=state.phase)
            found = deferred(f"a defect of edged: {error}; its log says more", Awaits.TIME)
        self._said.put_nowait((found, turn))

    async def _stop_work(self) -> None:
        """What is under way ends, and what it may have said already is not heard."""
        work, self._work, self._waits = self._work, None, None
        self._turn += 1
        if work is not None:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


def _after_pause(found: Said) -> Stage:
    async def wait(_: State) -> Said:
        await asyncio.sleep(_PAUSE_S)
        return found

    return wait
