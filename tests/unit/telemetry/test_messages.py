"""What is sent is what protos/edged/v1/telemetry.proto says, field by field."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given
from support.telemetry import WINDOWS

from edged._pb.edged.v1 import telemetry_pb2 as pb
from edged.telemetry import messages
from edged.telemetry.window import Totals

KINDS = [
    (messages.Telemetry, pb.TelemetryMessage),
    (messages.Event, pb.EventMessage),
    (messages.Online, pb.OnlineMessage),
    (messages.State, pb.StateMessage),
    (messages.Command, pb.CommandMessage),
    (messages.Result, pb.ResultMessage),
    (messages.ServedModel, pb.ServedModel),
    (messages.Happening, pb.Happening),
    (messages.Lost, pb.Lost),
]


def as_dict(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


@pytest.mark.parametrize(("kind", "message"), KINDS, ids=[kind.__name__ for kind, _ in KINDS])
def test_the_fields_are_those_of_the_proto_in_its_order(kind, message):
    assert kind.__struct_fields__ == tuple(field.name for field in message.DESCRIPTOR.fields)


@given(WINDOWS)
def test_telemetry_is_read_by_protobuf_without_loss(window):
    sent = messages.Telemetry(epoch=5, first=1, last=2, window=window, totals=Totals().with_window(window))
    read = json_format.Parse(msgspec.json.encode(sent), pb.TelemetryMessage())
    back = as_dict(read)
    assert msgspec.convert(back, messages.Telemetry, strict=False) == sent


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (
            messages.Event(
                epoch=1,
                first=2,
                last=2,
                event=messages.Happening(
                    at_ms=3, severity="info", code="started", subject="edged", message="é", details={"pid": "7"}
                ),
            ),
            pb.EventMessage,
        ),
        (messages.Online(online=True, session="abc"), pb.OnlineMessage),
        (
            messages.State(
                device="d",
                fleet="f",
                hardware_class="generic",
                version="1",
                mode="serving",
                engines={"onnxruntime": "1.20"},
                models=[messages.ServedModel(name="digits", revision=1, digest="sha256:0", state="ready")],
            ),
            pb.StateMessage,
        ),
        (messages.Result(device="d", status="done", details={"log": ["a"], "count": 2}), pb.ResultMessage),
    ],
    ids=["event", "online", "state", "result"],
)
def test_other_messages_are_read_by_protobuf(sent, message):
    encoded = msgspec.json.encode(sent)
    back = as_dict(json_format.Parse(encoded, message()))
    assert msgspec.convert(back, type(sent), strict=False) == sent
    assert json.loads(encoded)["schema"] == 1
