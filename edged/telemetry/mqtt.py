"""The connection to the broker: MQTT v5 in a thread of its own, which sleeps while nothing is to be done.

https://docs.oasis-open.org/mqtt/mqtt/v5.0/mqtt-v5.0.html. All of paho is used in that thread alone, and each connection
has a client of its own: what was not acknowledged is sent again by whoever has it, and by nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edged import clock, log
from edged.config.address import Broker
from edged.errors import EdgedError
from edged.system import identity
from edged.telemetry.client import TolerantClient
from edged.telemetry.commands import Rate
from edged.telemetry.connection import CONNECT_S, Connection, LostError
from edged.telemetry.packet import NO_LIMIT, TOO_LARGE, Message, NotSentError, properties_of, size_of

_log = log.get("mqtt")

# What a broker may take its time over.
_ACKNOWLEDGE_S = 60.0

# A connection that is back sooner is not told to have been away.
_WILL_DELAY_S = 10

MAX_IN_FLIGHT = 8

# Messages that are handed to the loop at once, and how many more a minute: a flood of them is this thread's business.
_BURST = 10
_PER_MINUTE = 10.0

_BACKOFF_LEAST_S = 1.0
_BACKOFF_MOST_S = 300.0
# A connection that held so long begins the delays anew.
_HELD_S = 60.0

# How often the thread looks whether the files of the identity have changed.
_LOOK_S = 60.0
_END_S = 2.0

# The largest windows and answers are some 60 KiB.
_ADVISED_KIB = 128

# How long it is remembered which packet a broker ended the connection for.
_REMEMBER_S = 86_400.0

# A broker that names another limit each time is not remembered for ever.
_MOST_LIMITS = 8


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to call, and as who."""

    broker: Broker
    device: str
    username: str
    files: identity.Files
    keep_alive_s: int
    subscriptions: tuple[str, ...]
    will_topic: str


class _Sent(NamedTuple):
    """What the broker has not acknowledged yet."""

    future: asyncio.Future[int]
    due_s: float
    size: int


