"""What waits in the spool goes to the broker, and leaves the spool when somebody has it. Then, and only then."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Protocol

import msgspec
import zstandard

from edged import clock
from edged.telemetry import again
from edged.telemetry.messages import Online, State
from edged.telemetry.packet import NO_SUBSCRIBER, REFUSED, TOO_LARGE, Message, NotSentError
from edged.telemetry.recorder import NotKeptError, Recorder
from edged.telemetry.spool import Outgoing, Spool

JSON = "application/json"

# States are told at most this often.
_STATE_S = 5.0
_BATCH = 8

_COMPRESSOR = zstandard.ZstdCompressor(level=19)


class Topics(msgspec.Struct, frozen=True):
    """The topics of one device."""

    fleet: str
    device: str
    hardware_class: str

    def of(self, name: str) -> str:
        """One that the device writes: online, state, telemetry, event or result."""
        return f"edged/1/{self.fleet}/devices/{self.device}/{name}"

    @property
    def commands(self) -> tuple[str, ...]:
        """Those that it reads."""
        fleet = f"edged/1/{self.fleet}"
        return (
            f"{fleet}/devices/{self.device}/command",
            f"{fleet}/classes/{self.hardware_class}/command",
            f"{fleet}/command",
        )


class Transport(Protocol):
    """A connection, as `Mqtt` is one."""

    connected: bool
    session: str

    def publish(self, message: Message) -> asyncio.Future[int]:
        """Sends a message; resolves to its reason code, or raises NotSentError."""
        ...


def will(session: str) -> bytes:
    """What the broker tells when the connection of `session` is lost."""
    return msgspec.json.encode(Online(online=False, session=session))


class Sync:
    """Hands rows on, the newest state first."""

    def __init__(
        self,
        recorder: Recorder,
        transport: Transport,
        topics: Topics,
        state: Callable[[], State],
        *,
        rows_per_minute: float,
        jitter_s: float,
        coarse: bool,
    ) -> None:
        self.sent = 0
        self.last_sent_ms = 0
        self.problem = ""
        """Why rows stay though there is a connection, for people."""
        self._recorder = recorder
        self._transport = transport
        self._topics = topics
        self._state = state
        self._pause_s = 60 / rows_per_minute
        self._jitter_s = jitter_s
        self._coarse = coarse
        self._news = asyncio.Event()
        self._changed = asyncio.Event()
        self._again = again.Again(self._changed.set)
        """For a state that the broker refused."""
        self._reports = 0
        """How often everything was asked for."""
        self._everything = False
        self._fine = False

    def apply(self, rows_per_minute: float, jitter_s: float, *, coarse: bool) -> None:
        """These hold from now on."""
        self._pause_s, self._jitter_s, self._coarse = 60 / rows_per_minute, jitter_s, coarse
        self._news.set()

    def connection_changed(self) -> None:
        """The connection came or went."""
        self._news.set()
        self._changed.set()

    def state_changed(self) -> None:
        """The state is to be told again."""
        self._changed.set()

    def rows_came(self) -> None:
        """There is something new in the spool."""
        self._news.set()

    def report(self, *, fine: bool) -> None:
        """Sends what there is now; `fine`: as the windows were closed."""
        self._reports += 1
        self._everything, self._fine = True, self._fine or fine
        self._news.set()

    async def run(self) -> None:
        """Sends until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tell_state(), name="state")
                tasks.create_task(self._send_rows(), name="rows")
        finally:
            self._again.reset()

    async def _tell_state(self) -> None:
        session, sequence = "", 0
        told: State | None = None
        while True:
            await self._changed.wait()
            self._changed.clear()
            if not self._transport.connected:
                continue
            try:
                if session != self._transport.session:
                    session, told = self._transport.session, None
                    online = msgspec.json.encode(Online(online=True, session=session))
                    await self._publish(Message(topic=self._topics.of("online"), payload=online, retain=True))
                state = self._state()
                with contextlib.suppress(NotKeptError):
                    standing = await self._recorder.do(Spool.standing)
                    state = msgspec.structs.replace(state, epoch=standing.epoch)
                    sequence = standing.sequence
                if state != told:  # that there is one more window is no news of its own
                    payload = msgspec.json.encode(msgspec.structs.replace(state, sequence=sequence))
                    code = await self._publish(Message(topic=self._topics.of("state"), payload=payload, retain=True))
                    if code < REFUSED:
                        told = state
                        self._again.reset()
                    else:  # a quota of the broker's, or an ACL that somebody will set right
                        self._again.later()
            except NotSentError:  # the next connection begins anew
                continue
            await asyncio.sleep(_STATE_S)

    async def _publish(self, message: Message) -> int:
        return await self._transport.publish(msgspec.structs.replace(message, content_type=JSON))

    async def _send_rows(self) -> None:
        session, again_s = "", again.LEAST_S
        while True:
            await self._news.wait()
            self._news.clear()
            if not self._transport.connected:
                continue
            if session != self._transport.session:
                session = self._transport.session
                await asyncio.sleep(random.uniform(0, self._jitter_s))  # noqa: S311 - spreads a fleet
            reports = self._reports
            try:
                while await self._send_some():
                    again_s = again.LEAST_S
            except (NotSentError, NotKeptError):  # the next connection, or the next row that is kept, begins anew
                continue
            if self.problem:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(again_s * random.uniform(0.5, 1.0)):  # noqa: S311 - spreads a fleet
                        await self._other_session_or_report(session, reports)
                # Whoever asks for a report listens now, or soon.
                again_s = min(again_s * 2, again.MOST_S) if self._reports == reports else again.LEAST_S
                self.problem = ""
                self._news.set()

    async def _other_session_or_report(self, session: str, reports: int) -> None:
        while (self._transport.session, self._reports) == (session, reports):
            await self._news.wait()
            self._news.clear()

    async def _send_some(self) -> bool:
        """Sends a few rows; whether there may be more that the broker would have. Raises NotSentError, NotKeptError."""
        everything, fine = self._everything, self._fine
        rows = await self._recorder.do(Spool.take, _BATCH, coarse=self._coarse and not fine, all_now=everything)
        if not rows:  # all is sent that was asked for by then; more may have been asked for meanwhile
            self._everything = self._everything and not everything
            self._fine = self._fine and not fine
            return False
        taken: list[int] = []
        too_large: list[Outgoing] = []
        try:
            for row in rows:
                began_s = clock.monotonic()
                code = await self._transport.publish(as_message(self._topics, row))
                if code == TOO_LARGE:  # else it would be the first for ever; the connection has told of it
                    too_large.append(row)
                    continue
                if code >= REFUSED or code == NO_SUBSCRIBER:
                    nobody = "nobody listens to it" if code == NO_SUBSCRIBER else f"its reason is 0x{code:02x}"
                    self.problem = f"the broker does not have {self._topics.of(_topic(row))}: {nobody}"
                    return False
                taken.append(row.last)
                self.sent += 1
                self.last_sent_ms = int(clock.wall().timestamp() * 1000)
                pause_s = self._pause_s * random.uniform(0.5, 1.5)  # noqa: S311 - spreads a fleet
                await asyncio.sleep(max(pause_s - (clock.monotonic() - began_s), 0))
        finally:
            if taken:
                await self._recorder.do(Spool.acknowledge, taken)
            if too_large:
                await self._recorder.do(Spool.give_up, too_large)
        return True


def as_message(topics: Topics, row: Outgoing) -> Message:
    """A row as it goes out: windows compressed, events as they are."""
    topic = topics.of(_topic(row))
    if row.kind == "event":
        return Message(topic=topic, payload=row.payload, content_type=JSON)
    return Message(topic=topic, payload=_COMPRESSOR.compress(row.payload), content_type=JSON, content_encoding="zstd")


def _topic(row: Outgoing) -> str:
    return "event" if row.kind == "event" else "telemetry"
