"""What a boot check asks of edged: `edgectl boot`, run by greenboot or by hand."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import click

from edged import clock
from edged.ctl import faults, output
from edged.ctl.asked import Asked, common
from edged.ctl.numbers import Number
from edged.errors import Code, EdgedError
from edged.system import deployment

_LOOK_AGAIN_S = 0.2
_JOURNAL_LINES = 200
_JOURNAL_S = 10.0


@click.group
@common
def boot() -> None:
    """Hold this boot of the operating system against the last good one."""


@boot.command
@common
@click.option(
    "--wait",
    "wait_s",
    type=Number(0, 3_600),
    default=0,
    metavar="SECONDS",
    help="Wait at most this long until it does.",
)
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
            wrong = deployment.amiss(last, now, _models(asked))
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
@click.pass_obj
def record(asked: Asked) -> None:
    """Remember what serves under this deployment, for the next one to be held against. Needs root."""
    ready = tuple(sorted(name for name, is_ready in _models(asked).items() if is_ready))
    now = deployment.booted(asked.root)
    deployment.record(asked.root, deployment.Served(now, ready))
    deployment.note(asked.root, deployment.Boot(deployment.boot_id(asked.root), now, good=True))


@boot.command
@common
@click.option("--show", is_flag=True, help="Show what earlier red boots left instead.")
@click.pass_obj
def evidence(asked: Asked, *, show: bool) -> None:
    """Keep edged's state and log of this boot where the next one finds them. Needs root."""
    if show:
        found = [json.loads(path.read_bytes()) for path in deployment.evidence(asked.root)]
        if asked.as_json:
            output.document({"red_boots": found})
        for each in found if not asked.as_json else ():
            output.line(f"{each['at']}  deployment {each['deployment'] or 'unknown'}: {'; '.join(each['wrong'])}")
        return
    wrong, status = [], None
    try:
        status = _status(asked)
        models = {model["name"]: model["ready"] for model in status["models"]}
        wrong = deployment.amiss(deployment.recall(asked.root), deployment.booted(asked.root), models)
    except EdgedError as error:
        wrong = [str(error)]
    boot = deployment.Boot(
        deployment.boot_id(asked.root), deployment.booted(asked.root), good=False, wrong=tuple(wrong)
    )
    deployment.note(asked.root, boot)
    now = clock.wall()
    left = {
        "at": now.isoformat(),
        "deployment": deployment.booted(asked.root),
        "wrong": wrong,
        "status": status,
        "log": _journal(),
    }
    deployment.leave_evidence(asked.root, f"{now:%Y%m%dT%H%M%S}", json.dumps(left).encode())


def _models(asked: Asked) -> dict[str, bool]:
    return {model["name"]: model["ready"] for model in _status(asked)["models"]}


def _status(asked: Asked) -> dict[str, Any]:
    from edged.ctl.client import Client
    from edged.ctl.plain import plain

    with Client(asked, admin=True) as client:
        return plain(client.status())


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
