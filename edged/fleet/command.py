"""Commands made, signed and sent to devices, and their answers."""

from __future__ import annotations

import base64
import secrets
import ssl
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edged.config.address import Broker
from edged.errors import Code, EdgedError
from edged.telemetry.commands import PAYLOAD_TYPE, RejectedError, intent_of, pae
from edged.telemetry.messages import Command, Result
from edged.telemetry.window import SCHEMA

_CONNECT_S = 15.0


class Files(msgspec.Struct, frozen=True):
    """How an operator is known to the broker."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None


def make(
    name: str,
    arguments: Mapping[str, str],
    *,
    fleet: str,
    device: str,
    hardware_class: str,
    now: datetime,
    valid: timedelta,
) -> Command:
    """A command that is ready to be signed. Raises EdgedError (invalid_argument) for one that no device would obey."""
    command = Command(
        schema=SCHEMA,
        command=name,
        arguments=dict(arguments),
        fleet=fleet,
        device=device,
        hardware_class=hardware_class,
        issued_ms=int(now.timestamp() * 1000),
        expires_ms=int((now + valid).timestamp() * 1000),
        nonce=secrets.token_urlsafe(24),
    )
    try:
        intent_of(command)
    except RejectedError as rejected:
        raise EdgedError(Code.INVALID_ARGUMENT, rejected.text, "see docs/mqtt.md") from rejected
    return command


def seal(command: Command, key: Ed25519PrivateKey) -> bytes:
    """The DSSE envelope of a command, signed."""
    payload = msgspec.json.encode(command)
    signature = key.sign(pae(PAYLOAD_TYPE, payload))
    return msgspec.json.encode(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [
                {"keyid": key.public_key().public_bytes_raw().hex(), "sig": base64.b64encode(signature).decode()}
            ],
        }
    )


def topic(command: Command) -> str:
    """Where whom it is for will read it."""
    fleet = f"edged/1/{command.fleet}"
    if command.device:
        return f"{fleet}/devices/{command.device}/command"
    return f"{fleet}/classes/{command.hardware_class}/command" if command.hardware_class else f"{fleet}/command"


def send(
    broker: Broker, files: Files, command: Command, envelope: bytes, wait_s: float, enough: Callable[[Result], bool]
) -> list[Result]:
    """Sends a signed command and gives the answers that come within `wait_s`, or until one is `enough`.

    Raises EdgedError (not_running) where the broker cannot be reached.
    """
    answers = f"edged/1/{command.fleet}/operators/{secrets.token_hex(8)}"
    found: list[Result] = []
    changed = threading.Condition()
    subscribed = refused = ended = False

    def on_connect(client: Client, _data: object, _flags: object, reason: object, _properties: object) -> None:
        nonlocal refused
        if getattr(reason, "is_failure", False):
            with changed:
                refused = True
                changed.notify_all()
        client.subscribe(answers, qos=1)

    def on_subscribe(*_: object) -> None:
        nonlocal subscribed
        with changed:
            subscribed = True
            changed.notify_all()

    def on_message(_client: Client, _data: object, message: MQTTMessage) -> None:
        nonlocal ended
        try:
            result = msgspec.json.decode(message.payload, type=Result)
        except msgspec.MsgspecError:
            return
        if result.nonce == command.nonce:
            with changed:
                found.append(result)
                ended = ended or enough(result)
                changed.notify_all()

    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.connect_timeout = _CONNECT_S
    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    where = f"{broker.host}:{broker.port}"
    try:
        if broker.tls:
            context = ssl.create_default_context(cafile=files.ca)
            if files.certificate:
                context.load_cert_chain(files.certificate, files.key)
            client.tls_set_context(context)
        client.connect(broker.host, broker.port)
    except (OSError, ValueError) as error:
        raise EdgedError(
            Code.NOT_RUNNING, f"the broker {where} cannot be reached: {error}", "check --broker"
        ) from error
    client.loop_start()
    try:
        with changed:
            changed.wait_for(lambda: subscribed or refused, _CONNECT_S)
            if not subscribed:
                raise EdgedError(Code.NOT_RUNNING, f"the broker {where} lets nobody in so", "check the certificate")
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ResponseTopic = answers
        properties.CorrelationData = command.nonce.encode()
        properties.ContentType = PAYLOAD_TYPE
        properties.MessageExpiryInterval = max((command.expires_ms - command.issued_ms) // 1000, 1)
        client.publish(topic(command), envelope, qos=1, properties=properties)
        with changed:
            changed.wait_for(lambda: ended, wait_s)
        return list(found)
    finally:
        client.disconnect()
        client.loop_stop()
