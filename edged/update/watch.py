"""Watches a revision that has begun to serve: outcomes and deaths in, one verdict out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from edged import clock
from edged.errors import EdgedError
from edged.models import restarts
from edged.models.resident import Resident
from edged.models.states import State
from edged.types import Outcome
from edged.update.machine import Event, Record, Soaked
from edged.update.machine import State as Machine
from edged.update.outcomes import Outcomes
from edged.update.reasons import Reason
from edged.update.soak import Soak, Verdict

# So long after an answer it is judged anew, for all that have come by then; nor does time have it judged more often.
_LOOK_S = 1.0

# Where nothing happens it is judged so often: the plan may let it end unproven by now.
_QUIET_S = 15.0

# A soak whose longest time is over is given up where no worker could be started for so long, by the device's fault.
_SHORT_S = 60.0


class Watch:
    """One soak."""

    def __init__(self, resident: Resident, old: Record, state: Machine, least_s: float, outcomes: Outcomes) -> None:
        self._resident = resident
        self._outcomes = outcomes
        rules, budget_s = resident.manifest.acceptance.soak, resident.manifest.acceptance.budgets.p99_ms / 1e3
        self._soak = Soak(
            rules,
            old,
            clock.monotonic(),
            least_s=least_s,
            budget_s=budget_s,
            before=state.soaked,
        )
        self._loop = asyncio.get_running_loop()
        self._judges = asyncio.Event()
        """Set when it is to be judged anew."""
        self._short_since_s: float | None = None
        """None: it is not."""
        self._timer: asyncio.TimerHandle | None = None

    def evidence(self) -> dict[str, Any]:
        """The numbers that the verdict rests on."""
        return self._soak.evidence()

    @property
    def soaked(self) -> Soaked:
        """What the soak has seen so far."""
        return self._soak.so_far(clock.monotonic())

    async def run(
        self, ends: Callable[[], tuple[int, int]], *, allow_unproven: Callable[[], bool]
    ) -> tuple[Event, Reason | None, str]:
        """Waits for the verdict: which event it is, why, and in words. `ends`: the crashes and hangs of its workers.

        Where nobody allows it to end unproven it goes on over its longest time, until it has seen enough. What does not
        answer is not committed: where the device can start no worker it goes back then, to what was warm beside it and
        may have taken the room.
        """
        self._outcomes.listen(self._resident.name, self._resident.revision, self._take)
        try:
            while True:
                now_s = clock.monotonic()
                self._soak.crashes, hangs = ends()
                self._soak.hangs = max(self._soak.hangs, hangs)
                verdict, reason, text = self._soak.judge(now_s)
                if self._resident.state is State.FAILED:
                    return Event.FAILED, Reason.CRASH_LOOP, f"no variant runs any more: {self._resident.reason}"
                if verdict is Verdict.BAD:
                    return Event.FAILED, reason, text
                up, over = self._resident.ready or self._resident.resting, self._soak.is_over(now_s)
                if up and (verdict is Verdict.GOOD or (over and self._soak.proven)):
                    return Event.PASSED, None, text
                if up and over and allow_unproven():
                    return Event.UNPROVEN, None, f"too few requests to tell: {text}"
                if (short := self._short(now_s)) is not None and over:
                    found = f"no worker can be started for it here: {short.message}"
                    return Event.FAILED, Reason.INCOMPATIBLE_HARDWARE, found
                self._forget_timer()
                self._judges.clear()
                await self._next(min(max(self._soak.waits_s(now_s), _LOOK_S), _QUIET_S))
        finally:
            self._forget_timer()
            self._outcomes.listen(self._resident.name, self._resident.revision, None)

    def _short(self, now_s: float) -> EdgedError | None:
        """What the device has lacked for a while to start a worker; None where one is up, may come up, or ended."""
        resident, why = self._resident, self._resident.trouble
        if not (resident.loading and resident.settled) or why is None or restarts.is_end(why):
            self._short_since_s = None
            return None
        self._short_since_s = now_s if self._short_since_s is None else self._short_since_s
        if resident.terms.memory.is_coming(resident.manifest):  # this time there was room
            return None
        return why if now_s - self._short_since_s >= _SHORT_S else None

    def _take(self, outcome: Outcome) -> None:
        self._soak.add(outcome, clock.monotonic())
        if not outcome.ok:
            self._judges.set()
        elif self._timer is None:
            self._timer = self._loop.call_later(_LOOK_S, self._judges.set)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _next(self, longest_s: float) -> None:
        """Waits for a failure, a while after an answer, a change of the resident, or so long."""
        changes = self._resident.changes
        waits = [asyncio.create_task(self._judges.wait()), asyncio.create_task(changes.after(changes.count))]
        try:
            await asyncio.wait(waits, timeout=longest_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
