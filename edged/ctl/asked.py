"""The options that every command takes, before or after its name, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from edged.config.load import load
from edged.config.settings import Settings
from edged.ctl import output
from edged.ctl.numbers import Number
from edged.errors import EdgedError

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


class Asked(msgspec.Struct, dict=True):
    """How edgectl was called, the command apart."""

    root: Path = Path("/")
    timeout_s: float = 10.0
    as_json: bool = False
    quiet: bool = False
    """Says nothing about settings that are wrong: a shell is completing a line."""

    @cached_property
    def settings(self) -> Settings:
        """The device's settings, their paths as written; the defaults, with a warning, where the files are wrong."""
        try:
            return load(self.root).settings
        except EdgedError as error:
            if not self.quiet:
                first, *others = str(error).splitlines()
                more = f" (and {len(others)} more)" if others else ""
                check = "edged --check-config" + ("" if self.root == Path("/") else f" --root {self.root}")
                output.warn(f"the settings cannot be used, so the default ones are: {first}{more}; see `{check}`")
            return Settings()


def _take(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keeps what was given: the last one said holds."""
    if value is not None and value is not False:
        setattr(ctx.ensure_object(Asked), str(param.name), value)


def _absolute(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    _take(ctx, param, value and value.absolute())


def _options(*, on_group: bool) -> list[Callable[[_Decorated], _Decorated]]:
    return [
        click.option(
            "--root",
            type=click.Path(path_type=Path),
            expose_value=False,
            callback=_absolute,
            envvar="EDGED_ROOT" if on_group else None,
            hidden=not on_group,
            help="Folder under which edged was started, as in `edged --root`.  [env: EDGED_ROOT; default: /]",
        ),
        click.option(
            "--timeout",
            "timeout_s",
            type=Number(0.001, 86_400),
            metavar="SECONDS",
            expose_value=False,
            callback=_take,
            hidden=not on_group,
            help="How long edged may take to answer.  [default: 10]",
        ),
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            expose_value=False,
            callback=_take,
            help="For programs: one JSON document on standard output.",
        ),
    ]


def on_group(group: _Decorated) -> _Decorated:
    """Gives a group the common options."""
    for option in reversed(_options(on_group=True)):
        group = option(group)
    return group


def common(command: _Decorated) -> _Decorated:
    """Gives a command the common options: people type them there too."""
    for option in reversed(_options(on_group=False)):
        command = option(command)
    return command
