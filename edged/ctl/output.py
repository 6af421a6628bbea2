"""Where answers go: tables and lines on a terminal, the same without colour elsewhere, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from edged.ctl.words import safe

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table as Grid
    from rich.text import Text

_GAP = "  "

# Words that are worth a colour where a cell begins with them; the first column holds names.
_STYLES = {
    "ready": "green",
    "serving": "green",
    "good": "green",
    "nominal": "green",
    "starting": "yellow",
    "loading": "yellow",
    "degraded": "yellow",
    "draining": "yellow",
    "unloading": "yellow",
    "elevated": "yellow",
    "warning": "yellow",
    "failed": "red",
    "unavailable": "red",
    "error": "red",
    "critical": "red",
    "emergency": "red",
    "ended": "red",
}


class Column(msgspec.Struct, frozen=True):
    """A column's title; numbers stand to the right, and only what wraps is broken where a terminal is narrow."""

    title: str
    right: bool = False
    wraps: bool = False


class Table(msgspec.Struct, frozen=True):
    """Cells of text, row by row. Without titles it is a list of names and values."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    @property
    def titled(self) -> bool:
        """Whether there is a row of titles."""
        return any(column.title for column in self.columns)


def fields(pairs: Iterable[tuple[str, str]]) -> Table:
    """Names and values, one pair a line."""
    return Table((Column(""), Column("", wraps=True)), list(pairs))


def document(data: Any) -> None:
    """Writes one JSON document, on one line where no person reads it. ASCII, so that nothing steers a terminal."""
    sys.stdout.write(json.dumps(data, indent=2 if sys.stdout.isatty() else None, allow_nan=False) + "\n")
    sys.stdout.flush()


def line(text: str = "") -> None:
    """Writes a line of text, broken between words where a terminal is narrow."""
    if sys.stdout.isatty():
        from rich.text import Text

        _console(sys.stdout).print(Text(safe(text)))
    else:
        sys.stdout.write(safe(text) + "\n")
    sys.stdout.flush()


def table(what: Table) -> None:
    """Writes a table: fitted to the terminal where there is one, else a line a row, never cut."""
    if sys.stdout.isatty():
        console = _console(sys.stdout)
        console.print(_fitted(what, console.width))
    else:
        sys.stdout.writelines(f"{text}\n" for text in plain(what))
    sys.stdout.flush()


def warn(text: str) -> None:
    """Says on standard error what is not as it should be; the command goes on."""
    _complain(f"warning: {text}")


def note(text: str) -> None:
    """Says on standard error what was done to make something fit."""
    _complain(f"note: {text}")


def fail(text: str) -> None:
    """Says on standard error why the command ends."""
    _complain(text)


def _complain(text: str) -> None:
    sys.stderr.write(f"edgectl: {safe(text)}\n")


def plain(what: Table) -> Iterator[str]:
    """The table as lines, each column as wide as its widest cell."""
    for cells in _laid(what):
        yield _GAP.join(cell for _, cell in cells).rstrip()


def _laid(what: Table, most: int = 0) -> Iterator[list[tuple[str, str]]]:
    """The table's lines: the style of each cell, and the cell, as wide as the widest of its column.

    Columns that would end beyond `most` letters (0: any number) stand on further lines, which are indented.
    """
    titles = [tuple(column.title for column in what.columns)] if what.titled else []
    rows = [[safe(cell) for cell in row] for row in (*titles, *what.rows)]
    widths = [max((len(row[index]) for row in rows), default=0) for index in range(len(what.columns))]
    lines: list[list[int]] = [[]]
    end = -len(_GAP)
    for index, width in enumerate(widths):
        end += len(_GAP) + width
        if lines[-1] and 0 < most < end:
            lines.append([])
            end = len(_GAP) + width
        lines[-1].append(index)
    for number, row in enumerate(rows):
        cells = [
            ("bold" if number < len(titles) else _style(cell) if index else "", _padded(cell, widths[index], column))
            for index, (cell, column) in enumerate(zip(row, what.columns, strict=True))
        ]
        for further, indices in enumerate(lines):
            found = [cells[index] for index in indices]
            yield [("", ""), *found] if further else found


def _padded(cell: str, width: int, column: Column) -> str:
    return cell.rjust(width) if column.right else cell.ljust(width)


def _console(file: TextIO) -> Console:
    from rich.console import Console

    return Console(file=file, markup=False, emoji=False, highlight=False)


def _style(cell: str) -> str:
    return _STYLES.get(cell.partition(",")[0], "")


def rendered(text: str, what: Table, columns: int) -> Group:
    """A line of text and a table, for a view of so many columns that draws them again and again."""
    from rich.console import Group
    from rich.text import Text

    return Group(Text(safe(text)), Text(), _fitted(what, columns))


def _fitted(what: Table, columns: int) -> Grid | Text:
    """The table; where that would cut a value, its lines, with the columns beyond the terminal's on further ones."""
    from rich.text import Text

    if _least(what) <= columns:
        return _grid(what)
    lines = []
    for cells in _laid(what, columns):
        styled = Text(_GAP).join(Text(cell, style) for style, cell in cells)
        styled.rstrip()
        lines.append(styled)
    return Text("\n").join(lines)


def _least(what: Table) -> int:
    """The columns that a terminal must have for no value to be cut: only prose is broken, and between its words."""
    from rich.cells import cell_len

    titles = [column.title for column in what.columns]
    cells = [[safe(cell) for cell in row] for row in (titles, *what.rows)]
    widths = (
        max(cell_len(part) for row in cells for part in (row[index].split() if column.wraps else [row[index]]) or [""])
        for index, column in enumerate(what.columns)
    )
    return sum(widths) + len(_GAP) * (len(titles) - 1)


def _grid(what: Table) -> Grid:
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, show_header=what.titled, header_style="bold", pad_edge=False, padding=(0, len(_GAP), 0, 0))
    for column in what.columns:
        grid.add_column(
            column.title, justify="right" if column.right else "left", no_wrap=not column.wraps, overflow="fold"
        )
    for row in what.rows:
        grid.add_row(*(Text(safe(cell), _style(cell) if index else "") for index, cell in enumerate(row)))
    return grid
