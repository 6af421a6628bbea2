"""Triton's `LogSettings`, carried out by levels: of everything, and of single parts. Changed on the admin socket alone.

`log_level` and `log_level.PART` are edged's own. Triton's switches say the same in their terms: `log_info` and
`log_warning` are what is written at all, and a `log_verbose_level` above 0 is `debug`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import grpc

from edged import log
from edged._pb.inference import grpc_service_pb2 as pb
from edged.errors import Code, EdgedError
from edged.events import EventLog, Severity
from edged.log import Level, Levels
from edged.rpc.server import Methods, decode, unary

_LEVELS: tuple[Level, ...] = get_args(Level)
_DEBUG, _INFO, _WARNING, _ERROR = _LEVELS
_OF_PART = "log_level."

Value = bool | int | str

# What cannot be otherwise here, and what it is.
_FIXED: dict[str, tuple[Value, str]] = {
    "log_error": (True, "errors are always logged"),
    "log_file": ("", "edged logs to standard error, which the journal keeps"),
    "log_format": ("ISO8601", "times are logged so; log.format of the settings says whether lines are JSON or text"),
}


class LogSettings:
    """The call `LogSettings`."""

    def __init__(self, events: EventLog, *, admin_socket: str) -> None:
        """`admin_socket`: the socket on which settings may be changed, where that is another; else empty."""
        self._events = events
        self._elsewhere = admin_socket

    def methods(self) -> Methods:
        """The calls by name."""
        return {"LogSettings": unary(self._log_settings)}

    async def _log_settings(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        asked = {name: _value(name, given) for name, given in decode(pb.LogSettingsRequest, data).settings.items()}
        if asked:
            self._change(asked)
        reply = {name: _setting(value) for name, value in shown(log.levels()).items()}
        return pb.LogSettingsResponse(settings=reply).SerializeToString()

    def _change(self, asked: Mapping[str, Value]) -> None:
        if self._elsewhere:
            hint = f"ask {self._elsewhere}"
            raise EdgedError(Code.NOT_PERMITTED, "log settings are changed on the admin socket only", hint)
        before = log.levels()
        after = changed(before, asked, log.parts())
        if after == before:
            return
        log.set_levels(after)
        text = ", ".join(f"{name} {value}" for name, value in shown(after).items() if name.startswith("log_level"))
        self._events.record(Severity.INFO, "log_level_changed", "log", f"until the next start or reload: {text}")


def shown(levels: Levels) -> dict[str, Value]:
    """All settings as they are. Pure."""
    place = _LEVELS.index(levels.overall)
    return {
        "log_level": levels.overall,
        **{_OF_PART + part: level for part, level in sorted(levels.parts.items())},
        "log_verbose_level": int(levels.overall == _DEBUG),
        "log_info": place <= _LEVELS.index(_INFO),
        "log_warning": place <= _LEVELS.index(_WARNING),
        **{name: value for name, (value, _) in _FIXED.items()},
    }


def changed(levels: Levels, asked: Mapping[str, Value], parts: list[str]) -> Levels:
    """What `levels` become, where `parts` are those that log; `log_level` goes before Triton's switches. Pure.

    Raises EdgedError (invalid_argument) naming the setting that is unknown or cannot be so.
    """
    overall, own = levels.overall, dict(levels.parts)
    if "log_level" in asked:
        overall = _level("log_level", asked["log_level"])
    for name, value in asked.items():
        if name.startswith(_OF_PART):
            part = name.removeprefix(_OF_PART)
            if part not in parts:
                raise _wrong(f"there is no part {part[:64]!r}", f"the parts are {', '.join(parts)}")
            own.pop(part, None)
            if value != "":
                own[part] = _level(name, value)
        elif name in _FIXED:
            if value != _FIXED[name][0]:
                raise _wrong(f"setting {name!r} cannot be {str(value)[:64]!r}", _FIXED[name][1])
        elif name not in shown(levels):
            known = ", ".join(shown(Levels()))
            raise _wrong(f"there is no setting {name[:64]!r}", f"the settings are {known}, and log_level.PART")
    if "log_warning" in asked:
        overall = _switched(overall, "log_warning", asked["log_warning"], on=_WARNING, off=_ERROR)
    if "log_info" in asked:
        overall = _switched(overall, "log_info", asked["log_info"], on=_INFO, off=_WARNING)
    if "log_verbose_level" in asked:
        verbose = asked["log_verbose_level"]
        if isinstance(verbose, str | bool):
            raise _wrong("setting 'log_verbose_level' is no number", "0 is as usual, anything above is debug")
        overall = _switched(overall, "log_verbose_level", verbose > 0, on=_DEBUG, off=_INFO)
    return Levels(overall, own)


def _switched(level: Level, name: str, value: Value, *, on: Level, off: Level) -> Level:
    """The level with which lines of the level `on` are written, or are not."""
    if not isinstance(value, bool):
        raise _wrong(f"setting {name!r} is no bool", "give true or false")
    least, most = _LEVELS.index(on), _LEVELS.index(off)
    place = _LEVELS.index(level)
    return _LEVELS[min(place, least) if value else max(place, most)]


def _level(name: str, value: Value) -> Level:
    for level in _LEVELS:
        if value == level:
            return level
    raise _wrong(f"setting {name!r} is {str(value)[:64]!r}", f"it is one of {', '.join(_LEVELS)}")


def _value(name: str, given: pb.LogSettingsRequest.SettingValue) -> Value:
    choice = given.WhichOneof("parameter_choice")
    if choice is None:
        raise _wrong(f"setting {name[:64]!r} has no value", "give one, or leave it out to see what it is")
    value: Value = getattr(given, choice)
    return value


def _setting(value: Value) -> pb.LogSettingsResponse.SettingValue:
    if isinstance(value, bool):
        return pb.LogSettingsResponse.SettingValue(bool_param=value)
    if isinstance(value, int):
        return pb.LogSettingsResponse.SettingValue(uint32_param=value)
    return pb.LogSettingsResponse.SettingValue(string_param=value)


def _wrong(found: str, wanted: str) -> EdgedError:
    return EdgedError(Code.INVALID_ARGUMENT, found, wanted)
