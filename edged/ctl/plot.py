"""Curves over time as a PNG, one panel below the other, drawn with Pillow alone."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import msgspec
from PIL import Image, ImageDraw, ImageFont

from edged import durable
from edged.pressure.levels import severity
from edged.pressure.trace import Replayed

_WIDTH, _PANEL, _LEFT, _RIGHT, _TOP, _GAP = 1200, 190, 90, 20, 30, 40
_COLOURS = ("#1f5fbf", "#c2410c", "#15803d", "#7e22ce")
_INK, _GRID, _PAPER, _MARK = "#222222", "#dddddd", "#ffffff", "#b91c1c"


class Curve(msgspec.Struct, frozen=True):
    """Values at times in seconds. `steps`: each holds until the next."""

    name: str
    points: Sequence[tuple[float, float]]
    steps: bool = False


class Panel(msgspec.Struct, frozen=True):
    """Curves with one axis; `marks` are lines across, with their names; `words` name whole numbers of the axis."""

    title: str
    curves: Sequence[Curve]
    low: float
    high: float
    marks: Sequence[tuple[str, float]] = ()
    words: Sequence[str] = ()


def of_trace(replayed: Sequence[Replayed]) -> list[Panel]:
    """Temperatures, the duty, the level and the load of a trace; minutes begin with it."""
    first = replayed[0].moment.now if replayed else 0.0
    times = [each.moment.now - first for each in replayed]
    temperatures: dict[str, list[tuple[float, float]]] = {}
    for at, each in zip(times, replayed, strict=True):
        for reading in each.moment.readings.temperatures:
            if reading.celsius is not None and reading.name not in each.decision.distrusted:
                temperatures.setdefault(reading.name, []).append((at, reading.celsius))
    values = [celsius for points in temperatures.values() for _, celsius in points]
    low, high = min(values, default=20.0), max(values, default=90.0)
    curves = [Curve(name, points) for name, points in list(temperatures.items())[: len(_COLOURS)]]
    duty = [(at, each.decision.limits.duty) for at, each in zip(times, replayed, strict=True)]
    level = [(at, float(severity(each.decision.limits.level))) for at, each in zip(times, replayed, strict=True)]
    load = [(at, each.moment.readings.load or 0.0) for at, each in zip(times, replayed, strict=True)]
    return [
        Panel("temperature, °C", curves, low - 2, high + 2),
        Panel("duty", [Curve("duty", duty, steps=True)], 0, 1.05),
        level_panel([Curve("level", level, steps=True)]),
        Panel("throughput, as the share of time in which inferences ran", [Curve("load", load)], 0, 1.05),
    ]


def level_panel(curves: Sequence[Curve]) -> Panel:
    """The axis of levels."""
    return Panel("level", curves, 0, 3.2, words=("nominal", "elevated", "critical", "emergency"))


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Writes the picture. Raises OSError."""
    picture = Image.new("RGB", (_WIDTH, _TOP + len(panels) * (_PANEL + _GAP)), _PAPER)
    canvas = ImageDraw.Draw(picture)
    font = ImageFont.load_default(13)
    last = max((at for panel in panels for curve in panel.curves for at, _ in curve.points), default=1.0) or 1.0
    for number, panel in enumerate(panels):
        _panel(canvas, font, panel, _TOP + number * (_PANEL + _GAP), last)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    durable.write(path, content.getvalue(), 0o644)


def _panel(
    canvas: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, panel: Panel, top: int, last: float
) -> None:
    right, bottom = _WIDTH - _RIGHT, top + _PANEL
    span = panel.high - panel.low or 1.0

    def place(at: float, value: float) -> tuple[float, float]:
        inside = min(max((value - panel.low) / span, 0.0), 1.0)
        return _LEFT + (right - _LEFT) * at / last, bottom - _PANEL * inside

    for value in range(len(panel.words)) if panel.words else _ticks(panel.low, panel.high):
        _, y = place(0, value)
        canvas.line([(_LEFT, y), (right, y)], _GRID)
        word = panel.words[int(value)] if panel.words else f"{value:g}"
        canvas.text((_LEFT - 6, y), word, _INK, font, anchor="rm")
    for minute in _ticks(0, last / 60):
        x, _ = place(minute * 60, panel.low)
        canvas.line([(x, top), (x, bottom)], _GRID)
        canvas.text((x, bottom + 4), f"{minute:g} min", _INK, font, anchor="ma")
    canvas.rectangle([(_LEFT, top), (right, bottom)], outline=_INK)
    canvas.text((_LEFT, top - 5), panel.title, _INK, font, anchor="ls")
    for name, value in panel.marks:
        _, y = place(0, value)
        canvas.line([(_LEFT, y), (right, y)], _MARK)
        canvas.text((_LEFT + 4, y - 2), name, _MARK, font, anchor="ls")
    x = float(right)
    for number, curve in reversed(list(enumerate(panel.curves))):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [place(at, value) for at, value in curve.points]
        if curve.steps:
            points = [each for one, other in itertools.pairwise(points) for each in (one, (other[0], one[1]))]
        if len(points) > 1:
            canvas.line(points, colour, 2)
        canvas.text((x, top - 5), curve.name, colour, font, anchor="rs")
        x -= canvas.textlength(curve.name, font) + 16


def _ticks(low: float, high: float) -> list[float]:
    """Some five round numbers between."""
    size = 10.0 ** (len(str(int(max(high - low, 1)))) - 1) if high - low >= 1 else 0.1
    step = next((size * times for times in (0.2, 0.5, 1, 2, 5, 10) if (high - low) / (size * times) <= 6), size)
    first = int(low / step) * step
    return [value for number in range(20) if low <= (value := round(first + number * step, 6)) <= high]
