"""What telemetry costs on the wire in a day: real windows of three busy models, through the real spool, as they go out.

    python benchmarks/telemetry.py

Everything that is sent is made by the daemon's own code and counted: payloads, MQTT, TLS records, TCP and IP
headers, acknowledgements, pings. Only the network itself is not there.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import msgspec

from edged.facts import Executed, Reading
from edged.telemetry import mqtt
from edged.telemetry.aggregate import Aggregate
from edged.telemetry.messages import Happening, ServedModel, State
from edged.telemetry.mqtt import Message
from edged.telemetry.spool import Spool
from edged.telemetry.sync import JSON, Topics, as_message

BUDGET_BYTES = 100 * 1024
MODELS = ("digits", "defects", "faces")
REQUESTS_PER_WINDOW = 300
WINDOWS = 288
EVENTS = 12
STATES = 12
PINGS = 86_400 // 900

TOPICS = Topics("shops", "3f9c1f0de3c44f6e8f64b3a1f7a2c9d1", "intel-lowpower-detector")

# A TLS 1.3 record adds a header of 5 bytes, a content type and an authentication tag of 16 (RFC 8446, section 5.2).
_RECORD = 22
# IPv4 and TCP with time stamps; a segment each way, and the bare acknowledgement of the answer.
_HEADERS = 20 + 32
# A full handshake with client certificates once a day, certificates of 1.5 KiB each side.
_HANDSHAKE = 6 * 1024


def exchange(sent: int, answered: int) -> int:
    """Bytes on the wire for a packet and its answer."""
    return sent + answered + 2 * _RECORD + 3 * _HEADERS


def publish(message: Message) -> int:
    """Bytes on the wire for a message and its PUBACK."""
    properties = len(mqtt.properties_of(message).pack())
    body = 2 + len(message.topic.encode()) + 2 + properties + len(message.payload)
    header = 1 + (1 if body < 128 else 2 if body < 16384 else 3)
    return exchange(header + body, 6)


def day(spool: Spool, chance: random.Random) -> None:
    """A day of windows and events into the spool."""
    aggregate = Aggregate(0.0, 0)
    for number in range(WINDOWS):
        for model in MODELS:
            middle = chance.uniform(-6.5, -4)
            for _ in range(REQUESTS_PER_WINDOW):
                queue_s, compute_s = chance.expovariate(2000), chance.lognormvariate(middle, 0.3)
                aggregate.add(Executed(model, 7, "int8", 1, (queue_s,), compute_s, 1_790_000_000_000 + number))
        for name in ("temperature_mc:cpu-thermal", "memory_available_bytes", "storage_free_bytes", "power_mw"):
            aggregate.add(Reading(name, chance.randrange(10**9)))
        ends_s = 300.0 * (number + 1)
        spool.append_window(aggregate.close(ends_s, int(ends_s * 1000), clock_synchronized=True))
    for number in range(EVENTS):
        text = f"revision {number}, variant int8, is ready"
        found = Happening(at_ms=number, severity="info", code="model_ready", subject="digits", message=text)
        spool.append_event(found, kept=False)


def state() -> Message:
    """The state of such a device."""
    models = [
        ServedModel(name=name, revision=7, digest=f"{chance_of(name):064x}", variant="int8", state="ready")
        for name in MODELS
    ]
    found = State(
        device=TOPICS.device,
        fleet=TOPICS.fleet,
        hardware_class=TOPICS.hardware_class,
        version="1.0.0",
        engines={"onnxruntime": "1.20.1", "openvino": "2025.0.0"},
        os="edge-os 41.20260101",
        mode="serving",
        models=models,
    )
    return Message(topic=TOPICS.of("state"), payload=msgspec.json.encode(found), retain=True, content_type=JSON)


def chance_of(name: str) -> int:
    """A digest's worth of noise that is the same each time."""
    return random.Random(name).getrandbits(256)


def main() -> int:
    """Prints the table; 1 where the budget does not hold."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), 8 * 2**20, 0)
        day(spool, random.Random(1))
        costs: dict[str, list[int]] = {"window": [], "event": []}
        while rows := spool.take(8, coarse=True, all_now=True):
            for row in rows:
                costs[row.kind].append(publish(as_message(TOPICS, row)))
            spool.acknowledge([row.last for row in rows])
        spool.close()
    table = [
        ("windows, merged to an hour", len(costs["window"]), sum(costs["window"])),
        ("events", len(costs["event"]), sum(costs["event"])),
        ("states", STATES, STATES * publish(state())),
        ("pings", PINGS, PINGS * exchange(2, 2)),
        ("handshakes", 1, _HANDSHAKE),
    ]
    for what, number, cost in table:
        print(f"{what:28} {number:5} {cost:8} bytes")
    total = sum(cost for _, _, cost in table)
    holds = total <= BUDGET_BYTES
    print(f"{'a day':28} {'':5} {total:8} bytes; budget {BUDGET_BYTES}: {'holds' if holds else 'DOES NOT HOLD'}")
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())
