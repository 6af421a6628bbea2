"""Commands for the operating system: handed on as they came, still signed, to the helper that may carry them out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from edged import clock, log
from edged.events import EventLog, Severity
from edged.intents import Done, Intent, OsStatus
from edged.system.os_requests import OsRequests, OsResult
from edged.telemetry.commands import RejectedError, Rejection
from edged.telemetry.messages import Result
from edged.telemetry.orders import Order

_log = log.get("commands")

# How long the helper may take to begin: after a start it waits for greenboot's verdict, as `outcome` does. While it has
# an order in hand, as during a download of hours, it takes no other.
_TAKEN_S = 900.0
# How long a request that it took may go unanswered, how often is looked.
_LONGEST_MS = 8 * 86_400_000
_LOOK_S = 1.0
_LOOK_SLOWLY_S = 15.0
# A device that restarts for an upgrade is up again with another result, or has not gone down: then it is looked rarely.
_BRISKLY_S = 120.0

_REFUSALS = frozenset(Rejection)


class _Pending(msgspec.Struct):
    order: Order
    since_s: float
    taken: bool = False
    told_ms: int = 0
    answer: Result | None = None
    """What became of it, while nobody could keep that."""


class OsDesk:
    """What was handed on, and not answered yet."""

    def __init__(
        self,
        requests: OsRequests,
        say: Callable[[Order, str], None],
        answer: Callable[[str, Result], Awaitable[bool]],
        keep: Callable[[Order], Awaitable[None]],
        open_nonces: Callable[[], Awaitable[set[str] | None]],
        events: EventLog,
        device: str,
    ) -> None:
        """`say` tells that an order goes on, `answer` what became of it, False: not now; `keep` keeps that it was
        handed on.

        `open_nonces` are those of orders that wait for an answer; None: it is not known now.
        """
        self._requests = requests
        self._say = say
        self._answer = answer
        self._keep = keep
        self._open_nonces = open_nonces
        self._events = events
        self._device = device
        self._pending: dict[str, _Pending] = {}
        self._came = asyncio.Event()
        self._busy_s = clock.monotonic()
        """When an order was last seen in the helper's hands."""

    async def carry_out(self, intent: Intent, order: Order) -> Done | None:
        """Hands a command on; what runs now is known without. Raises RejectedError (unsupported, failed)."""
        if isinstance(intent, OsStatus):
            status = await asyncio.to_thread(self._requests.status)
            if status is None:
                text = "nobody has told in this boot what the operating system is; is edged-os.timer enabled here?"
                raise RejectedError(Rejection.UNSUPPORTED, text)
            return Done("", msgspec.to_builtins(status))
        nonce = order.command.nonce
        known = await asyncio.to_thread(self._requests.result, nonce)
        if known is None and not order.handed_on:
            try:
                await asyncio.to_thread(self._requests.make_folders)
                await asyncio.to_thread(self._requests.drop, nonce, order.envelope)
            except (OSError, OverflowError) as error:
                text = f"the command cannot be handed to the operating system: {error}"
                raise RejectedError(Rejection.FAILED, text) from error
            order = msgspec.structs.replace(order, handed_on=True)
            await self._keep(order)
        self._pending[nonce] = _Pending(order, clock.monotonic())
        self._came.set()
        return None

    async def run(self) -> None:
        """Looks for results while any is due."""
        tidy = False
        while True:
            tidy = tidy or await self._tidy()
            if not self._pending and tidy:
                self._came.clear()
                await self._came.wait()
            if any(each.taken and each.answer is None for each in self._pending.values()):
                self._busy_s = clock.monotonic()
            for nonce, pending in list(self._pending.items()):
                try:
                    await self._look(nonce, pending)
                except OSError as error:
                    _log.warning("what the operating system was asked cannot be looked after", why=str(error))
            newest_s = max((each.since_s for each in self._pending.values()), default=-_BRISKLY_S)
            brisk = clock.monotonic() - newest_s < _BRISKLY_S
            await asyncio.sleep(_LOOK_S if brisk else _LOOK_SLOWLY_S)

    async def _tidy(self) -> bool:
        """Results of orders that nobody remembers, since the spool was made anew, are told as events.

        False where it is not known which are remembered: then all of them stay until it is.
        """
        try:
            found = await asyncio.to_thread(self._requests.answered)
            known = await self._open_nonces()
            if known is None:
                return False
            for result in found:
                old = clock.wall_ms() > result.at_ms + _LONGEST_MS
                if result.nonce in known or (result.status == "accepted" and not old):
                    continue
                severity = Severity.INFO if result.status == "done" else Severity.WARNING
                text = result.text or result.status
                self._events.record(severity, "os_result", result.command, text, nonce=result.nonce)
                await asyncio.to_thread(self._requests.forget, result.nonce)
        except OSError as error:
            _log.warning("results of the operating system cannot be looked through", why=str(error))
        return True

    async def _look(self, nonce: str, pending: _Pending) -> None:
        if pending.answer is not None:
            await self._end(nonce, pending.answer)
            return
        result = await asyncio.to_thread(self._requests.result, nonce)
        if result is not None:
            pending.taken = True
            if result.status != "accepted":
                await self._end(nonce, _as_answer(result, pending.order, self._device))
                return
            if result.at_ms != pending.told_ms:
                pending.told_ms = result.at_ms
                self._say(pending.order, result.text)
        elif not pending.taken and clock.monotonic() - max(pending.since_s, self._busy_s) >= _TAKEN_S:
            if await asyncio.to_thread(self._requests.withdraw, nonce):
                text = f"nobody took it within {_TAKEN_S:g} s; is edged-os.path enabled here?"
                await self._end(nonce, self._failed(pending.order, Rejection.UNSUPPORTED, text))
                return
            pending.taken = True
        if clock.wall_ms() > pending.order.command.expires_ms + _LONGEST_MS:
            text = "the operating system's helper took it, and never said what became of it"
            await self._end(nonce, self._failed(pending.order, Rejection.FAILED, text))

    async def _end(self, nonce: str, answer: Result) -> None:
        """Once the answer is kept, what it was made of may go; until then the next look tries again."""
        if not await self._answer(nonce, answer):
            self._pending[nonce].answer = answer
            return
        del self._pending[nonce]
        await asyncio.to_thread(self._requests.forget, nonce)

    def _failed(self, order: Order, code: Rejection, text: str) -> Result:
        command = order.command
        return Result(
            device=self._device,
            nonce=command.nonce,
            command=command.command,
            operator=order.operator,
            status="rejected",
            code=code,
            text=text,
        )


def _as_answer(result: OsResult, order: Order, device: str) -> Result:
    refused = result.status == "refused"
    code = result.code if result.code in _REFUSALS else Rejection.FAILED.value
    return Result(
        device=device,
        nonce=result.nonce,
        command=order.command.command,
        operator=order.operator,
        status="rejected" if refused else "done",
        code=code if refused else "",
        text=result.text,
        details=result.details,
    )
