"""What became of this boot of the operating system, told once: which image is booted, what greenboot said, and why one
that was new is not booted any more.

greenboot's verdict and what the helper says of the images come after the daemon's start, or not at all where there is
no greenboot or no helper.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edged import clock, durable
from edged.events import EventLog, Severity
from edged.system import deployment
from edged.system.deployment import Boot
from edged.system.os_requests import OsImage, OsRequests

_LOOK_S = 10.0
# Longer than greenboot's own checks wait, and than the helper takes to look.
_LONGEST_S = 900.0

_TOLD = "os/told.json"


class Told(msgspec.Struct, frozen=True):
    """Of which boot and deployment was told last."""

    boot: str = ""
    deployment: str = ""


class Telling(msgspec.Struct, frozen=True):
    """What is told of a boot."""

    severity: Severity
    code: str
    text: str


def outcome(now: Told, before: Told, boots: Sequence[Boot], image: OsImage | None) -> Telling | None:
    """What there is to tell of the boot `now`; nothing where it is as the last one was. Pure.

    `boots`: greenboot's verdicts, this boot's among them where there is one.
    """
    named = " ".join(filter(None, (image.image, image.version, image.digest))) if image else ""
    named = named or f"deployment {now.deployment}"
    verdict = next((each for each in boots if each.boot == now.boot), None)
    earlier = [each for each in boots if each.boot != now.boot]
    if verdict is not None and not verdict.good:
        return Telling(Severity.ERROR, "os_boot_red", f"{named} did not pass its boot check: {verdict.why}")
    was_red = bool(earlier) and not earlier[-1].good
    if was_red and _is_back(now.deployment, earlier):
        text = f"the operating system went back to {named}: {earlier[-1].deployment}: {earlier[-1].why}"
        return Telling(Severity.ERROR, "os_rolled_back", text)
    recovered = was_red and verdict is not None
    if before.deployment in ("", now.deployment) and not recovered:
        return None
    said = "passed its boot check" if verdict else "is booted; nothing checks boots here"
    return Telling(Severity.INFO, "os_changed", f"{named} {said}")


def _is_back(deployment: str, earlier: Sequence[Boot]) -> bool:
    """Whether this deployment is the one before that of the last boot; one that nobody knew brought a way out of it."""
    left = earlier[-1].deployment
    known = {each.deployment for each in earlier} - {left}
    return left not in ("", deployment) and (not known or deployment in known)


async def report(root: Path, state: Path, events: EventLog) -> None:
    """Tells of this boot, once verdict and images are there or have not come for long; nothing where it has before."""
    now = Told(deployment.boot_id(root), deployment.booted(root))
    before = await asyncio.to_thread(_recall, state)
    if not now.deployment or before.boot == now.boot:
        return
    requests, end = OsRequests(state, now.boot), clock.monotonic() + _LONGEST_S
    while True:
        boots = await asyncio.to_thread(deployment.boots, root)
        status = await asyncio.to_thread(requests.status)
        if (status and any(each.boot == now.boot for each in boots)) or clock.monotonic() >= end:
            break
        await asyncio.sleep(_LOOK_S)
    telling = outcome(now, before, boots, status.booted if status else None)
    if telling is not None:
        events.record(telling.severity, telling.code, "operating system", telling.text, deployment=now.deployment)
    await asyncio.to_thread(_keep, state, now)


def _recall(state: Path) -> Told:
    with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return msgspec.json.decode((state / _TOLD).read_bytes(), type=Told)
    return Told()


def _keep(state: Path, told: Told) -> None:
    """Where it cannot be kept, the next start tells it again."""
    with contextlib.suppress(OSError):
        (state / _TOLD).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.write(state / _TOLD, msgspec.json.encode(told))
