"""What happened, numbered, kept for a while, and logged."""

import json
from datetime import UTC, datetime
from io import StringIO

import pytest
import structlog

from edged import clock, log
from edged.errors import Code
from edged.events import Event, EventLog, Severity

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


@pytest.fixture(autouse=True)
def written():
    """The lines that were logged."""
    stream = StringIO()
    log.configure("debug", "json", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()


@pytest.fixture
def events(monkeypatch):
    monkeypatch.setattr(clock, "wall", lambda: NOW)
    return lambda kept=100: EventLog(kept)


def record(events, count):
    for number in range(count):
        events.record(Severity.INFO, "counted", "test", f"number {number}")


def test_an_event_says_what_happened_to_what_and_when(events):
    events = events()
    events.record(Severity.WARNING, "drain_incomplete", "edged", "requests were still under way", limit_s=0.2, left=3)
    assert events.after(0) == [
        Event(
            1,
            NOW,
            Severity.WARNING,
            "drain_incomplete",
            "edged",
            "requests were still under way",
            {"limit_s": "0.2", "left": "3"},
        )
    ]


def test_events_are_numbered_from_one_without_a_gap(events):
    events = events()
    record(events, 5)
    assert [event.sequence for event in events.after(0)] == [1, 2, 3, 4, 5]


def test_only_the_newest_are_kept_and_their_numbers_go_on(events):
    events = events(kept=3)
    record(events, 5)
    assert [event.sequence for event in events.after(0)] == [3, 4, 5]


@pytest.mark.parametrize(
    ("after", "limit", "found"),
    [
        (0, 0, [1, 2, 3, 4, 5]),
        (3, 0, [4, 5]),
        (5, 0, []),
        (99, 0, []),
        (0, 2, [4, 5]),
        (3, 1, [5]),
        (4, 9, [5]),
    ],
)
def test_who_asks_gets_those_after_a_number_oldest_first_and_of_many_the_newest(events, after, limit, found):
    events = events()
    record(events, 5)
    assert [event.sequence for event in events.after(after, limit)] == found


@pytest.mark.parametrize("severity", Severity)
def test_each_is_logged_as_what_it_is(events, written, severity):
    events().record(severity, Code.WORKER_CRASHED, "digits", "its worker ended", pid=7)
    (line,) = written()
    assert (line["level"], line["message"]) == (severity.value, "its worker ended")
    assert (line["part"], line["code"], line["subject"], line["pid"]) == ("events", "worker_crashed", "digits", "7")


def test_what_names_a_file_that_is_no_text_can_be_told_all_the_same(events):
    events = events()
    events.record(Severity.ERROR, "bundle_invalid", "m\udcff", "bundle \udcff", folder="/models/\udcff")
    (event,) = events.after(0)
    assert (event.subject, event.message, event.details) == ("m?", "bundle ?", {"folder": "/models/?"})
