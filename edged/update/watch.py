"""Watches a revision that has begun to serve: outcomes and deaths in, one verdict out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from edged import clock
from edged.models.resident import Resident
from edged.models.states import State
from edged.types import Outcome
from edged.update.machine import Event, Happened, Record, Soaked
from edged.update.machine import State as Machine
from edged.update.outcomes import Outcomes
from edged.update.reasons import Reason
from edged.update.soak import Soak, Verdict

# Time alone changes a verdict too; it is looked at so often at least.
_LOOK_S = 1.0


class Watch:
    """One soak."""

    def __init__(self, resident: Resident, old: Record, state: Machine, least_s: float, outcomes: Outcomes) -> None:
        self._resident = resident
        self._outcomes = outcomes
        self._seen = resident.crashes
        rules, budget_s = resident.manifest.acceptance.soak, resident.manifest.acceptance.budgets.p99_ms / 1e3
        self._soak = Soak(
            rules,
            old,
            clock.monotonic(),
            crashes=state.crashes,
            least_s=least_s,
            budget_s=budget_s,
            before=state.soaked,
        )
        self._judged = asyncio.Event()

    def evidence(self) -> dict[str, Any]:
        """The numbers that the verdict rests on."""
        return self._soak.evidence()

    @property
    def soaked(self) -> Soaked:
        """What the soak has seen so far."""
        return self._soak.so_far(clock.monotonic())

    async def run(
        self, post: Callable[[Happened], None], *, allow_unproven: Callable[[], bool]
    ) -> tuple[Event, Reason | None, str]:
        """Waits for the verdict: which event it is, why, and in words. Each crash is posted, so that it is kept.

        Where nobody allows it to end unproven it goes on over its longest time, until it has seen enough.
        """
        self._outcomes.listen(self._resident.name, self._resident.revision, self._take)
        try:
            while True:
                now_s = clock.monotonic()
                while self._seen < self._resident.crashes:
                    self._seen += 1
                    self._soak.crashes += 1
                    post(Happened(Event.CRASHED, f"its worker ended: {self._resident.last_exit}"))
                self._soak.hangs = max(self._soak.hangs, self._resident.hangs)
                verdict, reason, text = self._soak.judge(now_s)
                if self._resident.state is State.FAILED:
                    return Event.FAILED, Reason.CRASH_LOOP, f"no variant runs any more: {self._resident.reason}"
                if verdict is Verdict.BAD:
                    return Event.FAILED, reason, text
                if verdict is Verdict.GOOD:
                    return Event.PASSED, None, text
                if self._soak.is_over(now_s):
                    if self._soak.proven:
                        return Event.PASSED, None, text
                    if allow_unproven():
                        return Event.UNPROVEN, None, f"too few requests to tell: {text}"
                self._judged.clear()
                await self._next()
        finally:
            self._outcomes.listen(self._resident.name, self._resident.revision, None)

    def _take(self, outcome: Outcome) -> None:
        self._soak.add(outcome, clock.monotonic())
        if not outcome.ok:
            self._judged.set()

    async def _next(self) -> None:
        """Waits for a failure, a change of the resident, or a second."""
        changes = self._resident.changes
        waits = [asyncio.create_task(self._judged.wait()), asyncio.create_task(changes.after(changes.count))]
        try:
            await asyncio.wait(waits, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
