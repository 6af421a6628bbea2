"""docs/mqtt.md: its examples are messages of the proto, and its tables have every command and every code."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from google.protobuf import json_format

from edged._pb.edged.v1 import telemetry_pb2 as pb
from edged.config.load import merge
from edged.config.rules import objections
from edged.document import parse
from edged.errors import Code
from edged.telemetry import messages
from edged.telemetry.commands import KINDS, Rejection, intent_of
from edged.telemetry.sync import Topics

PAGE = (Path(__file__).parents[3] / "docs/mqtt.md").read_text()
EXAMPLES = re.findall(r"```json (\w+)\n(.*?)```", PAGE, re.DOTALL)
TYPES = {
    "OnlineMessage": messages.Online,
    "StateMessage": messages.State,
    "EventMessage": messages.Event,
    "TelemetryMessage": messages.Telemetry,
    "CommandMessage": messages.Command,
    "ResultMessage": messages.Result,
}


@pytest.mark.parametrize(("name", "text"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_an_example_is_a_message_of_the_proto_and_of_the_daemon(name, text):
    json_format.Parse(text, getattr(pb, name)())
    found = msgspec.json.decode(text, type=TYPES[name])
    if isinstance(found, messages.Command):
        intent_of(found)


def test_every_message_has_an_example():
    assert {name for name, _ in EXAMPLES} == set(TYPES)


def test_every_command_and_code_stands_in_its_table():
    rows = re.findall(r"^\| (`[\w`, ]+`) \|", PAGE, re.MULTILINE)
    words = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
    assert set(KINDS) <= words
    assert set(Rejection) <= words
    assert words <= {*KINDS, *Rejection, "command"}, "the last is a topic"


def test_the_settings_of_the_page_are_in_order():
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    settings = merge([parse(text.encode(), "page", Code.SETTINGS_INVALID)]).settings
    assert settings.mqtt.broker
    assert list(objections(settings, Path("/"))) == []


def test_every_topic_is_told():
    topics = Topics("<fleet>", "<device>", "<class>")
    names = [topics.of(name) for name in ("online", "state", "telemetry", "event", "result")]
    for topic in (*names, *topics.commands):
        assert f"| `{topic.removeprefix('edged/1/<fleet>/')}` |" in PAGE
