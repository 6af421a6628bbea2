"""`edgectl top`: what is asked of the models now, how long it takes, and what it costs."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
import msgspec

from edged import clock
from edged.ctl import output
from edged.ctl.asked import Asked, common
from edged.ctl.numbers import Number
from edged.ctl.output import Column, Table
from edged.ctl.words import mib

if TYPE_CHECKING:
    from edged._pb.edged.v1 import admin_pb2
    from edged.ctl.client import Client
    from edged.ctl.rates import Rates

_COLUMNS = (
    Column("MODEL", wraps=True),
    Column("REV", right=True),
    Column("STATE"),
    *(Column(title, right=True) for title in ("REQ/S", "FAIL/S", "REF/S", "P50", "P99", "WAIT", "CPU%", "MIB")),
)


@click.command
@common
@click.option("--once", is_flag=True, help="Measure once, print it, and end; so it is on no or a dumb terminal.")
@click.option(
    "--every",
    "every_s",
    type=Number(0.2, 60),
    default=1,
    show_default=True,
    metavar="SECONDS",
    help="How long each look measures.",
)
@click.pass_obj
def top(asked: Asked, *, once: bool, every_s: float) -> None:
    """A live view of what is asked, how long it takes, and what it costs.

    q or Ctrl-C ends it.

    \b
    REQ/S   requests that were answered
    FAIL/S  failed by the model or edged; REF/S refused or given up
    P50     how long requests took in the last 30 to 60 seconds, in
            milliseconds: half took less; of a hundred, 99 less than P99
    WAIT    requests that wait now
    CPU%    of one core; MIB: resident memory; both of the workers

    --json tells more: rows, variants, restarts.
    """
    from edged.ctl.client import Client

    with Client(asked, admin=True) as client:
        if asked.as_json or once or not _can_show():
            _print(_measure(client, every_s), as_json=asked.as_json)
        else:
            _show(client, every_s)


def _can_show() -> bool:
    """Whether standard output is a terminal on which a picture can be drawn again; a serial console may be none."""
    from rich.console import Console

    return sys.stdout.isatty() and not Console().is_dumb_terminal


def _measure(client: Client, seconds: float) -> Rates:
    from edged.ctl.rates import rates

    before, began = client.status(), clock.monotonic()
    time.sleep(seconds)
    return rates(before, client.status(), clock.monotonic() - began)


def _print(found: Rates, *, as_json: bool) -> None:
    if as_json:
        output.document(msgspec.to_builtins(found))
        return
    output.line(headline(found))
    output.line()
    output.table(table(found))


def _show(client: Client, every_s: float) -> None:
    """Until q, Ctrl-C or edged's end."""
    from rich.live import Live

    from edged.ctl.rates import rates

    before, at = client.status(), clock.monotonic()
    # A first look at once; what it measures, from the first two states, is short and rough.
    with (
        _keys() as keys,
        Live(screen=True, auto_refresh=False, transient=True) as live,
        contextlib.suppress(KeyboardInterrupt),
    ):
        wait_s = min(every_s, 0.2)
        while not keys(wait_s):
            after: admin_pb2.Status = client.status()
            now = clock.monotonic()
            found = rates(before, after, now - at)
            live.update(output.rendered(headline(found), table(found), live.console.width), refresh=True)
            before, at, wait_s = after, now, every_s


class _Keys:
    """The keyboard, read key by key."""

    def __call__(self, wait_s: float) -> bool:
        """Waits so long, or until q or the end of the input; whether it was one of those."""
        end = clock.monotonic() + wait_s
        while (left_s := end - clock.monotonic()) > 0:
            ready, _, _ = select.select([sys.stdin], [], [], left_s)
            if ready and os.read(sys.stdin.fileno(), 1) in (b"q", b"Q", b""):
                return True
        return False


class _NoKeys:
    """Where the input is no keyboard."""

    def __call__(self, wait_s: float) -> bool:
        """Waits so long."""
        time.sleep(wait_s)
        return False


@contextlib.contextmanager
def _keys() -> Iterator[_Keys | _NoKeys]:
    """The keyboard without echo and without waiting for a line's end, until the context is left."""
    if not sys.stdin.isatty():
        yield _NoKeys()
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield _Keys()
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def headline(found: Rates) -> str:
    """The daemon in a line."""
    own = f"edged {found.cpu_percent:.0f} % of a core, {mib(found.resident_bytes)} MiB"
    return f"{found.summary}; {found.level}; {own}"


def table(found: Rates) -> Table:
    """A line for each model revision."""
    return Table(
        _COLUMNS,
        [
            (
                each.model,
                str(each.revision),
                each.state,
                _rate(each.requests_per_s),
                _rate(each.failed_per_s),
                _rate(each.refused_per_s),
                _ms(each.p50_ms),
                _ms(each.p99_ms),
                str(each.queued),
                "-" if each.cpu_percent is None else f"{each.cpu_percent:.0f}",
                mib(each.resident_bytes),
            )
            for each in found.models
        ],
    )


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or not value else f"{value:.1f}"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
