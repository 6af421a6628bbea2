"""`edged.v1.Telemetry`: how the spool and the connection to the broker are, on the admin socket."""

from __future__ import annotations

import grpc

from edged._pb.edged.v1 import telemetry_pb2 as pb
from edged.rpc.server import Methods, decode, unary
from edged.telemetry.commander import Commander
from edged.telemetry.mqtt import Mqtt
from edged.telemetry.station import Station

SERVICE = "edged.v1.Telemetry"


class Telemetry:
    """The calls of `edged.v1.Telemetry`."""

    def __init__(self, station: Station) -> None:
        self._station = station

    def methods(self) -> Methods:
        """The calls by name."""
        return {"GetTelemetry": unary(self._get)}

    async def _get(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        decode(pb.GetTelemetryRequest, data)
        station = self._station
        topics, mqtt, sync, commander = station.topics, station.mqtt, station.sync, station.commander
        standing = await station.standing()
        connection = mqtt.problem or mqtt.too_large if mqtt else ""
        answer = pb.TelemetryStanding(
            device=topics.device,
            fleet=topics.fleet,
            broker=station.broker,
            connected=mqtt is not None and mqtt.connected,
            problem=station.problem or connection or (sync.problem if sync else ""),
            last_sent_ms=sync.last_sent_ms if sync else 0,
            sent=sync.sent if sync else 0,
            spool_problem=station.recorder.problem or station.recorder.damage,
            commands=_commands(mqtt, commander),
        )
        if standing is not None:
            answer.epoch = standing.epoch
            answer.sequence = standing.sequence
            answer.windows = standing.windows
            answer.events = standing.events
            answer.used_bytes = standing.used_bytes
            answer.cap_bytes = standing.cap_bytes
            answer.lost.windows = standing.lost.windows + station.recorder.lost.windows
            answer.lost.events = standing.lost.events + station.recorder.lost.events
        return answer.SerializeToString()


def _commands(mqtt: Mqtt | None, commander: Commander | None) -> dict[str, int]:
    """What became of all that came, what nobody looked at as well."""
    found = dict(commander.counted) if commander else {}
    if mqtt and mqtt.dropped:
        found["dropped"] = mqtt.dropped
    return found
