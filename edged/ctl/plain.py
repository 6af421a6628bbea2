"""Messages of protos/ as plain data for `--json`: the fields' own names, all of them, enums as words."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp


def plain(message: Message) -> dict[str, Any]:
    """Every field of `message`, set or not.

    A time is ISO 8601 in UTC, null where unset; a duration is in seconds, under its name with `_s` added.
    """
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if isinstance(value, Timestamp):
            found[field.name] = iso(value) if message.HasField(field.name) else None
        elif isinstance(value, Duration):
            found[f"{field.name}_s"] = value.ToNanoseconds() / 1e9 if message.HasField(field.name) else None
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            found[field.name] = dict(sorted(value.items()))
        elif field.is_repeated:
            found[field.name] = [_one(field, each) for each in value]
        else:
            found[field.name] = _one(field, value)
    return found


def _one(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return _word(field.enum_type, value)
    if isinstance(value, Struct):
        return json_format.MessageToDict(value)
    return plain(value) if isinstance(value, Message) else value


def iso(time: Timestamp) -> str:
    """`2026-11-21T04:53:01.250000Z`."""
    return time.ToDatetime(tzinfo=UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def word(message: Message, name: str) -> str:
    """The word for an enum field of `message`: `ready` for MODEL_STATE_READY."""
    kind = message.DESCRIPTOR.fields_by_name[name].enum_type
    if kind is None:
        raise TypeError(f"{name} is no enum")
    return _word(kind, getattr(message, name))


def _word(kind: Any, number: int) -> str:
    value = kind.values_by_number.get(number)
    if value is None:  # of a newer edged
        return f"unknown {number}"
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(value.name.removeprefix(prefix).lower())
