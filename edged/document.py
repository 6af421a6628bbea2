"""TOML documents that people write: read with limits, and every problem shown at its file, line and key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edged import schema
from edged.errors import Code, EdgedError

# A document longer than this was not written by a person, and finding its lines would take minutes.
MAX_BYTES = 256 * 1024


class Place(msgspec.Struct, frozen=True):
    """Where a value stands: a file, and a line counted from 1 (0: the file as a whole)."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong in a document: where, under which key, what came, and what to do or what is allowed."""

    place: Place
    key: str
    found: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.place}: {self.key}" if self.key else str(self.place)
        return f"{where}: {self.found}; {self.remedy}"


class DocumentError(EdgedError):
    """Everything that is wrong in one or several documents, one line each."""

    def __init__(self, code: Code, problems: Sequence[Problem]) -> None:
        super().__init__(code, "\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class Document(msgspec.Struct, frozen=True):
    """A parsed file and the text it came from."""

    file: str
    text: str
    data: dict[str, Any]

    def place(self, key: schema.Key) -> Place:
        """The line on which `key` is given, or its nearest parent.

        tomllib keeps no lines, so the file is read again line by line: a key stands where the shortest
        readable beginning of the file that holds it has grown.
        """
        lines = self.text.splitlines()
        start = 0
        for end in range(1, len(lines) + 1):
            try:
                data = tomllib.loads("\n".join(lines[:end]))
            except tomllib.TOMLDecodeError:
                continue  # these lines end inside a value that goes on
            if _holds(data, key):
                return Place(self.file, _first_of(lines, start, end))
            start = end
        return self.place(key[:-1]) if len(key) > 1 else Place(self.file)

    def problems(self, wanted: Any) -> Iterator[Problem]:
        """Everything in the document that does not fit the type `wanted`."""
        for misfit in schema.misfits(self.data, wanted):
            yield self.problem(misfit)

    def problem(self, misfit: schema.Misfit) -> Problem:
        """`misfit` with its place in this document."""
        return Problem(self.place(misfit.key), schema.dotted(misfit.key), misfit.found, misfit.remedy)


def _first_of(lines: list[str], start: int, end: int) -> int:
    """The first line of a value that spans lines[start:end], counted from 1."""
    for number in range(start, end):
        if lines[number].strip() and not lines[number].lstrip().startswith("#"):
            return number + 1
    return end


def _holds(data: object, key: schema.Key) -> bool:
    for part in key:
        if isinstance(part, int):
            if not isinstance(data, list) or part >= len(data):
                return False
            data = data[part]
        else:
            if not isinstance(data, dict) or part not in data:
                return False
            data = data[part]
    return True


def read(path: Path, code: Code) -> Document:
    """Reads a TOML file. Raises EdgedError with `code`, naming file and line, when that cannot be done."""
    raw = b""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise EdgedError(
                code,
                f"{path}: is larger than {MAX_BYTES // 1024} KiB",
                "nobody writes a file this long by hand; is it the right one?",
            )
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
        return Document(str(path), text, tomllib.loads(text))
    except OSError as error:
        hint = "check that it is a file and who may read it"
        raise EdgedError(code, f"{path}: cannot be read: {error.strerror}", hint) from error
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise EdgedError(code, f"{path}:{line}: is not UTF-8 text", "save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise EdgedError(code, f"{path}: is not TOML: {error}", "mend the line named") from error
    except RecursionError as error:
        raise EdgedError(code, f"{path}: is nested too deeply", "flatten its arrays and tables") from error
