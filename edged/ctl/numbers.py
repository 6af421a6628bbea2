"""Numbers on the command line, within bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _Type = click.ParamType[float]
else:
    _Type = click.ParamType


class Number(_Type):
    """A number from `low` to `high`; both may be given, and `whole` ones only where it says so."""

    def __init__(self, low: float, high: float, *, whole: bool = False) -> None:
        self.low = low
        self.high = high
        self.whole = whole
        self.name = "whole number" if whole else "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Raises click.BadParameter with the bounds."""
        try:
            found: float = int(value) if self.whole else float(value)
        except ValueError:
            found = self.low - 1
        if not self.low <= found <= self.high:
            self.fail(f"{value} is no {self.name} from {self.low} to {self.high}", param, ctx)
        return found


REVISION = Number(1, 2**53 - 1, whole=True)
"""A revision of a model, as manifests have them."""
