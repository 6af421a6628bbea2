"""The log: one line an entry, JSON where a machine reads it, nothing that must stay secret."""

import json
import logging
import os
from datetime import datetime
from io import StringIO
from pathlib import Path

import pytest
import structlog

from edged import log
from edged.errors import Code


class Terminal(StringIO):
    def isatty(self):
        return True


class Broken(StringIO):
    """A full disk, or a pipe that nobody reads any more."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, _):
        raise self.error


@pytest.fixture
def logged():
    """Sets the log up and gives what it writes; afterwards all is as before."""
    streams = []

    def configure(level="debug", form="json", stream=None):
        streams.append(stream or StringIO())
        log.configure(level, form, streams[-1])
        return streams[-1]

    yield configure
    structlog.reset_defaults()


def entry(stream):
    (line,) = stream.getvalue().splitlines()
    return json.loads(line)


class TestAnEntry:
    def test_is_one_line_of_json_in_reading_order(self, logged):
        stream = logged()
        log.get("app").warning("it is warm", zone="cpu", temperature_c=81.5)
        line = stream.getvalue()
        assert line.endswith("}\n")
        found = json.loads(line)
        assert list(found) == ["at", "level", "message", "part", "zone", "temperature_c"]
        assert found | {"at": ""} == {
            "at": "",
            "level": "warning",
            "message": "it is warm",
            "part": "app",
            "zone": "cpu",
            "temperature_c": 81.5,
        }

    def test_has_its_time_in_utc(self, logged):
        stream = logged()
        log.get("app").info("now")
        at = datetime.fromisoformat(entry(stream)["at"])
        assert at.utcoffset().total_seconds() == 0

    @pytest.mark.parametrize(
        ("value", "written"),
        [
            pytest.param(Path("/run/edged"), "/run/edged", id="a path"),
            pytest.param(Code.OVERLOADED, "overloaded", id="a code"),
            pytest.param(ValueError("so"), "so", id="an error"),
            pytest.param(("a", 1), ["a", 1], id="a tuple"),
            pytest.param({("a", 1): 2}, {"('a', 1)": 2}, id="keys that are no text"),
            pytest.param("line\nbreak", "line\nbreak", id="line feeds"),
            pytest.param("\udcff", "\udcff", id="what is no text"),
            pytest.param(None, None, id="nothing"),
        ],
    )
    def test_takes_any_value(self, logged, value, written):
        stream = logged()
        log.get("app").info("see", value=value)
        assert entry(stream)["value"] == written

    def test_has_an_exception_on_the_same_line(self, logged):
        stream = logged()
        try:
            raise ValueError("what nobody thought of")
        except ValueError:
            log.get("app").exception("a defect")
        found = entry(stream)
        assert found["message"] == "a defect"
        assert found["exception"].startswith("Traceback")
        assert found["exception"].endswith("ValueError: what nobody thought of")


class TestLevels:
    @pytest.mark.parametrize(
        ("level", "written"),
        [
            ("debug", ["debug", "info", "warning", "error"]),
            ("info", ["info", "warning", "error"]),
            ("warning", ["warning", "error"]),
            ("error", ["error"]),
        ],
    )
    def test_keep_out_what_matters_less(self, logged, level, written):
        stream = logged(level)
        for each in ("debug", "info", "warning", "error"):
            getattr(log.get("app"), each)("said")
        assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == written

    def test_can_change_for_loggers_that_are_there(self, logged):
        logger = log.get("app")
        logged("error")
        logger.info("before")
        stream = logged("info")
        logger.info("after")
        assert entry(stream)["message"] == "after"


class TestForms:
    def test_auto_is_json_where_no_person_reads(self, logged):
        stream = logged(form="auto")
        log.get("app").info("said")
        assert entry(stream)["message"] == "said"

    def test_auto_is_text_on_a_terminal(self, logged):
        stream = logged(form="auto", stream=Terminal())
        log.get("app").info("said")
        assert "said" in stream.getvalue()
        assert "{" not in stream.getvalue()

    def test_json_is_json_on_a_terminal_too(self, logged):
        stream = logged(form="json", stream=Terminal())
        log.get("app").info("said")
        assert entry(stream)["message"] == "said"

    def test_text_has_no_colours_where_they_would_be_noise(self, logged):
        stream = logged(form="text")
        log.get("app").info("said", zone="cpu")
        assert "\x1b" not in stream.getvalue()
        assert "zone=cpu" in stream.getvalue()


class TestUnderTheJournal:
    """$JOURNAL_STREAM names the journal's socket by device and inode; a file stands for it here."""

    @pytest.fixture
    def stream(self, tmp_path):
        with (tmp_path / "journal").open("w+") as file:
            yield file

    def names(self, monkeypatch, stream, shift=0):
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + shift}")

    @pytest.mark.parametrize(("level", "priority"), [("debug", 7), ("info", 6), ("warning", 4), ("error", 3)])
    def test_a_line_begins_with_its_priority(self, logged, stream, monkeypatch, level, priority):
        self.names(monkeypatch, stream)
        logged(form="auto", stream=stream)
        getattr(log.get("app"), level)("said")
        stream.seek(0)
        line = stream.read()
        assert line.startswith(f'<{priority}>{{"at":')
        assert json.loads(line[3:])["level"] == level

    def test_a_line_does_not_when_the_stream_leads_elsewhere(self, logged, stream, monkeypatch):
        self.names(monkeypatch, stream, shift=1)
        logged(form="auto", stream=stream)
        log.get("app").info("said")
        stream.seek(0)
        assert stream.read().startswith("{")

    def test_a_stream_without_a_descriptor_is_not_the_journals(self, monkeypatch):
        monkeypatch.setenv("JOURNAL_STREAM", "1:1")
        assert not log.under_journal(StringIO())

    def test_a_line_feed_in_a_message_does_not_begin_a_line_of_its_own(self, logged, stream, monkeypatch):
        self.names(monkeypatch, stream)
        logged(form="auto", stream=stream)
        log.get("app").info("said\n<0>forged")
        stream.seek(0)
        assert len(stream.read().splitlines()) == 1


