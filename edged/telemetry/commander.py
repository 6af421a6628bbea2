"""Commands as they come from the broker: limited, verified in a child, remembered, carried out and answered."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from edged import clock, log
from edged.errors import EdgedError
from edged.events import EventLog, Severity
from edged.intents import Done, Intent
from edged.telemetry.commands import MAX_BYTES, Context, Rate, RejectedError, Rejection, Verdict, intent_of
from edged.telemetry.messages import Command, Result
from edged.telemetry.mqtt import Message, NotSentError
from edged.telemetry.recorder import NotKeptError, Recorder
from edged.telemetry.spool import Spool
from edged.telemetry.sync import JSON, Topics, Transport
from edged.telemetry.verify import Asked
from edged.worker.child import spawn

_log = log.get("commands")

_VERIFY_S = 10.0
_CARRY_OUT_S = 300.0
_MAX_VERDICT_BYTES = 128 * 1024
_MAX_RESULT_BYTES = 60 * 1024

_BURST = 10
_PER_MINUTE = 10.0
_MAX_WAITING = 8
# Answers that wait for a connection.
_MAX_ANSWERS = 32
_RESULT_EXPIRY_S = 86_400

CarryOut = Callable[[Intent], Awaitable[Done]]
"""Carries an intent out. Raises EdgedError; a `RejectedError` (unsupported) where this edged cannot."""


class Commander:
    """Takes one command at a time."""

    def __init__(
        self,
        context: Callable[[], Context],
        operators: Path,
        topics: Topics,
        recorder: Recorder,
        transport: Transport,
        carry_out: CarryOut,
        events: EventLog,
    ) -> None:
        """`context` gives what commands are held against, now; `operators` is the file that says who may command."""
        self.counted: Counter[str] = Counter()
        """Commands by what became of them: done, accepted, or the code of their rejection."""
        self._context = context
        self._operators = operators
        self._topics = topics
        self._recorder = recorder
        self._transport = transport
        self._carry_out = carry_out
        self._events = events
        self._rate = Rate(_BURST, _PER_MINUTE, clock.monotonic())
        self._waiting: deque[Message] = deque()
        self._came = asyncio.Event()
        self._answers: deque[Message] = deque(maxlen=_MAX_ANSWERS)
        self._answerable = asyncio.Event()

    def take(self, message: Message) -> None:
        """Takes what came. What comes faster than allowed is counted, and not looked at."""
        if len(message.payload) > MAX_BYTES:
            self.counted[Rejection.TOO_LARGE] += 1
        elif len(self._waiting) >= _MAX_WAITING or not self._rate.take(clock.monotonic()):
            self.counted[Rejection.RATE_LIMITED] += 1
        else:
            self._waiting.append(message)
            self._came.set()

    def connection_changed(self) -> None:
        """The connection came or went."""
        self._answerable.set()

    async def run(self) -> None:
        """Obeys until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._obey(), name="commands")
            tasks.create_task(self._answer(), name="answers")

    async def _obey(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            while self._waiting:
                await self._handle(self._waiting.popleft())

    async def _handle(self, message: Message) -> None:
        verdict = await self._verify(message.payload)
        command = verdict.command
        if command is None:
            self._reject(message, verdict, verdict.code or Rejection.NOT_VERIFIED, verdict.text)
            return
        try:
            intent = intent_of(command)
            await self._remember(command, verdict)
            self._say(message, verdict, "accepted")
            async with asyncio.timeout(_CARRY_OUT_S):
                done = await self._carry_out(intent)
        except RejectedError as rejected:
            self._reject(message, verdict, rejected.code, rejected.text)
        except EdgedError as error:
            self._reject(message, verdict, error.code, str(error))
        except TimeoutError:
            text = f"{command.command} was not done within {_CARRY_OUT_S:g} s"
            self._reject(message, verdict, Rejection.FAILED, text)
        except Exception:  # noqa: BLE001 - logged; a defect costs this command and not those that follow
            _log.exception("a command met a defect of edged", command=command.command)
            self._reject(message, verdict, Rejection.FAILED, "a defect of edged; its log says more")
        else:
            self._events.record(
                Severity.INFO,
                "command_done",
                command.command,
                f"{command.command} was commanded by {verdict.operator or 'nobody by name'}: {done.text or 'done'}",
                operator=verdict.operator,
                nonce=command.nonce,
            )
            self._say(message, verdict, "done", text=done.text, details=done.details)

    async def _verify(self, data: bytes) -> Verdict:
        """What the child says of a command."""
        made_ms = 0
        with contextlib.suppress(NotKeptError):
            made_ms = await self._recorder.do(_made_ms)
        context = msgspec.structs.replace(self._context(), made_ms=made_ms)
        asked = msgspec.json.encode(Asked(data, context, str(self._operators)))
        mine, other = socket.socketpair()
        with mine:
            mine.setblocking(False)
            with other:
                try:
                    child = spawn("edged.telemetry.verify", [str(other.fileno())], {}, [other.fileno()])
                except OSError as error:
                    return Verdict(code=Rejection.NOT_VERIFIED, text=f"no process could be made: {error.strerror}")
            try:
                async with asyncio.timeout(_VERIFY_S):
                    answer = await _exchange(mine, asked)
                return msgspec.json.decode(answer, type=Verdict)
            except (OSError, TimeoutError, msgspec.MsgspecError):
                ended = await child.stop(0)
                return Verdict(code=Rejection.NOT_VERIFIED, text=f"it could not be verified: {ended.text}")
            finally:
                await child.stop(_VERIFY_S)

    async def _remember(self, command: Command, verdict: Verdict) -> None:
        """Keeps the nonce before anything is done. Raises RejectedError (replayed, not_remembered)."""
        now_ms = self._context().now_ms
        try:
            new = await self._recorder.do(Spool.remember, command.nonce, command.expires_ms, now_ms)
        except NotKeptError as error:
            if not verdict.operator:  # nothing is changed by what nobody signed
                return
            text = f"a signed command is obeyed only when it can be remembered: {error}"
            raise RejectedError(Rejection.NOT_REMEMBERED, text) from error
        if not new:
            raise RejectedError(Rejection.REPLAYED, f"nonce {command.nonce} was used before; sign the command anew")

    def _reject(self, message: Message, verdict: Verdict, code: str, text: str) -> None:
        self.counted[code] += 1
        _log.warning("a command was rejected", code=code, why=text)
        self._say(message, verdict, "rejected", code=code, text=text)

    def _say(self, message: Message, verdict: Verdict, status: str, **others: object) -> None:
        if status != "rejected":
            self.counted[status] += 1
        command = verdict.command
        result = msgspec.convert(
            {
                "device": self._topics.device,
                "nonce": command.nonce if command else "",
                "command": command.command if command else "",
                "operator": verdict.operator,
                "status": status,
                **others,
            },
            Result,
        )
        payload = msgspec.json.encode(result)
        if len(payload) > _MAX_RESULT_BYTES:
            payload = msgspec.json.encode(msgspec.structs.replace(result, details={"left_out": "too large"}))
        topics = [self._topics.of("result")]
        if command is not None and self._is_ours(message.response_topic):  # nobody unknown says where to answer
            topics.append(message.response_topic)
        for topic in topics:
            self._answers.append(
                Message(
                    topic=topic,
                    payload=payload,
                    content_type=JSON,
                    expiry_s=_RESULT_EXPIRY_S,
                    correlation=message.correlation,
                )
            )
        self._answerable.set()

    def _is_ours(self, topic: str) -> bool:
        """A device answers below its fleet's operators, and nowhere where others would take it for something else."""
        return topic.startswith(f"edged/1/{self._topics.fleet}/operators/") and not {"+", "#", "\0"} & set(topic)

    async def _answer(self) -> None:
        while True:
            await self._answerable.wait()
            self._answerable.clear()
            while self._answers and self._transport.connected:
                try:
                    await self._transport.publish(self._answers[0])
                except NotSentError:
                    break
                self._answers.popleft()


def _made_ms(spool: Spool) -> int:
    return spool.made_ms


async def _exchange(link: socket.socket, asked: bytes) -> bytes:
    """Sends all of `asked`, and reads the answer to its end. Raises OSError."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(link, asked)
    link.shutdown(socket.SHUT_WR)
    answer = b""
    while part := await loop.sock_recv(link, 65536):
        answer += part
        if len(answer) > _MAX_VERDICT_BYTES:
            raise OSError("the child says too much")
    return answer
