"""The daemon's log: one line an entry on standard error; JSON with a severity prefix where the journal reads it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, TextIO, cast

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from edged.log_writer import Writer

# sd-daemon(3): the journal takes "<N>" before a line as its priority.
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

# Values under keys that hold one of these words are never written.
_SECRET_WORDS = ("password", "passphrase", "secret", "token", "credential", "private_key", "authorization")

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "text"]

# How long the end waits until what was logged is written.
_LAST_S = 2.0

# The parts that have asked for a logger; what libraries log is not among them.
_parts: set[str] = set()


class Levels(msgspec.Struct):
    """The least important lines that are written: of everything, and of single parts where that is another."""

    overall: Level = "info"
    parts: dict[str, Level] = {}


_levels = Levels()

# Through which lines go to standard error, where nobody is to wait for who reads it.
_writer: Writer | None = None


def levels() -> Levels:
    """What holds now."""
    return Levels(_levels.overall, dict(_levels.parts))


def set_levels(new: Levels) -> None:
    """Takes effect at once, and until `configure`."""
    _levels.overall, _levels.parts = new.overall, dict(new.parts)
    lowest = min(_LEVELS[level] for level in (new.overall, *new.parts.values()))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(lowest))


def parts() -> list[str]:
    """The parts of the daemon that log."""
    return sorted(_parts)


def _by_part(logger: WrappedLogger, method: str, entry: EventDict) -> EventDict:  # noqa: ARG001 - structlog's
    """Drops what is less important than its part is to tell."""
    level = _levels.parts.get(str(entry.get("part")), _levels.overall)
    if _LEVELS.get(method, _LEVELS["error"]) < _LEVELS[level]:
        raise structlog.DropEvent
    return entry


def configure(level: Level, form: Format, stream: TextIO | None = None) -> None:
    """Sets up the one chain of processors, with one level for all parts. `auto`: text on a terminal, else JSON."""
    out = stream or sys.stderr
    file = _writer if _writer and not stream else _Undaunted(out)
    journal = under_journal(out)
    as_json = form == "json" or (form == "auto" and (journal or not out.isatty()))
    renderer: Processor
    renderer = cast("Processor", _journal_json if journal else _json) if as_json else _console(out)
    structlog.configure(
        processors=[
            _by_part,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            hide_secrets,
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", file)),
        cache_logger_on_first_use=False,
    )
    set_levels(Levels(level))
    # What libraries log by the standard way takes the same chain; asyncio tells of lost exceptions so.
    root = logging.getLogger()
    if not any(isinstance(handler, _Forwarder) for handler in root.handlers):
        root.addHandler(_Forwarder(logging.WARNING))


@contextlib.contextmanager
def beside() -> Iterator[None]:
    """From the next `configure` on, a thread writes to standard error; what is left is written at the end.

    The journal may be held up by its disk, and then takes nothing.
    """
    global _writer  # noqa: PLW0603 - there is one standard error
    writer = _writer = Writer(sys.stderr.fileno(), _tell_dropped)
    try:
        yield
    finally:
        _writer = None
        writer.close(_LAST_S)


def drain() -> None:
    """Before a process ends without more ado: waits for the thread to write what is left, for two seconds at most."""
    if _writer is not None:
        _writer.close(_LAST_S)


def _tell_dropped(lines: int) -> None:
    get("log").error("lines of the log were dropped: nobody read them for too long", lines=lines)


class _Forwarder(logging.Handler):
    """Hands a record of the standard library's logging on."""

    def emit(self, record: logging.LogRecord) -> None:
        """Logs it under the name of its logger."""
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.ERROR)
        structlog.get_logger(part=record.name).log(level, record.getMessage(), exc_info=record.exc_info)


def get(part: str) -> Any:
    """The logger of one part of the daemon."""
    _parts.add(part)
    return structlog.get_logger(part=part)


def under_journal(stream: TextIO) -> bool:
    """Whether `stream` is the journal's socket, as systemd.exec(5) says under $JOURNAL_STREAM: device:inode."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def hide_secrets(logger: WrappedLogger, method: str, entry: EventDict) -> EventDict:  # noqa: ARG001 - structlog's
    """Blanks what must not be read by whoever reads logs, however deep it lies."""
    return {key: _without_secrets(key, value) for key, value in entry.items()}


def _without_secrets(key: str, value: object) -> object:
    if any(word in key.lower() for word in _SECRET_WORDS):
        return "[hidden]"
    if isinstance(value, dict):
        return {str(name): _without_secrets(str(name), part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets("", part) for part in value]
    return value


class _Undaunted:
    """A stream that loses what cannot be written: a full disk or a closed pipe is no reason to stop serving."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _json(logger: WrappedLogger, method: str, entry: EventDict) -> str:
    """Keys in reading order; whatever is not JSON becomes its text."""
    ordered = {"at": entry.pop("timestamp"), "level": entry.pop("level"), "message": entry.pop("event"), **entry}
    return str(structlog.processors.JSONRenderer(default=str)(logger, method, ordered))


def _journal_json(logger: WrappedLogger, method: str, entry: EventDict) -> str:
    priority = _PRIORITIES.get(entry["level"], 6)
    return f"<{priority}>{_json(logger, method, entry)}"


def _console(stream: TextIO) -> Processor:
    # Imported here: a daemon under systemd never needs it.
    from structlog.dev import ConsoleRenderer

    render: Callable[..., str] = ConsoleRenderer(colors=stream.isatty(), pad_event_to=0)
    return cast("Processor", render)
