"""Messages as plain data."""

from __future__ import annotations

import json

from google.protobuf.timestamp_pb2 import Timestamp

from edged._pb.edged.v1 import admin_pb2 as pb
from edged._pb.edged.v1 import update_pb2 as up
from edged.ctl.plain import plain, word


def test_every_field_is_there_whether_set_or_not():
    empty = plain(pb.Status())
    names = {field.name for field in pb.Status.DESCRIPTOR.fields}
    assert set(empty) == names - {"cpu_time"} | {"cpu_time_s"}
    assert empty["cpu_time_s"] is None
    assert empty["models"] == []
    assert empty["started_at"] is None
    assert empty["state"] == "unspecified"
    assert empty["ready"] is False


def test_numbers_stay_numbers_and_enums_become_words():
    model = pb.Model(name="digits", revision=2**53 - 1, requests_ok=2**63, state=pb.MODEL_STATE_READY)
    model.passed_over.add(variant="int8", code="load_failed", reason="no")
    found = plain(model)
    assert found["revision"] == 2**53 - 1
    assert found["requests_ok"] == 2**63
    assert found["state"] == "ready"
    assert found["passed_over"] == [{"variant": "int8", "code": "load_failed", "reason": "no"}]


def test_times_durations_and_maps():
    worker = pb.Worker(state=pb.WORKER_STATE_LOADING, started_at=Timestamp(seconds=1_700_000_000, nanos=250_000_000))
    assert plain(worker)["load_time_s"] is None
    worker.load_time.FromMilliseconds(1250)
    found = plain(worker)
    assert found["started_at"] == "2023-11-14T22:13:20.250000Z"
    assert found["load_time_s"] == 1.25
    event = pb.Event(severity=pb.SEVERITY_WARNING, details={"b": "2", "a": "1"})
    assert json.dumps(plain(event)["details"]) == '{"a": "1", "b": "2"}'


def test_a_word_of_a_newer_daemon_is_told_as_its_number():
    status = pb.Status.FromString(bytes([4 << 3, 99]))
    assert word(status, "state") == "unknown 99"
    assert plain(status)["state"] == "unknown 99"


def test_what_has_no_fields_of_its_own_is_plain_too():
    step = up.Transition(model="scale")
    assert plain(step)["evidence"] == {}
    step.evidence.update({"p99_ms": 3.5, "shares": [0.5, None], "by": {"variant": "cpu"}})
    assert json.loads(json.dumps(plain(step)))["evidence"] == {
        "p99_ms": 3.5,
        "shares": [0.5, None],
        "by": {"variant": "cpu"},
    }
