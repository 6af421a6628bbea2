"""paho's client, which also understands an acknowledgement of mosquitto's that MQTT v5 does not know."""

from __future__ import annotations

from typing import Literal

from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edged.telemetry.packet import TOO_LARGE


class TolerantClient(Client):
    """mosquitto acknowledges what is above its `message_size_limit` with 0x95, which only CONNACK and DISCONNECT may
    carry (section 3.4.2.1): paho takes that for a malformed packet, and the connection would end for each such message.
    """

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        body = self._in_packet["packet"]
        number = int.from_bytes(body[:2], "big")
        if len(body) < 3 or body[2] != TOO_LARGE or number not in self._out_messages:
            return super()._handle_pubackcomp(cmd)
        reason = ReasonCode(PacketTypes.DISCONNECT, identifier=TOO_LARGE)
        return self._do_on_publish(number, reason, Properties(PacketTypes.PUBACK))  # type: ignore[no-untyped-call]
