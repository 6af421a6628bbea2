"""The options that every command takes, before or after its name, and what follows from them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from edged.config import names
from edged.config.load import load
from edged.config.settings import Settings
from edged.ctl import output
from edged.ctl.numbers import Number
from edged.document import DocumentError
from edged.errors import EdgedError

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


class Asked(msgspec.Struct, dict=True):
    """How edgectl was called, the command apart."""

    root: Path = Path("/")
    files: tuple[Path, ...] = ()
    """The settings files that edged was started with; none for those that it finds."""
    timeout_s: float = 10.0
    as_json: bool = False
    quiet: bool = False
    """Says nothing about settings that are wrong: a shell is completing a line."""

    @cached_property
    def settings(self) -> Settings:
        """The device's settings, their paths as written.

        Where the files are wrong, with a warning: those that edged would then start on or, where there are none that
        may be read, the defaults.
        """
        try:
            return load(self.root, self.files).settings
        except DocumentError as error:
            recalled = self._recall()
            if not self.quiet:
                first, *others = str(error).splitlines()
                more = f" (and {len(others)} more)" if others else ""
                which = "the default ones are" if recalled is None else "the last good ones are"
                check = self.daemon_command("--check-config")
                output.warn(f"the settings cannot be used, so {which}: {first}{more}; see `{check}`")
            return recalled or Settings()

    def _recall(self) -> Settings | None:
        from edged.config import last_good  # here, since it costs more than all else that finds a socket

        path = last_good.place(self.root, self.files)
        try:
            daemon = path.parent.stat().st_uid  # edgectl is often run by another, with sudo
        except OSError:
            return None
        return last_good.recall(path, self.root, daemon)

    def daemon_command(self, *options: str) -> str:
        """The command line of edged that is for the same daemon."""
        root = [] if self.root == Path("/") else ["--root", str(self.root)]
        files = [word for file in self.files for word in ("--config", str(file))]
        return shlex.join(["edged", *options, *root, *files])

    @property
    def start_hint(self) -> str:
        """What to do where nobody is found on the sockets that the settings name."""
        given = {"--root": self.root != Path("/"), "--config": bool(self.files)}
        start = self.daemon_command() if any(given.values()) else "systemctl start edged"
        others = " or ".join(option for option in given if not given[option])
        return f"start it with `{start}`" + (f", or say with {others} how it was started" if others else "")


def _take(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keeps what was given: the last one said holds."""
    if value is not None and value is not False:
        setattr(ctx.ensure_object(Asked), str(param.name), value)


def _take_root(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    _take(ctx, param, value and _usable(value))


def _take_files(ctx: click.Context, param: click.Parameter, value: tuple[Path, ...]) -> None:  # noqa: ARG001 - click's
    """Adds to those that were given before: of these, each holds."""
    ctx.ensure_object(Asked).files += tuple(map(_usable, value))


def _usable(path: Path) -> Path:
    """The path made absolute. Raises click.BadParameter when it cannot be used."""
    path = path.absolute()
    try:
        names.check(path)
    except EdgedError as error:
        raise click.BadParameter(str(error)) from error
    return path


def _options(*, on_group: bool) -> list[Callable[[_Decorated], _Decorated]]:
    return [
        click.option(
            "--root",
            type=click.Path(path_type=Path),
            expose_value=False,
            callback=_take_root,
            envvar="EDGED_ROOT" if on_group else None,
            hidden=not on_group,
            help="Folder under which edged was started, as in `edged --root`.  [env: EDGED_ROOT; default: /]",
        ),
        click.option(
            "--config",
            "files",
            type=click.Path(path_type=Path),
            multiple=True,
            metavar="FILE",
            expose_value=False,
            callback=_take_files,
            hidden=not on_group,
            help="Settings file with which edged was started, as in `edged --config`; may be given again.",
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
