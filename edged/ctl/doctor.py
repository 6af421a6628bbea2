"""`edgectl doctor`: what is wrong with this device, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from edged import clock
from edged.ctl import certificates, checkup, drivers, engines, faults, nodes, output, reachable
from edged.ctl.asked import Asked, common
from edged.ctl.checkup import Finding, Grade, Subject
from edged.errors import EdgedError

_DAEMON = "daemon"
_CHECKS = {
    **checkup.CHECKS,
    "engines": engines.check,
    "devices": nodes.check,
    "drivers": drivers.check,
    "certificates": certificates.check,
    **reachable.CHECKS,
}
TOPICS = (*_CHECKS, _DAEMON)


@click.command
@common
@click.option(
    "--only",
    "topics",
    type=click.Choice(TOPICS),
    multiple=True,
    metavar="TOPIC",
    help=f"Look at this alone; may be given again. One of: {', '.join(TOPICS)}.",
)
@click.pass_obj
def doctor(asked: Asked, topics: tuple[str, ...]) -> int:
    """Find what is wrong on this device, and how to mend it.

    Nothing is changed. Best run with sudo: what you may not read cannot be judged. Exit status: 0 when there is no
    fault, warnings apart.
    """
    asked.quiet = True  # it tells of the settings itself
    found = [finding for topic in TOPICS if topic in (topics or TOPICS) for finding in _look(asked, topic)]
    if asked.as_json:
        output.document({"findings": [_plain(each) for each in found]})
    else:
        for each in found:
            output.line(f"{each.grade}: {each.topic}: {each.found}")
            output.line(f"    {each.remedy}")
        if not found:
            output.line("nothing is wrong")
    return faults.NO if any(each.grade is Grade.FAULT for each in found) else faults.DONE


def _look(asked: Asked, topic: str) -> Iterator[Finding]:
    synchronized = clock.synchronized() if asked.root == Path("/") else None
    subject = Subject(asked.root, asked.files, asked.settings, clock.wall(), synchronized)
    if topic == _DAEMON:
        yield from _daemon(asked)
        return
    try:
        yield from _CHECKS[topic](subject)
    except PermissionError as error:
        yield Finding(topic, Grade.WARNING, f"{error.filename} may not be read by you", "run it with sudo")


def _daemon(asked: Asked) -> Iterator[Finding]:
    """It runs, answers, and finds nothing amiss itself."""
    from edged.ctl.client import Client

    try:
        with Client(asked, admin=True) as client:
            status = client.status()
    except EdgedError as error:
        yield Finding(_DAEMON, Grade.FAULT, error.message, error.hint or "see `journalctl -u edged`")
        return
    for reason in status.degraded_reasons:
        yield Finding(_DAEMON, Grade.FAULT, reason, "see `edgectl status` and `edgectl events`")


def _plain(finding: Finding) -> dict[str, str]:
    return {
        "topic": finding.topic,
        "grade": finding.grade,
        "found": finding.found,
        "remedy": finding.remedy,
    }
