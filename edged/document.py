"""TOML documents that people write: read with limits, and every problem shown at its file, line and key."""

from __future__ import annotations

import codecs
import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from edged import schema
from edged.errors import Code, EdgedError

# Nobody writes more than this by hand, and reading it must not take long on a small device.
MAX_BYTES = 256 * 1024
# Arrays and tables inside each other, and the parts of one dotted key; tomllib's time grows with their square.
MAX_DEPTH = 64

# What decides where a statement of TOML ends. Each alternative also matches what is not closed: any text is taken
# apart in one pass, valid or not.
_TOKEN = re.compile(
    r"""
      \"{3} (?: \\. | [^\\] )*? (?: \"{3,5} | \\?\Z )
    | '{3} .*? (?: '{3,5} | \Z )
    | " (?: \\. | [^"\\\n] )* "?
    | ' [^'\n]* '?
    | \# [^\n]*
    | [][{}=,.\n]
    """,
    re.VERBOSE | re.DOTALL,
)


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


class Document(msgspec.Struct, frozen=True, dict=True):
    """A parsed file and the text it came from."""

    file: str
    text: str
    data: dict[str, Any]

    @cached_property
    def lines(self) -> dict[schema.Key, int]:
        """The line on which each key is given first; tomllib keeps none, so the statements are read one by one."""
        return _lines(self.text)

    def place(self, key: schema.Key) -> Place:
        """The line on which `key` is given, or its nearest parent."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.lines:
                return Place(self.file, self.lines[key[:end]])
        return Place(self.file)

    def problems(self, wanted: Any) -> Iterator[Problem]:
        """Everything in the document that does not fit the type `wanted`."""
        for misfit in schema.misfits(self.data, wanted):
            yield self.problem(misfit)

    def problem(self, misfit: schema.Misfit) -> Problem:
        """`misfit` with its place in this document."""
        return Problem(self.place(misfit.key), schema.dotted(misfit.key), misfit.found, misfit.remedy)


def read(path: Path, code: Code) -> Document:
    """Reads a TOML file. Raises DocumentError with `code`, naming file and line, when that cannot be done."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        found = f"cannot be read: {error.strerror}"
        problem = Problem(Place(str(path)), "", found, "check that it is a file and who may read it")
        raise DocumentError(code, [problem]) from error
    return parse(raw, str(path), code)


def parse(raw: bytes, file: str, code: Code) -> Document:
    """Reads TOML from the content of `file`. Raises DocumentError with `code`, naming file and line."""

    def refusal(line: int, found: str, remedy: str) -> DocumentError:
        return DocumentError(code, [Problem(Place(file, line), "", found, remedy)])

    if len(raw) > MAX_BYTES:
        remedy = "nobody writes a file this long by hand; is it the right one?"
        raise refusal(0, f"is larger than {MAX_BYTES // 1024} KiB", remedy)
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        text = raw.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise refusal(raw.count(b"\n", 0, error.start) + 1, "is not UTF-8 text", "save the file as UTF-8") from error
    for line, _, depth in _statements(text):
        if depth > MAX_DEPTH:
            raise refusal(line, "is nested too deeply", f"at most {MAX_DEPTH} arrays, tables or parts of a key")
    try:
        return Document(file, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        line, found = _syntax_error(str(error), text)
        twice = "overwrite" in found or "twice" in found
        remedy = "a key or table stands in a file once" if twice else "mend this line"
        raise refusal(line, f"is not TOML: {found}", remedy) from error
    except (ValueError, RecursionError) as error:  # Python's own bounds: integers of more than 4300 digits
        raise refusal(_unreadable_line(text), "is not TOML that can be read here", "shorten this value") from error


def _syntax_error(message: str, text: str) -> tuple[int, str]:
    """The line that is wrong, and what tomllib says of it."""
    what, _, where = message.rpartition(" (at ")
    if named := re.fullmatch(r"line (\d+), (column \d+)\)", where):
        return int(named[1]), f"{what} at {named[2]}"
    # It names the end of the document for what is not closed, wherever that began, and for what stands there.
    last = max((line for line, statement, _ in _statements(text) if statement.strip()), default=1)
    return _unreadable_line(text) or last, what or message


def _unreadable_line(text: str) -> int:
    """The first line of the first statement that cannot be read; 0 where each can."""
    for line, statement, _ in _statements(text):
        try:
            tomllib.loads(statement)
        except (ValueError, RecursionError):
            return line
    return 0


def _statements(text: str) -> Iterator[tuple[int, str, int]]:
    """The statements of a TOML text, blank lines and comments among them: first line, text, deepest nesting."""
    line, start, depth, dots, deepest = 1, 0, 0, 0, 0
    for token in _TOKEN.finditer(text):
        match token[0]:
            case "[" | "{":
                depth += 1
                dots = 0
            case "]" | "}":
                depth = max(depth - 1, 0)
                dots = 0
            case "=" | ",":
                dots = 0
            case ".":
                dots += 1
            case "\n" if not depth:
                yield line, text[start : token.start()], deepest
                line += text.count("\n", start, token.end())
                start, dots, deepest = token.end(), 0, 0
        deepest = max(deepest, depth, dots)
    if start < len(text):
        yield line, text[start:], deepest


def _lines(text: str) -> dict[schema.Key, int]:
    lines: dict[schema.Key, int] = {}
    items: dict[schema.Key, int] = {}  # how many [[name]] of each array of tables have come
    table: schema.Key = ()
    for line, statement, _ in _statements(text):
        data: Any = tomllib.loads(statement)
        if not statement.lstrip().startswith("["):
            for key in _keys(data, table):
                lines.setdefault(key, line)
            continue
        table = ()
        while data:
            ((name, data),) = data.items()
            table = (*table, name)
            lines.setdefault(table, line)
            if isinstance(data, list):
                items[table] = items.get(table, 0) + 1
                data = {}
            if table in items:
                table = (*table, items[table] - 1)
                lines.setdefault(table, line)
    return lines


def _keys(data: Any, key: schema.Key) -> Iterator[schema.Key]:
    """Every key at or below `key` that `data` gives."""
    if key:
        yield key
    if isinstance(data, dict):
        for name, part in data.items():
            yield from _keys(part, (*key, name))
    elif isinstance(data, list):
        for index, part in enumerate(data):
            yield from _keys(part, (*key, index))
