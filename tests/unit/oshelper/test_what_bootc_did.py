"""What bootc has done is told as done and led to its end, whatever bootc says, or does not, after that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.bootc import composefs_slot, digest, host, slot
from support.commanded import STAGED, Machine, command, commanded, later, machine, signed
from support.quick_disk import unsynced

from edged.system import bootc
from edged.telemetry.messages import Command

__all__ = ["commanded", "machine", "unsynced"]

RESTART = "systemctl --no-block reboot"
GOING_BACK = host(booted=slot(1), rollback=slot(2), rollbackQueued=True)
TOLD = [pytest.param(False, id="told truly"), pytest.param(True, id="told inverted")]


def composefs(*, queued: bool) -> dict[str, object]:
    return host(booted=composefs_slot(1), rollback=composefs_slot(2), rollbackQueued=queued)


def hand_over(machine: Machine, name: str) -> Command:
    wanted = command(name)
    machine.drop(signed(wanted), wanted.nonce)
    machine.run()
    return wanted


def test_a_rollback_that_bootc_tells_of_wrongly_restarts_nobody_after_an_upgrade(machine: Machine) -> None:
    """github.com/bootc-dev/bootc/issues/2405: after each upgrade, the rollback is told as queued."""
    machine.bootc.says(composefs(queued=True))
    wanted = hand_over(machine, "os_upgrade")
    assert machine.bootc.changes == ["bootc upgrade --quiet"]
    assert machine.result(wanted.nonce).status == "done"


def test_what_an_upgrade_staged_is_booted_whatever_else_is_queued(machine: Machine) -> None:
    machine.bootc.after("upgrade", host(booted=slot(1), staged=slot(3), rollback=slot(2), rollbackQueued=True))
    wanted = hand_over(machine, "os_upgrade")
    assert digest(3) in machine.result(wanted.nonce).text
    machine.boots("b2", 3)
    machine.run()
    assert machine.result(wanted.nonce).status == "done"


def test_what_was_done_goes_on_once_bootc_says_again_what_is_next(machine: Machine) -> None:
    machine.bootc.after("upgrade", STAGED)
    machine.bootc.says_no_more_after("upgrade", "error: sysroot is locked")
    wanted = hand_over(machine, "os_upgrade")
    assert machine.bootc.changes == ["bootc upgrade --quiet"]
    assert machine.result(wanted.nonce).status == "accepted"
    machine.bootc.fails("status", "")
    machine.run()
    assert machine.bootc.changes == ["bootc upgrade --quiet", RESTART], "it is not done twice"
    machine.boots("b2", 2)
    machine.run()
    assert machine.result(wanted.nonce).status == "done"


def test_where_that_is_nothing_what_waits_behind_it_has_its_turn(machine: Machine) -> None:
    machine.bootc.says_no_more_after("upgrade", "error: sysroot is locked")
    first = hand_over(machine, "os_upgrade")
    machine.bootc.after("rollback", GOING_BACK)
    second = hand_over(machine, "os_rollback")
    assert machine.bootc.changes == ["bootc upgrade --quiet"], "nothing is begun before it is known"
    machine.bootc.fails("status", "")
    machine.run()
    assert machine.bootc.changes == ["bootc upgrade --quiet", "bootc rollback", RESTART]
    assert machine.result(first.nonce).status == "done"
    assert machine.result(second.nonce).status == "accepted"


def test_a_rollback_is_not_taken_back_by_a_second_one(machine: Machine) -> None:
    """bootc's own toggles."""
    machine.bootc.says(GOING_BACK)  # by hand
    machine.bootc.after("rollback", host(booted=slot(1), rollback=slot(2)))
    wanted = hand_over(machine, "os_rollback")
    assert machine.bootc.changes == [RESTART]
    machine.boots("b2", 2)
    machine.run()
    assert machine.result(wanted.nonce).status == "done"


