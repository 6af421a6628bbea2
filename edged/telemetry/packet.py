"""One message of MQTT v5: what it says, how large its packet is, and what a broker may answer to it.

https://docs.oasis-open.org/mqtt/mqtt/v5.0/mqtt-v5.0.html
"""

from __future__ import annotations

import msgspec
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers

NO_SUBSCRIBER = 0x10
"""The reason code of a broker that took a message which nobody wanted."""
REFUSED = 0x80
"""Reason codes from here on are failures (section 2.4)."""
TOO_LARGE = 0x95
"""That of a message whose packet is larger than the broker takes."""

NO_LIMIT = 1 + 4 + 268_435_455
"""The size of the largest packet that there is (section 2.1.4)."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message, out or in."""

    topic: str
    payload: bytes
    retain: bool = False
    content_type: str = ""
    content_encoding: str = ""
    expiry_s: int = 0
    """0: it does not expire."""
    response_topic: str = ""
    correlation: bytes = b""
    again: bool = False
    """Whether the broker says that it may have been delivered before (section 3.3.1.1: DUP)."""


class NotSentError(Exception):
    """The connection was lost before the broker acknowledged a message. It may have it all the same."""


def properties_of(message: Message) -> Properties:
    """The properties that a message is published with."""
    found = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if message.content_type:
        found.ContentType = message.content_type
    if message.content_encoding:
        found.UserProperty = ("content-encoding", message.content_encoding)
    if message.expiry_s:
        found.MessageExpiryInterval = message.expiry_s
    if message.correlation:
        found.CorrelationData = message.correlation
    return found


def size_of(message: Message) -> int:
    """Bytes of the PUBLISH packet at QoS 1 (section 3.3): header, topic, number, properties and payload."""
    properties = properties_of(message).pack()  # type: ignore[no-untyped-call]
    rest = 2 + len(message.topic.encode()) + 2 + len(properties) + len(message.payload)
    length = VariableByteIntegers.encode(rest)  # type: ignore[no-untyped-call]
    return 1 + len(length) + rest
