"""The part of the tour in which models come over the air: a good one, two bad ones, and a power cut."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich.console import Console

from tools.demo.asking import MODEL, Load
from tools.demo.device import REPO, Device
from tools.demo.fleet import Fleet
from tools.demo.saying import lines, step

# What serves and why; what the plan wants and what is quarantined follows.
EXPLAINED = 5

BUNDLES = REPO / "tests/data/bundles"


def update(out: Console, device: Device, fleet: Fleet) -> None:
    """A good revision, while applications ask."""
    step(out, "A new revision", fleet.publish(BUNDLES / "digits-2"))
    fleet.plan(2)
    _follow(out, device)
    lines(out, next(line for line in device.edgectl("history", MODEL).splitlines() if "→ committed" in line))
    _serves(device, 2)


def refuse(out: Console, device: Device, fleet: Fleet) -> None:
    """A revision with wrong answers."""
    step(out, "One with wrong answers", "is refused where it is published, and by the device all the same")
    lines(out, fleet.refuses(BUNDLES / "digits-3-wrong").replace(f"{REPO}/", ""))
    fleet.publish_unchecked(BUNDLES / "digits-3-wrong")
    fleet.plan(3)
    _follow(out, device)
    _serves(device, 2)


def roll_back(out: Console, device: Device, fleet: Fleet) -> None:
    """A revision that passes its goldens and errs on what applications send."""
    step(out, "One that errs where there is much ink", fleet.publish(BUNDLES / "digits-4-fragile"))
    fleet.plan(4)
    _follow(out, device)
    lines(out, "what revision 4 failed on was answered by revision 2: no application noticed")
    _serves(device, 2)


def cut_power(out: Console, device: Device, fleet: Fleet) -> None:
    """kill -9 while a revision has just begun to serve: here the plan goes back to the first one."""
    step(out, "The plan goes back to revision 1, and the power goes", fleet.publish(REPO / "bootc/models/digits/1"))
    fleet.plan(1)
    following = device.update()
    with Load(device) as load:
        for line in _steps(following):
            lines(out, line)
            if " soaking" in line:
                break
    device.cut_power()
    following.close()
    out.print(f"  [bold]{load.told()}[/bold]")
    step(out, "kill -9, and edged starts again", f"ready after {device.start():.1f} s")
    lines(out, "\n".join(device.edgectl("explain", MODEL).splitlines()[:EXPLAINED]))
    _follow(out, device)
    _serves(device, 1)


def _follow(out: Console, device: Device) -> None:
    with Load(device) as load:
        for line in _steps(device.update()):
            lines(out, line)
    out.print(f"  [bold]{load.told()}[/bold]")


def _steps(followed: Iterator[str]) -> Iterator[str]:
    """The first line of each phase, once what is to be tried has come."""
    before = ""
    for line in followed:
        phase = " ".join(line.split()[1:5]).rstrip(":")
        if phase != before and not phase.endswith(("fetching", "staged", "committed")):
            yield line
        before = phase


def _serves(device: Device, revision: int) -> None:
    """Exits unless it does."""
    found = device.edgectl("explain", MODEL)
    if f"revision {revision} serves" not in found:
        sys.exit(f"revision {revision} of {MODEL} does not serve:\n{found}\n{device.edgectl('history', MODEL)}")