def test_a_rollback_that_bootc_did_not_tell_of_before_the_restart_is_not_done_anew(machine: Machine) -> None:
    """It may be what is booted now: once more would undo it."""
    machine.bootc.says_no_more_after("rollback", "error: sysroot is locked")
    wanted = hand_over(machine, "os_rollback")
    machine.bootc.fails("status", "")
    machine.boots("b2", 2)
    machine.run()
    assert machine.bootc.changes == ["bootc rollback"]
    found = machine.result(wanted.nonce)
    assert (found.status, found.code) == ("refused", "failed")
    assert "os_status" in found.text


@pytest.mark.parametrize("inverted", TOLD)
def test_with_composefs_a_rollback_is_done_whatever_is_told_of_a_queued_one(machine: Machine, inverted: bool) -> None:
    """github.com/bootc-dev/bootc/issues/2405: told as queued where none is, and not where one is."""
    machine.bootc.says(composefs(queued=inverted))
    machine.bootc.after("rollback", composefs(queued=not inverted))
    wanted = hand_over(machine, "os_rollback")
    assert machine.bootc.changes == ["bootc rollback", RESTART]
    assert digest(2) in machine.result(wanted.nonce).text
    machine.run()
    assert machine.bootc.changes == ["bootc rollback", RESTART, RESTART], "the restart alone is asked for again"
    machine.boots("b2", 2, composefs_slot)
    machine.run()
    assert machine.result(wanted.nonce).status == "done"
    assert "bootc rollback" not in machine.bootc.changes[1:]


class _Killed(BaseException):
    """The process ends here."""


def killed(monkeypatch: pytest.MonkeyPatch, machine: Machine, *, done: bool) -> Command:
    """Hands a rollback over to a helper that is killed as bootc has done it, or before that."""
    real: Callable[[], None] = bootc.roll_back

    def step() -> None:
        if done:
            real()
        raise _Killed

    wanted = command("os_rollback")
    machine.drop(signed(wanted), wanted.nonce)
    with monkeypatch.context() as during:
        during.setattr(bootc, "roll_back", step)
        with pytest.raises(_Killed):
            machine.run()
    return wanted


@pytest.mark.parametrize("inverted", TOLD)
def test_a_rollback_that_bootc_did_as_the_helper_was_killed_is_led_to_its_end(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, inverted: bool
) -> None:
    """A second one would take it back."""
    machine.bootc.says(composefs(queued=inverted))
    machine.bootc.after("rollback", composefs(queued=not inverted))
    wanted = killed(monkeypatch, machine, done=True)
    machine.bootc.fails("status", "error: sysroot is locked")
    other = hand_over(machine, "os_upgrade")
    assert machine.bootc.changes == ["bootc rollback"], "nothing is begun before it is known"
    assert machine.result(wanted.nonce).status == "accepted"
    machine.bootc.fails("status", "")
    machine.run()
    assert machine.bootc.changes == ["bootc rollback", RESTART]
    machine.boots("b2", 2, composefs_slot)
    machine.run()
    assert machine.result(wanted.nonce).status == "done"
    assert machine.bootc.changes == ["bootc rollback", RESTART, "bootc upgrade --quiet"]
    assert machine.result(other.nonce).status == "done"


@pytest.mark.parametrize("inverted", TOLD)
def test_one_that_bootc_did_not_do_by_then_is_refused_and_may_be_signed_anew(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, inverted: bool
) -> None:
    machine.bootc.says(composefs(queued=inverted))
    machine.bootc.after("rollback", composefs(queued=not inverted))
    wanted = killed(monkeypatch, machine, done=False)
    machine.run()
    assert machine.bootc.changes == []
    found = machine.result(wanted.nonce)
    assert (found.status, found.code) == ("refused", "failed")
    hand_over(machine, "os_rollback")
    assert machine.bootc.changes == ["bootc rollback", RESTART]


