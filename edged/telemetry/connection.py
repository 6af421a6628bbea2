"""One connection of paho's, driven by hand: opened, turned and ended by the thread that has it, and by nobody else."""

from __future__ import annotations

import math
import select
import socket
from collections.abc import Sequence
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import LogLevel, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edged import clock
from edged.config.address import Broker
from edged.telemetry.packet import NO_LIMIT, TOO_LARGE

# What a broker may take its time over.
CONNECT_S = 15.0

# How long the broker keeps the session, and with it the commands, of a device that is away.
_SESSION_S = 7 * 86_400

_MAX_PACKET_BYTES = 64 * 1024
_RECEIVE_MAXIMUM = 8

_AT_LEAST_ONCE = SubscribeOptions(qos=1)
_WITH_WILL = ReasonCode(PacketTypes.DISCONNECT, identifier=0x04)


class LostError(Exception):
    """The connection is over."""


class Connection:
    """Waits for its socket and for being woken, and for no clock."""

    def __init__(self, client: Client, wake: socket.socket) -> None:
        """`wake` is read when something is to be sent."""
        self._client = client
        self._wake = wake
        self.most_bytes = NO_LIMIT
        """What the broker takes in one packet (section 3.2.2.3.6)."""
        self.met_too_large = False
        """Whether the broker ended it for a packet that was larger than it takes."""
        self._keep_alive_s = 0
        self._answer: ReasonCode | None = None
        self._said = ""
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_log = self._on_log

    def open(self, broker: Broker, keep_alive_s: int, subscriptions: Sequence[str]) -> None:
        """Connects and subscribes. Raises OSError or LostError."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = _SESSION_S
        properties.ReceiveMaximum = _RECEIVE_MAXIMUM
        properties.MaximumPacketSize = _MAX_PACKET_BYTES
        self._keep_alive_s = keep_alive_s
        self._client.connect(broker.host, broker.port, keep_alive_s, clean_start=False, properties=properties)
        end_s = clock.monotonic() + CONNECT_S
        while self._answer is None:
            left_s = end_s - clock.monotonic()
            if left_s <= 0:
                raise LostError(f"the broker has not answered for {CONNECT_S:g} s; see that it speaks MQTT v5")
            self.turn(left_s)
        self._client.subscribe([(topic, _AT_LEAST_ONCE) for topic in subscriptions])

    def _on_connect(
        self, _client: Client, _data: object, _flags: ConnectFlags, reason: ReasonCode, found: Properties | None
    ) -> None:
        self._answer = reason
        # The broker's word goes (section 3.2.2.3.14), which paho obeys by itself as often as it is turned.
        self._keep_alive_s = getattr(found, "ServerKeepAlive", self._keep_alive_s)
        self.most_bytes = getattr(found, "MaximumPacketSize", NO_LIMIT)

    def _on_disconnect(
        self, _client: Client, _data: object, flags: DisconnectFlags, reason: ReasonCode, _properties: object
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._said = str(reason)
            self.met_too_large = reason.value == TOO_LARGE

    def _on_log(self, _client: Client, _data: object, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:  # why a socket broke is told nowhere else
            self._said = text

    def turn(self, timeout_s: float) -> None:
        """Waits until something can be read or written, or is to be sent. Raises LostError when it is over."""
        sock: Any = self._client.socket()
        if sock is None:
            raise LostError(self._why(""))
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
        poll.register(self._wake, select.POLLIN)
        pending = getattr(sock, "pending", lambda: 0)()
        ping_s = self._keep_alive_s / 4 or math.inf  # 0: there are no pings
        wait_s = 0.0 if pending else max(min(timeout_s, ping_s), 0.0)
        ready = dict(poll.poll(wait_s * 1000))
        events = ready.get(sock.fileno(), 0)
        if self._wake.fileno() in ready:
            self._wake.recv(4096)
        if pending or events & ~select.POLLOUT:  # first: a broker may say why it does not take what is being written
            self._check(self._client.loop_read())
        if events & select.POLLOUT:
            self._check(self._client.loop_write())
        self._check(self._client.loop_misc())
        # paho reads a packet of any size that the broker announces: 256 MiB of it would end this process.
        if self._client._in_packet["remaining_length"] > _MAX_PACKET_BYTES:  # noqa: SLF001 - it is told nowhere else
            raise LostError(f"the broker sends a packet of more than {_MAX_PACKET_BYTES} bytes")

    def _check(self, code: MQTTErrorCode) -> None:
        if self._answer is not None and self._answer.is_failure:
            raise LostError(f"the broker refuses the connection: {self._answer}")
        if code is not MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise LostError(self._why(code.name.removeprefix("MQTT_ERR_").lower()))

    def _why(self, code: str) -> str:
        """Under TLS 1.3 a broker refuses a certificate after what looks like a good beginning."""
        said = ": ".join(["", *filter(None, [self._said or code])])
        if self._answer is None:
            return f"the broker ended the connection before it answered{said}; see that it accepts this certificate"
        return f"the connection was lost{said}"

    def goodbye(self) -> None:
        """Ends the connection in order, and has the broker publish the will: a device that was stopped is not there."""
        self._client.disconnect(_WITH_WILL)
        self._client.loop_write()

    def close(self) -> None:
        """Closes the socket."""
        sock: Any = self._client.socket()
        if sock is not None:
            sock.close()
