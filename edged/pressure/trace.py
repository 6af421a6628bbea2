"""What the governor saw and decided, one JSON document a line, so that it can be decided again.

The first line is the governor and the state it began with; each further one a moment, its readings and its decision.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

import msgspec

from edged.bundle.manifest import Degradation
from edged.errors import Code, EdgedError
from edged.pressure.governor import Decision, Governor, State
from edged.pressure.policy import Policy
from edged.pressure.readings import Readings
from edged.types import Level

_MAX_LINE_BYTES = 4 * 2**20


class Start(msgspec.Struct, frozen=True):
    """The first line."""

    policy: Policy
    ladders: dict[str, dict[Level, Degradation]]
    state: State
    schema: Literal[1] = 1

    @property
    def governor(self) -> Governor:
        """The one that decided."""
        return Governor(self.policy, self.ladders)


class Moment(msgspec.Struct, frozen=True):
    """Any other line. `now` is of a monotonic clock, in seconds."""

    now: float
    readings: Readings
    decision: Decision


class Replayed(msgspec.Struct, frozen=True):
    """A moment, and what the governor decides today."""

    moment: Moment
    decision: Decision

    @property
    def same(self) -> bool:
        """It decides as it did."""
        return self.decision == self.moment.decision


def replay(path: Path) -> Iterator[Replayed]:
    """Decides every moment of a recorded trace again.

    Raises EdgedError invalid_argument for what is no trace, naming the line; a last line that was cut off is left out.
    """
    with path.open("rb") as file:
        start = _decode(_line(file), Start, path, 1)
        governor, state = start.governor, start.state
        number = 1
        while line := _line(file):
            number += 1
            if not line.endswith(b"\n"):
                return
            moment = _decode(line, Moment, path, number)
            state, decision = governor.decide(state, moment.readings, moment.now)
            yield Replayed(moment, decision)


class Recorder:
    """Writes a trace of at most `quota_bytes` as two files in turn: when one is full the other is begun anew.

    Each begins with the state of that moment, so each can be replayed alone. Nothing is synced to the disk.
    """

    def __init__(self, folder: Path, quota_bytes: int, governor: Governor) -> None:
        self._paths = [folder / f"pressure-{number}.trace" for number in range(2)]
        self._each_bytes = quota_bytes // 2
        self._governor = governor
        self._file: BinaryIO | None = None
        self._size = 0

    def record(self, before: State, now: float, readings: Readings, decision: Decision) -> None:
        """Adds a moment; `before`: the state that it was decided in. Raises OSError."""
        line = msgspec.json.encode(Moment(now, readings, decision)) + b"\n"
        if self._file is None or self._size + len(line) > self._each_bytes:
            self._begin(before)
        self._write(line)

    def govern(self, governor: Governor) -> None:
        """Another governor decides from now on: the next moment begins a file."""
        self._governor = governor
        self.close()

    def close(self) -> None:
        """Ends the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self, state: State) -> None:
        self.close()
        self._paths.reverse()
        self._file = self._paths[0].open("wb", buffering=0)
        self._size = 0
        ladders = {model: dict(ladder) for model, ladder in self._governor.ladders.items()}
        self._write(msgspec.json.encode(Start(self._governor.policy, ladders, state)) + b"\n")

    def _write(self, line: bytes) -> None:
        assert self._file is not None  # noqa: S101 - narrows the type
        self._file.write(line)
        self._size += len(line)


def _line(file: BinaryIO) -> bytes:
    return file.readline(_MAX_LINE_BYTES)


_Kind = TypeVar("_Kind", Start, Moment)


def _decode(line: bytes, kind: type[_Kind], path: Path, number: int) -> _Kind:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "give a file that edged has written, whole lines of it"
        raise EdgedError(Code.INVALID_ARGUMENT, f"{path}:{number} is no line of a trace: {error}", hint) from error
