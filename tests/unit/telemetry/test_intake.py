"""What is taken of many events: bounded, and the informational ones go first."""

from __future__ import annotations

import pytest

from edged import clock
from edged.events import Event, Severity
from edged.telemetry.intake import MOST_WAITING, PER_HOUR, SPARED, Intake


def event(severity: Severity, message: str = "") -> Event:
    return Event(1, clock.wall(), severity, "code", "digits", message, {})


@pytest.mark.parametrize("grave", [Severity.WARNING, Severity.ERROR])
def test_small_things_leave_room_for_grave_ones(grave):
    intake = Intake(0.0)
    taken = [intake.take(event(Severity.INFO), 0.0) for _ in range(PER_HOUR)]
    assert sum(taken) == PER_HOUR - SPARED
    assert sum(intake.take(event(grave), 0.0) for _ in range(PER_HOUR)) == SPARED
    assert intake.lost == PER_HOUR
    assert not intake.take(event(Severity.INFO), 3600 * SPARED / PER_HOUR), "what is earned is spared first"
    assert intake.take(event(Severity.INFO), 3600.0)


def test_while_nothing_is_stored_the_oldest_small_thing_makes_room_for_a_grave_one():
    intake = Intake(0.0)
    for number in range(MOST_WAITING + 2):
        intake.take(event(Severity.INFO, str(number)), number * 3600.0)
    assert (len(intake.waiting), intake.lost) == (MOST_WAITING, 2)
    for number in range(MOST_WAITING + 1):
        intake.take(event(Severity.ERROR, f"error {number}"), (1000 + number) * 3600.0)
    assert (len(intake.waiting), intake.lost) == (MOST_WAITING, MOST_WAITING + 3)
    first, *others = [happening.message for happening, _ in intake.waiting]
    assert first == "0", "it may be on its way to the disk"
    assert others == [f"error {number}" for number in range(MOST_WAITING - 1)]
