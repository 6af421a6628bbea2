"""How the tour is shown: headings, and the picture of it all."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console


def step(out: Console, title: str, text: str = "") -> None:
    """A heading of the tour."""
    out.print(f"\n[bold green]▸ {title}[/bold green]  {text}")


def lines(out: Console, text: str) -> None:
    """What a command said."""
    out.print("  " + text.replace("\n", "\n  "), markup=False)


def save(out: Console, path: Path) -> None:
    """The tour as a picture, from a console that recorded it."""
    path.write_text(_portable(out.export_svg(title="make demo", code_format=_svg_format())))


def _svg_format() -> str:
    """rich's picture of a terminal without the fonts that it would fetch from elsewhere."""
    from rich._export_format import CONSOLE_SVG_FORMAT

    before, _, after = CONSOLE_SVG_FORMAT.partition("@font-face")
    return before + after[after.index(".{unique_id}-matrix") :]


def _portable(svg: str) -> str:
    """Spaces as spaces: not every program that shows a picture keeps the no-break ones that begin a text."""
    return svg.replace("&#160;", " ").replace("<text ", '<text xml:space="preserve" ')