class Mqtt:
    """Keeps a connection up. Everything but its thread is used on the loop that made it."""

    def __init__(
        self,
        options: Options,
        will: Callable[[str], bytes],
        changed: Callable[[], None],
        got: Callable[[Message], None],
        warn: Callable[[str], None],
    ) -> None:
        """`will` makes the will of a session; `changed` is called when the connection came or went; `got` for each
        message that comes; `warn` when the broker's limits leave something out, with what is to be done."""
        self.connected = False
        self.session = ""
        """Of the connection that is there now: another for each."""
        self.problem = ""
        """Why there is no connection, for people."""
        self.too_large = ""
        """What was larger than this connection's broker takes, for people."""
        self.dropped = 0
        """Messages that came faster than allowed, or were retained: nobody looks at them."""
        self._options = options
        self._will = will
        self._changed = changed
        self._got = got
        self._warn = warn
        self._warned: dict[str, int] = {}
        """The largest packet that was warned of, by what the broker takes."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.setblocking(False)
        self._stopping = threading.Event()
        self._outgoing: deque[tuple[Message, asyncio.Future[int]]] = deque()
        self._in_flight: dict[int, _Sent] = {}
        self._rate = Rate(_BURST, _PER_MINUTE, clock.monotonic())
        self._stamp: tuple[int, ...] = ()
        self._learned_bytes, self._learned_s = NO_LIMIT, 0.0
        """Less than any packet for which the broker has ended the connection, and when it did so last."""

    def start(self) -> None:
        """Begins to connect."""
        self._thread.start()

    async def stop(self) -> None:
        """Says goodbye and ends the thread."""
        self._stopping.set()
        self._wake()
        await asyncio.to_thread(self._thread.join, _END_S)
        if not self._thread.is_alive():  # else it is held up in a name server; it ends with the process
            self._ours.close()
            self._theirs.close()

    def publish(self, message: Message) -> asyncio.Future[int]:
        """Sends a message at QoS 1; resolves to the reason code of its acknowledgement, or raises NotSentError."""
        future: asyncio.Future[int] = self._loop.create_future()
        if not self.connected:
            future.set_exception(NotSentError(self.problem))
            return future
        self._outgoing.append((message, future))
        self._wake()
        return future

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # so many wakes wait that one more says nothing
            self._ours.send(b"\0")

    # From here on, all runs in the thread.

    def _run(self) -> None:
        delay_s = _BACKOFF_LEAST_S
        while not self._stopping.is_set():
            began_s = clock.monotonic()
            try:
                self._live()
            except LostError as error:
                why = str(error)
            except (EdgedError, OSError, ValueError) as error:
                why = f"{self._options.broker.host}:{self._options.broker.port}: {error}"
            except Exception:  # noqa: BLE001 - logged; telemetry must not end for a broker that finds a defect in paho
                _log.exception("the connection to the broker met a defect")
                why = "a defect; the log says more"
            else:
                why = "the daemon stops"
            in_flight = [sent.future for sent in self._in_flight.values()]
            self._in_flight.clear()
            self._tell(self._lose, why, in_flight)
            if clock.monotonic() - began_s > _HELD_S:
                delay_s = _BACKOFF_LEAST_S
            self._pause(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads a fleet
            delay_s = min(delay_s * 2, _BACKOFF_MOST_S)

    def _pause(self, seconds: float) -> None:
        """Waits so long, or until the files of the identity are others than those that were tried."""
        end_s = clock.monotonic() + seconds
        while (left_s := end_s - clock.monotonic()) > 0 and self._options.files.stamp() == self._stamp:
            if self._stopping.wait(min(left_s, _LOOK_S)):
                return

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: the process ends
            self._stopping.set()

    def _live(self) -> None:
        """One connection, from its beginning to its end. Raises whatever ended it; returns when asked to stop."""
        options, session = self._options, secrets.token_hex(8)
        self._stamp = options.files.stamp()
        client = self._client(session)
        connection = Connection(client, self._theirs)
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        try:
            connection.open(options.broker, options.keep_alive_s, options.subscriptions)
            self._tell(self._come, session)
            look_s = clock.monotonic() + _LOOK_S
            while not self._stopping.is_set():
                self._send(client, connection)
                connection.turn(min(look_s, self._overdue_s()) - clock.monotonic())
                if clock.monotonic() >= self._overdue_s():
                    raise LostError(f"the broker has not acknowledged a message for {_ACKNOWLEDGE_S:g} s")
                if clock.monotonic() >= look_s:
                    look_s += _LOOK_S
                    if options.files.stamp() != self._stamp:
                        raise LostError("the certificate was replaced; connecting with the new one")
            connection.goodbye()
        finally:
            connection.close()
            if connection.met_too_large and self._in_flight:
                most_bytes = max(sent.size for sent in self._in_flight.values()) - 1
                self._learned_bytes, self._learned_s = min(self._learned(), most_bytes), clock.monotonic()

    def _client(self, session: str) -> Client:
        options = self._options
        client = TolerantClient(
            CallbackAPIVersion.VERSION2, client_id=options.device, protocol=MQTTv5, reconnect_on_failure=False
        )
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(MAX_IN_FLIGHT)
        password = identity.password() if options.username else None
        if options.broker.tls:
            needed = not options.username
            client.tls_set_context(identity.tls(options.files, clock.wall(), certificate_needed=needed))
        if options.username:
            client.username_pw_set(options.username, password)
        properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
        properties.WillDelayInterval = _WILL_DELAY_S
        properties.ContentType = "application/json"
        client.will_set(options.will_topic, self._will(session), qos=1, retain=True, properties=properties)
        return client

    def _send(self, client: Client, connection: Connection) -> None:
        while len(self._in_flight) < MAX_IN_FLIGHT:
            try:
                message, future = self._outgoing.popleft()
            except IndexError:
                return
            size = size_of(message)
            if size > connection.most_bytes:  # the broker would end the connection (section 3.2.2.3.6)
                self._tell(self._leave_out, future, size, f"takes packets of up to {connection.most_bytes} bytes")
                continue
            if size > (learned_bytes := self._learned()):
                limit = f"ended the connection for one of {learned_bytes + 1} bytes as too large"
                self._tell(self._leave_out, future, size, limit)
                continue
            info = client.publish(
                message.topic, message.payload, qos=1, retain=message.retain, properties=properties_of(message)
            )
            if info.rc is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._tell(_fail, future, NotSentError(str(info.rc)))
                raise LostError("the connection broke while a message was sent")
            self._in_flight[info.mid] = _Sent(future, clock.monotonic() + _ACKNOWLEDGE_S, size)

    def _learned(self) -> int:
        """Bytes of the largest packet that may be sent, as far as ended connections tell; they are soon forgotten."""
        return self._learned_bytes if clock.monotonic() - self._learned_s < _REMEMBER_S else NO_LIMIT

    def _overdue_s(self) -> float:
        return min((sent.due_s for sent in self._in_flight.values()), default=float("inf"))

    def _on_publish(self, _client: Client, _data: object, mid: int, reason: ReasonCode, _found: object) -> None:
        sent = self._in_flight.pop(mid, None)
        if sent is None:
            return
        if reason.value == TOO_LARGE:
            self._tell(self._leave_out, sent.future, sent.size, "refuses it as too large")
        else:
            self._tell(_resolve, sent.future, reason.value)

    def _on_subscribe(
        self, _client: Client, _data: object, _mid: int, reasons: list[ReasonCode], _found: object
    ) -> None:
        refused = zip(self._options.subscriptions, reasons, strict=False)
        if found := next(((topic, reason) for topic, reason in refused if reason.is_failure), None):
            topic, reason = found
            self._tell(self._name, f"the broker lets no command through: {topic}: {reason}; see its access rules")

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        # A command is no state: nobody keeps one for us.
        if message.retain or not self._rate.take(clock.monotonic()):
            self.dropped += 1
            return
        found = message.properties
        self._tell(
            self._got,
            Message(
                topic=message.topic,
                payload=bytes(message.payload),
                response_topic=getattr(found, "ResponseTopic", ""),
                correlation=getattr(found, "CorrelationData", b""),
                again=message.dup,
            ),
        )

    # On the loop again.

    def _come(self, session: str) -> None:
        self.connected, self.session, self.problem, self.too_large = True, session, "", ""
        self._changed()

    def _name(self, problem: str) -> None:
        _log.warning("commands cannot come", why=problem)
        self.problem = problem

    def _lose(self, why: str, in_flight: list[asyncio.Future[int]]) -> None:
        if why != self.problem:
            _log.info("not connected to the broker", why=why)
        self.connected, self.problem = False, why
        with contextlib.suppress(IndexError):
            while True:
                in_flight.append(self._outgoing.popleft()[1])
        for future in in_flight:
            _fail(future, NotSentError(why))
        self._changed()

    def _leave_out(self, future: asyncio.Future[int], size: int, limit: str) -> None:
        """The broker takes no packet of that size; `limit`: how that is known."""
        self.too_large = f"a message of {size} bytes was left out: the broker {limit}; have it take {_ADVISED_KIB} KiB"
        if size > self._warned.get(limit, 0):
            self._warned[limit] = size
            if len(self._warned) > _MOST_LIMITS:
                del self._warned[next(iter(self._warned))]
            self._warn(self.too_large)
        _resolve(future, TOO_LARGE)


def _resolve(future: asyncio.Future[int], code: int) -> None:
    if not future.done():
        future.set_result(code)


def _fail(future: asyncio.Future[int], error: NotSentError) -> None:
    if not future.done():
        future.set_exception(error)
