"""Commands as they come from the broker: limited, verified in a child, remembered, carried out and answered.

An accepted command outlives the daemon: after a kill it is carried out again, which none of them minds, or answered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable

import msgspec

from edged import clock, log
from edged.errors import EdgedError
from edged.events import EventLog, Severity
from edged.intents import Done, Intent
from edged.telemetry.answers import Answers
from edged.telemetry.commands import MAX_BYTES, Context, RejectedError, Rejection, Verdict, intent_of
from edged.telemetry.messages import Result
from edged.telemetry.orders import MOST, Accepted, Order
from edged.telemetry.packet import Message
from edged.telemetry.recorder import NotKeptError, Recorder
from edged.telemetry.spool import Spool
from edged.telemetry.sync import Topics
from edged.telemetry.verifier import Verifier

_log = log.get("commands")

_CARRY_OUT_S = 300.0

_MAX_WAITING = 8
# A command under which edged ended so often is answered, and not begun again.
_MOST_RESUMED = 2

CarryOut = Callable[[Intent, Order], Awaitable[Done | None]]
"""Carries an intent out; None: whoever it was handed to answers later. Raises EdgedError, or RejectedError."""


class Commander:
    """Takes one command at a time."""

    def __init__(
        self,
        context: Callable[[], Awaitable[Context]],
        verifier: Verifier,
        topics: Topics,
        recorder: Recorder,
        answers: Answers,
        carry_out: CarryOut,
        events: EventLog,
    ) -> None:
        """`context` gives what commands are held against, now."""
        self.counted: Counter[str] = Counter()
        """Commands by what became of them: done, accepted, or the code of their rejection."""
        self._context = context
        self._verifier = verifier
        self._topics = topics
        self._recorder = recorder
        self._answers = answers
        self._carry_out = carry_out
        self._events = events
        self._waiting: deque[Message] = deque()
        self._came = asyncio.Event()
        self._resumed = False
        """Whether what was left when edged ended was taken up."""
        self._to_close: deque[Order] = deque(maxlen=MOST)
        """Answered while the spool took nothing: there they are open still."""

    def take(self, message: Message) -> None:
        """Takes what came. What comes while too many wait is counted, and not looked at."""
        if len(message.payload) > MAX_BYTES:
            self.counted[Rejection.TOO_LARGE] += 1
        elif len(self._waiting) >= _MAX_WAITING:
            self.counted[Rejection.RATE_LIMITED] += 1
        else:
            self._waiting.append(message)
            self._came.set()

    def spool_works(self) -> None:
        """The spool takes something: what it did not take before goes there now."""
        if self._to_close or not self._resumed:
            self._came.set()

    async def run(self) -> None:
        """Takes up what was left when edged ended, then obeys until it is cancelled."""
        while True:
            await self._catch_up()
            while self._waiting:
                await self._handle(self._waiting.popleft())
            await self._came.wait()
            self._came.clear()

    async def _catch_up(self) -> None:
        """Closes what was answered while the spool took nothing, then resumes what was open at the start; each once.

        Where the spool still takes nothing, the next row that it keeps begins anew.
        """
        with contextlib.suppress(NotKeptError):
            while self._to_close:
                order = self._to_close.popleft()
                try:
                    await self._recorder.do(_change, order)
                except NotKeptError:
                    self._to_close.appendleft(order)
                    raise
                self._answers.news()  # it may not have been told from memory yet
            if not self._resumed:
                found = await self._recorder.do(_open)
                self._resumed = True
                for order in found:
                    await self._resume(order)

    async def answer(self, nonce: str, result: Result) -> bool:
        """Answers an order that somebody else carried out; one that has ended is not answered again.

        False where the spool takes no answer now: then it is to be given again later.
        """
        try:
            order = next((each for each in await self._recorder.do(_open) if each.command.nonce == nonce), None)
            if order is not None and await self._recorder.do(_change, msgspec.structs.replace(order, answer=result)):
                self._count(order, result)
                self._answers.news()
        except NotKeptError:
            return False
        return True

    async def open_nonces(self) -> set[str] | None:
        """Those of orders that wait for an answer; None where the spool does not tell now."""
        try:
            return {order.command.nonce for order in await self._recorder.do(_open)}
        except NotKeptError:
            return None

    async def keep(self, order: Order) -> None:
        """Keeps what is new about an order."""
        with contextlib.suppress(NotKeptError):
            await self._recorder.do(_change, order)

    def say(self, order: Order, text: str) -> None:
        """Tells on the way that an order goes on."""
        self.counted["accepted"] += 1
        self._answers.say(self._result(order, "accepted", text=text), order.topics, order.correlation)

    async def _handle(self, message: Message) -> None:
        verdict = await self._verifier.verify(message.payload, await self._context_now())
        command = verdict.command
        if command is None:
            code = verdict.code or Rejection.NOT_VERIFIED
            if verdict.rejected and message.again and await self._is_known(verdict.rejected.nonce):
                self.counted[code] += 1  # its first delivery is answered
            else:
                self._refuse(message, verdict, code, verdict.text)
            return
        topics = [self._topics.of("result")]
        if self._is_ours(message.response_topic):  # nobody unknown says where to answer
            topics.append(message.response_topic)
        order = Order(
            command=command,
            operator=verdict.operator,
            envelope=message.payload,
            topics=tuple(topics),
            correlation=message.correlation,
        )
        await self._catch_up()
        try:
            intent = intent_of(command)
            await self._accept(order)
        except RejectedError as rejected:
            if rejected.code is Rejection.REPLAYED and message.again:  # its first delivery is answered
                self.counted[rejected.code] += 1
            else:
                self._refuse(message, verdict, rejected.code, rejected.text)
            return
        self.say(order, "")
        await self._obey(order, intent)

    async def _is_known(self, nonce: str) -> bool:
        """Whether a command of that nonce was accepted; False too where the spool does not tell now."""
        with contextlib.suppress(NotKeptError):
            return bool(await self._recorder.do(_knows, nonce))
        return False

    async def _context_now(self) -> Context:
        context, made_ms = await self._context(), 0
        with contextlib.suppress(NotKeptError):
            made_ms = await self._recorder.do(
                Spool.remembers_since_ms, context.now_ms, clock_synchronized=clock.synchronized()
            )
        return msgspec.structs.replace(context, made_ms=made_ms)

    async def _accept(self, order: Order) -> None:
        """Keeps it before anything is done. Raises RejectedError (replayed, not_remembered, rate_limited)."""
        try:
            accepted = await self._recorder.do(_accept, order, (await self._context()).now_ms)
        except NotKeptError as error:
            if not order.operator:  # nothing is changed by what nobody signed
                return
            text = f"a signed command is obeyed only when it can be remembered: {error}"
            raise RejectedError(Rejection.NOT_REMEMBERED, text) from error
        if accepted is Accepted.REPLAYED:
            text = f"nonce {order.command.nonce} was used before; sign the command anew"
            raise RejectedError(Rejection.REPLAYED, text)
        if accepted is Accepted.TOO_MANY:
            raise RejectedError(Rejection.RATE_LIMITED, "too many commands wait to be done; try again later")

    async def _resume(self, order: Order) -> None:
        """What had been accepted when edged ended, and not answered."""
        name = order.command.command
        order = msgspec.structs.replace(order, resumed=order.resumed + 1)
        if order.resumed > _MOST_RESUMED and not order.handed_on:  # another carries that out, and waits for its time
            text = f"edged ended {order.resumed} times while {name} was carried out"
            await self._fail(order, Rejection.FAILED, text)
        elif not order.handed_on and order.command.expires_ms <= (await self._context()).now_ms:
            await self._fail(order, Rejection.EXPIRED, f"edged ended before {name} was done, and it has expired since")
        else:
            await self.keep(order)
            try:
                intent = intent_of(order.command)
            except RejectedError as rejected:  # another release accepted it
                await self._fail(order, rejected.code, rejected.text)
            else:
                await self._obey(order, intent)

    async def _obey(self, order: Order, intent: Intent) -> None:
        name = order.command.command
        try:
            async with asyncio.timeout(_CARRY_OUT_S):
                done = await self._carry_out(intent, order)
        except RejectedError as rejected:
            await self._fail(order, rejected.code, rejected.text)
        except EdgedError as error:
            await self._fail(order, error.code, str(error))
        except TimeoutError:
            await self._fail(order, Rejection.FAILED, f"{name} was not done within {_CARRY_OUT_S:g} s")
        except Exception:  # noqa: BLE001 - logged; a defect costs this command and not those that follow
            _log.exception("a command met a defect of edged", command=name)
            await self._fail(order, Rejection.FAILED, "a defect of edged; its log says more")
        else:
            if done is not None:
                await self._close(order, self._result(order, "done", text=done.text, details=done.details))

    async def _fail(self, order: Order, code: str, text: str) -> None:
        await self._close(order, self._result(order, "rejected", code=code, text=text))

    async def _close(self, order: Order, result: Result) -> None:
        """Keeps the answer, and has it told; where it cannot be kept, it is told from memory, and kept later."""
        self._count(order, result)
        answered, kept = msgspec.structs.replace(order, answer=result), False
        try:
            kept = await self._recorder.do(_change, answered)
        except NotKeptError:
            self._to_close.append(answered)
        if kept:
            self._answers.news()
        else:
            self._answers.say(result, order.topics, order.correlation)

    def _count(self, order: Order, result: Result) -> None:
        """Says here what became of it."""
        self.counted[result.code or result.status] += 1
        name, by = order.command.command, order.operator or "nobody by name"
        if result.status == "done":
            text = f"{name} was commanded by {by}: {result.text or 'done'}"
            details = {"operator": order.operator, "nonce": order.command.nonce}
            self._events.record(Severity.INFO, "command_done", name, text, **details)
        else:
            _log.warning("a command was rejected", command=name, code=result.code, why=result.text)

    def _refuse(self, message: Message, verdict: Verdict, code: str, text: str) -> None:
        """What was never accepted."""
        self.counted[code] += 1
        _log.warning("a command was rejected", code=code, why=text)
        command = verdict.command or verdict.rejected
        result = Result(
            device=self._topics.device,
            nonce=command.nonce if command else "",
            command=command.command if command else "",
            operator=verdict.operator,
            status="rejected",
            code=code,
            text=text,
        )
        topics = [self._topics.of("result")]
        if command is not None and self._is_ours(message.response_topic):
            topics.append(message.response_topic)
        self._answers.say(result, topics, message.correlation)

    def _result(self, order: Order, status: str, **others: object) -> Result:
        known = {
            "device": self._topics.device,
            "nonce": order.command.nonce,
            "command": order.command.command,
            "operator": order.operator,
            "status": status,
        }
        return msgspec.convert({**known, **others}, Result)

    def _is_ours(self, topic: str) -> bool:
        """A device answers below its fleet's operators, and nowhere where others would take it for something else."""
        return topic.startswith(f"edged/1/{self._topics.fleet}/operators/") and not {"+", "#", "\0"} & set(topic)


def _accept(spool: Spool, order: Order, now_ms: int) -> Accepted:
    return spool.orders.accept(order, now_ms)


def _knows(spool: Spool, nonce: str) -> bool:
    return spool.orders.knows(nonce)


def _change(spool: Spool, order: Order) -> bool:
    return spool.orders.change(order)


def _open(spool: Spool) -> list[Order]:
    return [order for order in spool.orders.all() if order.answer is None]