class TestSecrets:
    @pytest.mark.parametrize(
        "key", ["password", "DB_PASSWORD", "token", "auth_token", "client_secret", "private_key", "Authorization"]
    )
    def test_are_not_written(self, logged, key):
        stream = logged()
        log.get("app").info("connected", **{key: "hunter2"})
        assert entry(stream)[key] == "[hidden]"
        assert "hunter2" not in stream.getvalue()

    @pytest.mark.parametrize(
        "value",
        [
            {"password": "hunter2"},
            {"broker": {"auth": {"password": "hunter2"}}},
            [{"token": "hunter2"}],
            ({"token": ["hunter2"]},),
        ],
    )
    def test_are_not_written_however_deep_they_lie(self, logged, value):
        stream = logged()
        log.get("app").info("settings", settings=value)
        assert "hunter2" not in stream.getvalue()
        assert "[hidden]" in stream.getvalue()

    def test_are_not_taken_out_of_what_the_caller_goes_on_using(self, logged):
        logged()
        settings = {"password": "hunter2"}
        log.get("app").info("settings", settings=settings)
        assert settings == {"password": "hunter2"}

    def test_do_not_take_their_neighbours_along(self, logged):
        stream = logged()
        log.get("app").info("connected", settings={"password": "hunter2", "user": "edged"}, host="broker")
        assert entry(stream)["settings"] == {"password": "[hidden]", "user": "edged"}
        assert entry(stream)["host"] == "broker"


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(OSError(28, "No space left on device"), id="a full disk"),
        pytest.param(BrokenPipeError(32, "Broken pipe"), id="a pipe that nobody reads"),
        pytest.param(ValueError("I/O operation on closed file"), id="a closed stream"),
    ],
)
def test_what_cannot_be_written_is_no_reason_to_stop(logged, error):
    logged(stream=Broken(error))
    log.get("app").info("said")


class TestWhatLibrariesLog:
    def test_takes_the_same_chain(self, logged):
        out = logged("info")
        logging.getLogger("asyncio").error("Task exception was never retrieved")
        entry = json.loads(out.getvalue())
        assert (entry["level"], entry["message"], entry["part"]) == (
            "error",
            "Task exception was never retrieved",
            "asyncio",
        )

    def test_is_written_once_however_often_the_log_was_set_up(self, logged):
        logged("info")
        out = logged("info")
        logging.getLogger("asyncio").warning("once")
        assert len(out.getvalue().splitlines()) == 1

    def test_is_left_out_below_a_warning(self, logged):
        out = logged("debug")
        logging.getLogger("asyncio").info("Using selector: EpollSelector")
        assert out.getvalue() == ""


class TestLevelsByPart:
    def test_one_part_tells_more(self, logged):
        stream = logged("warning")
        log.set_levels(log.Levels("warning", {"rpc": "debug"}))
        log.get("models").info("unheard")
        log.get("rpc").debug("heard")
        assert entry(stream)["message"] == "heard"

    def test_one_part_tells_less(self, logged):
        stream = logged("debug")
        log.set_levels(log.Levels("debug", {"rpc": "error"}))
        log.get("rpc").warning("unheard")
        log.get("models").debug("heard")
        assert entry(stream)["message"] == "heard"

    def test_an_exception_is_an_error(self, logged):
        stream = logged("error")
        try:
            raise ValueError
        except ValueError:
            log.get("rpc").exception("heard")
        assert entry(stream)["message"] == "heard"

    def test_configuring_again_takes_them_back(self, logged):
        logged("info")
        log.set_levels(log.Levels("error", {"rpc": "debug"}))
        logged("info")
        assert log.levels() == log.Levels("info", {})
