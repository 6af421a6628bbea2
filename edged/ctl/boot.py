"""What a boot check asks of edged: `edgectl boot`, run by greenboot or by hand."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from edged import clock
from edged.ctl import faults, output
from edged.ctl.asked import Asked, common
from edged.ctl.numbers import Number
from edged.errors import Code, EdgedError
from edged.system import deployment
from edged.system.deployment import Known

_Command = TypeVar("_Command", bound=Callable[..., Any])

_LOOK_AGAIN_S = 0.2
_OF_IMAGE = "factory"
_JOURNAL_LINES = 200
_JOURNAL_S = 10.0


def _wait(until: str) -> Callable[[_Command], _Command]:
    return click.option(
        "--wait",
        "wait_s",
        type=Number(0, 3_600),
        default=0,
        metavar="SECONDS",
        help=f"Wait at most this long until {until}.",
    )


@click.group
@common
def boot() -> None:
    """Hold this boot of the operating system against the last good one."""


@boot.command
@common
@_wait("it does")
@click.pass_obj
def check(asked: Asked, wait_s: float) -> int:
    """Fail when edged does not answer, or what served under the last deployment does not serve under this one.

    A deployment that was good before passes at once, whatever its models do. Exit status: 0 good, 1 not.
    """
    now, last = deployment.booted(asked.root), deployment.recall(asked.root)
    if last is not None and last.deployment == now:
        _tell(asked, [], "this deployment was good before")
        return faults.DONE
    end = clock.monotonic() + wait_s
    while True:
        try:
            wrong = _amiss(asked, _known(asked)[1])
        except EdgedError as error:
            if error.code is not Code.NOT_RUNNING:
                raise
            wrong = [str(error)]
        if not wrong or clock.monotonic() >= end:
            break
        time.sleep(_LOOK_AGAIN_S)
    _tell(asked, wrong, "edged serves what it served under the last deployment")
    return faults.NO if wrong else faults.DONE


@boot.command
@common
@_wait("no model is loading")
@click.option("--again", is_flag=True, help="Only where this boot was found good before: it ends.")
@click.pass_obj
def record(asked: Asked, wait_s: float, *, again: bool) -> None:
    """Call this boot good, and remember what serves, for the next deployment to be held against. Needs root."""
    now, boot = deployment.booted(asked.root), deployment.boot_id(asked.root)
    if again and not any(each.good and each.boot == boot for each in deployment.boots(asked.root)):
        return
    if not again:  # first of all: whatever edged does by now, this boot is good
        deployment.note(asked.root, deployment.Boot(boot, now, good=True))
        deployment.record(asked.root, deployment.held(deployment.recall(asked.root), now, None))
    known = _settled(asked, clock.monotonic() + wait_s)
    deployment.record(asked.root, deployment.held(deployment.recall(asked.root), now, known))


@boot.command
@common
@click.option("--show", is_flag=True, help="Show what earlier red boots left instead.")
@click.pass_obj
def evidence(asked: Asked, *, show: bool) -> None:
    """Keep edged's state and log of this boot where the next one finds them. Needs root."""
    if show:
        found = deployment.evidence(asked.root)
        if asked.as_json:
            output.document({"red_boots": msgspec.to_builtins(found)})
        for each in found if not asked.as_json else ():
            output.line(f"{each.at}  deployment {each.deployment or 'unknown'}: {'; '.join(each.wrong)}")
        return
    wrong, status = [], None
    try:
        status, known = _known(asked)
        wrong = _amiss(asked, known)
    except EdgedError as error:
        wrong = [str(error)]
    now, boot = deployment.booted(asked.root), deployment.boot_id(asked.root)
    deployment.note(asked.root, deployment.Boot(boot, now, good=False, wrong=tuple(wrong), at_s=clock.monotonic()))
    deployment.leave_evidence(asked.root, deployment.Evidence(clock.wall().isoformat(), now, wrong, status, _journal()))


def _amiss(asked: Asked, known: Known) -> list[str]:
    last = deployment.recall(asked.root)
    factory = Path(asked.settings.under(asked.root).paths.factory)
    left_out = [name for name in last.of_image if not (factory / name).exists()] if last else []
    return deployment.amiss(last, deployment.booted(asked.root), known.ready, left_out)


def _settled(asked: Asked, end: float) -> Known:
    """What edged says once nothing is on its way any more, or the time `end` has come. Raises EdgedError."""
    while True:
        late = clock.monotonic() >= end
        try:
            _, known = _known(asked)
        except EdgedError as error:
            if error.code is not Code.NOT_RUNNING or late:
                raise
        else:
            if late or (known.settled and not known.coming):
                return known
        time.sleep(_LOOK_AGAIN_S)


def _known(asked: Asked) -> tuple[dict[str, Any], Known]:
    """The daemon's status, and what it says of its models. Raises EdgedError."""
    from edged.ctl.client import Client
    from edged.ctl.plain import plain

    with Client(asked, admin=True) as client:
        status = plain(client.status())
        models = status["models"]
        answers = {name: client.ready(name) for name in sorted({model["name"] for model in models})}
    serves = f"unix:{asked.settings.under(asked.root).listen.socket}" in status["listening"]
    known = Known(
        ready={name: ready for name, ready in answers.items() if ready is not None},
        coming=frozenset(model["name"] for model in models if model["state"] == "loading" and not model["reason"]),
        of_image=frozenset(answers) - {model["name"] for model in models if model["source"] != _OF_IMAGE},
        settled=serves and status["state"] in ("serving", "degraded"),
    )
    return status, known


def _journal() -> list[str]:
    """The end of edged's log; nothing where there is no journal."""
    command = ["journalctl", "--unit=edged", "--boot", f"--lines={_JOURNAL_LINES}", "--output=cat", "--no-pager"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, timeout=_JOURNAL_S)  # noqa: S603 - fixed words
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.decode(errors="replace").splitlines()


def _tell(asked: Asked, wrong: list[str], good: str) -> None:
    if asked.as_json:
        output.document({"good": not wrong, "wrong": wrong})
        return
    for each in wrong:
        output.fail(each)
    if not wrong:
        output.line(good)
