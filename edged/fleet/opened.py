"""What the commands have in common: the fleet's folder, its keys' passphrases, progress, what waits for signatures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from edged.ctl import output
from edged.errors import Code, EdgedError
from edged.fleet import roles
from edged.fleet.home import Home
from edged.fleet.keys import Ask, Ring
from edged.fleet.signing import Signing, Waiting

PASSPHRASE_VARIABLE = "EDGED_FLEET_PASSPHRASE"  # noqa: S105 - its name

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def passphrases(command: _Decorated) -> _Decorated:
    """Gives a command the option by which passphrases come from a file."""
    return click.option(
        "--passphrase-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help=f"Passphrases of the keys, one a line.  [else: {PASSPHRASE_VARIABLE}, or they are asked for]",
    )(command)


def of_fleet(command: _Decorated) -> _Decorated:
    """Gives a command the options that name the fleet's folder and open its keys."""
    folder = click.option(
        "--fleet",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="EDGED_FLEET",
        default=Path(),
        metavar="DIR",
        help="The fleet's folder.  [env: EDGED_FLEET; default: the current one]",
    )
    return folder(passphrases(command))


def ring(folder: Path, passphrase_file: Path | None) -> Ring:
    """The keys in `folder`; a person is asked where there is a terminal. Raises EdgedError."""
    return Ring(folder, given(passphrase_file), asker())


def given(passphrase_file: Path | None) -> list[str]:
    """The passphrases that need no asking. Raises EdgedError (key_unusable)."""
    known = [os.environ[PASSPHRASE_VARIABLE]] if os.environ.get(PASSPHRASE_VARIABLE) else []
    if passphrase_file is not None:
        try:
            known += [line for line in passphrase_file.read_text().splitlines() if line]
        except (OSError, UnicodeDecodeError) as error:
            found = f"{passphrase_file}: cannot be read as text"
            raise EdgedError(Code.KEY_UNUSABLE, found, "write one passphrase a line") from error
    return known


def asker() -> Ask | None:
    """Asks a person for a passphrase; None where there is no terminal."""
    return _ask if sys.stdin.isatty() else None


def _ask(what: str) -> str:
    try:
        asked: str = click.prompt(what, hide_input=True, err=True, confirmation_prompt=what.startswith("a new"))
    except click.Abort as error:
        raise KeyboardInterrupt from error
    return asked


@contextmanager
def opened(fleet: Path, passphrase_file: Path | None, *, changes: bool = True) -> Iterator[Signing]:
    """The metadata of the fleet in a folder, locked meanwhile. Raises EdgedError.

    `changes`: what was begun before is ended first, which takes keys.
    """
    home = Home(fleet)
    with home.locked():
        signing = Signing(home, ring(home.keys, passphrase_file))
        if changes:
            signing.settle()
        yield signing


@contextmanager
def bar(label: str, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, where that is a terminal: to be called with what is done and what there is in all."""
    if not (shown and sys.stderr.isatty()):
        yield lambda _done, _total: None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr) as shown_bar:

        def told(done: int, total: int) -> None:
            shown_bar.length = max(total, 1)
            shown_bar.update(done - shown_bar.pos)

        yield told
        shown_bar.update((shown_bar.length or 1) - shown_bar.pos)


def waits(waiting: Sequence[Waiting], *changed: str) -> bool:
    """Whether a change of these roles is not published yet."""
    return any(roles.keyed(each.role) in (*changed, *roles.ONLINE) for each in waiting)


def tell_waiting(waiting: Sequence[Waiting]) -> None:
    """Says what is not published yet, and what is to be done about it."""
    for each in waiting:
        output.line(f"waits: {each}")
    if waiting and all(each.role in roles.ONLINE for each in waiting):
        output.line("run `edgectl fleet renew` where those keys are")
    elif waiting:
        output.line(
            "carry the folder pending/ to where those keys are, run `edgectl fleet sign` there, carry it back, "
            "and run `edgectl fleet renew`"
        )


def waiting_data(waiting: Sequence[Waiting]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [{"edit": each.edit, "role": each.role, "has": each.has, "needs": each.needs} for each in waiting]
