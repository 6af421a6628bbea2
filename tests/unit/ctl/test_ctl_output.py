"""How answers are written: for people at a terminal, for pipes, for programs."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator

import pytest
from rich.cells import cell_len
from rich.console import Console

from edged.ctl import output
from edged.ctl.output import Column, Table

LONG = "a sentence that is much longer than the eighty columns that a terminal has when nobody has made it wider"
TABLE = Table(
    (Column("NAME", wraps=True), Column("COUNT", right=True), Column("STATE"), Column("WHY", wraps=True)),
    [("digits", "7", "ready", ""), ("x" * 64, "12345", "failed", LONG), ("[red]:smile:", "1", "odd", "\x1b[2J")],
)


class Terminal(io.StringIO):
    """A terminal of as many columns as COLUMNS says."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COLUMNS": "80", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)


@contextlib.contextmanager
def terminal() -> Iterator[Terminal]:
    """Standard output is a terminal."""
    with contextlib.redirect_stdout(Terminal()) as found:
        yield found


def bare(text: str) -> str:
    """The text without its colours; nothing else may be an escape sequence."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_in_a_pipe_a_row_is_a_whole_line_without_colour(capsys: pytest.CaptureFixture[str]):
    output.table(TABLE)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["NAME", "COUNT", "STATE", "WHY"]
    assert lines[2].split(maxsplit=3) == ["x" * 64, "12345", "failed", LONG]
    assert all("\x1b" not in line and line == line.rstrip() for line in lines)
    assert lines[1].index("7") == lines[0].index("COUNT") + len("COUNT") - 1  # numbers stand to the right


def test_on_a_terminal_lines_fit_and_nothing_is_lost():
    with terminal() as shown:
        output.table(TABLE)
    lines = bare(shown.getvalue()).splitlines()
    assert all(cell_len(line) <= 80 for line in lines)
    text = "".join("".join(lines).split())
    assert text.count("x") >= 64
    assert "12345" in text
    assert "failed" in text
    assert "…" not in text


def words(columns: int) -> tuple[Table, list[str]]:
    """A table of values that fits into `columns` by one letter less than it has, and its values."""
    values = ["digits", "1", "int8", "7795", "ready"]
    values.append("9" * (columns + 1 - sum(map(len, values)) - 2 * len(values)))
    titles = (Column("M", wraps=True), Column("R", right=True), Column("V", wraps=True), *map(Column, "PSC"))
    return Table(titles, [values]), values


@pytest.mark.parametrize("columns", [40, 80])
def test_what_does_not_fit_stands_on_a_further_line_and_no_value_is_split(
    columns: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", str(columns))
    table, values = words(columns)
    with terminal() as shown:
        output.table(table)
    titles, more_titles, row, more = bare(shown.getvalue()).splitlines()
    assert [*titles.split(), *more_titles.split()] == ["M", "R", "V", "P", "S", "C"]
    assert [*row.split(), *more.split()] == values
    assert more.startswith("  ")
    assert "\x1b[32mready" in shown.getvalue()
    monkeypatch.setenv("COLUMNS", str(columns + 1))
    with terminal() as shown:
        output.table(table)
    assert [line.split() for line in bare(shown.getvalue()).splitlines()] == [["M", "R", "V", "P", "S", "C"], values]


def test_a_view_that_is_drawn_again_splits_no_value_either():
    table, values = words(80)
    console = Console(width=80, file=Terminal())
    with console.capture() as captured:
        console.print(output.rendered("said", table, console.width))
    assert bare(captured.get()).split() == ["said", "M", "R", "V", "P", "S", "C", *values]


def test_a_terminal_shows_colour_and_no_foreign_markup_or_control():
    with terminal() as found:
        output.table(TABLE)
        output.line("[bold]not bold[/bold] :smile: \x1b[2J")
    shown = found.getvalue()
    assert "\x1b[32mready" in shown
    assert "\x1b[31mfailed" in shown
    assert "[bold]not bold[/bold] :smile: \\x1b[2J" in shown
    assert "[red]:smile:" in shown
    assert "\x1b" not in bare(shown)


def test_fields_have_no_titles(capsys: pytest.CaptureFixture[str]):
    output.table(output.fields([("state", "serving"), ("", "more")]))
    assert capsys.readouterr().out == "state  serving\n       more\n"


def test_an_empty_table_is_its_titles():
    assert list(output.plain(Table((Column("A"), Column("B")), []))) == ["A  B"]
    assert list(output.plain(output.fields([]))) == []


def test_lines_are_broken_between_words_on_a_terminal_only(capsys: pytest.CaptureFixture[str]):
    with terminal() as shown:
        output.line(LONG)
    assert len(shown.getvalue().splitlines()) == 2
    assert shown.getvalue().split() == LONG.split()
    output.line(LONG)
    assert capsys.readouterr().out == LONG + "\n"


def test_a_document_is_one_line_of_ascii_in_a_pipe(capsys: pytest.CaptureFixture[str]):
    output.document({"name": "défauts\x1b\x9b\u202e", "more": [1, 2]})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {"name": "défauts\x1b\x9b\u202e", "more": [1, 2]}


def test_a_document_is_indented_on_a_terminal():
    with terminal() as shown:
        output.document({"a": [1]})
    assert shown.getvalue() == '{\n  "a": [\n    1\n  ]\n}\n'


def test_complaints_go_to_standard_error(capsys: pytest.CaptureFixture[str]):
    output.warn("a\nb")
    output.note("c")
    output.fail("\x1b")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "edgectl: warning: a; b\nedgectl: note: c\nedgectl: \\x1b\n"
