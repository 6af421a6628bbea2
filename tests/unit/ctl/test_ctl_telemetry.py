"""`edgectl telemetry`: what it calls good."""

from __future__ import annotations

import pytest

from edged._pb.edged.v1 import telemetry_pb2 as pb
from edged.ctl import client
from edged.ctl.main import run


@pytest.mark.parametrize(
    ("broker", "connected", "problem", "status"),
    [
        ("", False, "", 0),
        ("", False, "the identity has no certificate", 0),
        ("mqtts://b", True, "", 0),
        ("mqtts://b", True, "it takes no rows", 1),
        ("mqtts://b", False, "", 1),
    ],
)
def test_it_is_good_where_the_broker_takes_it_or_none_is_set(
    monkeypatch: pytest.MonkeyPatch, broker: str, connected: bool, problem: str, status: int
):
    class Connected:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __enter__(self) -> Connected:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def telemetry(self) -> pb.TelemetryStanding:
            return pb.TelemetryStanding(broker=broker, connected=connected, problem=problem)

    monkeypatch.setattr(client, "Client", Connected)
    assert run(["telemetry"]) == status