@pytest.mark.parametrize("inverted", TOLD)
def test_a_rollback_that_bootc_did_and_then_failed_on_is_led_to_its_end(machine: Machine, inverted: bool) -> None:
    """It exchanges the order of the two first, and syncs and removes files then."""
    machine.bootc.says(composefs(queued=inverted))
    machine.bootc.after("rollback", composefs(queued=not inverted))
    machine.bootc.fails_having_done("rollback", "error: syncing /boot: I/O error")
    wanted = hand_over(machine, "os_rollback")
    assert machine.bootc.changes == ["bootc rollback", RESTART]
    assert machine.result(wanted.nonce).status == "accepted"
    machine.boots("b2", 2, composefs_slot)
    machine.run()
    assert machine.result(wanted.nonce).status == "done"


def test_where_bootc_does_not_say_whether_it_did_one_nothing_is_begun_before_it_does(machine: Machine) -> None:
    machine.bootc.says(composefs(queued=False))
    machine.bootc.after("rollback", composefs(queued=True))
    machine.bootc.fails_having_done("rollback", "error: syncing /boot: I/O error")
    machine.bootc.says_no_more_after("rollback", "error: sysroot is locked")
    wanted = hand_over(machine, "os_rollback")
    hand_over(machine, "os_rollback")
    assert machine.bootc.changes == ["bootc rollback"]
    assert machine.result(wanted.nonce).status == "accepted"
    machine.bootc.fails("status", "")
    machine.run()
    assert machine.bootc.changes == ["bootc rollback", RESTART]


def test_one_that_bootc_failed_on_before_it_did_anything_is_refused_with_its_words(machine: Machine) -> None:
    machine.bootc.says(composefs(queued=False))
    machine.bootc.fails("rollback", "error: No rollback available")
    wanted = hand_over(machine, "os_rollback")
    assert machine.bootc.changes == ["bootc rollback"]
    found = machine.result(wanted.nonce)
    assert (found.status, found.code) == ("refused", "failed")
    assert "No rollback available" in found.text


def test_after_a_restart_a_rollback_that_was_interrupted_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told of the next boot then says nothing of this one."""
    machine.bootc.says(composefs(queued=False))
    machine.bootc.after("rollback", composefs(queued=True))
    wanted = killed(monkeypatch, machine, done=True)
    machine.boots("b2", 2, composefs_slot)
    machine.run()
    assert machine.bootc.changes == ["bootc rollback"]
    found = machine.result(wanted.nonce)
    assert (found.status, found.code) == ("refused", "failed")
    assert "interrupted" in found.text


def test_with_composefs_one_that_took_a_queued_rollback_back_says_that_it_may_have(machine: Machine) -> None:
    machine.bootc.says(composefs(queued=True))  # by hand
    machine.bootc.after("rollback", composefs(queued=False))
    wanted = hand_over(machine, "os_rollback")
    machine.boots("b2", 1, composefs_slot)
    machine.run()
    found = machine.result(wanted.nonce)
    assert (found.status, found.code) == ("refused", "failed")
    assert "a rollback was queued before and bootc has taken it back" in found.text


def test_one_that_was_done_and_is_not_what_came_up_is_not_done_anew(machine: Machine) -> None:
    """It was written to the disk: what it led to did not start, restart asked for or not."""
    machine.bootc.says(composefs(queued=False))
    machine.bootc.after("rollback", composefs(queued=True))
    machine.bootc.says_no_more_after("rollback", "error: sysroot is locked")
    wanted = hand_over(machine, "os_rollback")
    machine.set(f'[update]\nwindow = "{later()}"\n')
    machine.bootc.fails("status", "")
    machine.run()
    assert machine.bootc.changes == ["bootc rollback"], "it waits for its window"
    machine.set('[update]\nwindow = ""\n')
    machine.boots("b2", 1, composefs_slot)
    machine.run()
    assert machine.bootc.changes == ["bootc rollback"]
    assert machine.result(wanted.nonce).code == "failed"


def test_where_bootc_cannot_be_asked_no_rollback_is_begun(machine: Machine) -> None:
    machine.bootc.fails("status", "error: sysroot is locked")
    wanted = hand_over(machine, "os_rollback")
    assert machine.bootc.changes == []
    assert "sysroot is locked" in machine.result(wanted.nonce).text
