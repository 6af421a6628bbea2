"""What bootc has done is told as done and led to its end, whatever bootc says, or does not, after that."""

from __future__ import annotations

from support.bootc import digest, host, slot
from support.commanded import STAGED, Machine, command, commanded, machine, signed
from support.quick_disk import unsynced

from edged.telemetry.messages import Command

__all__ = ["commanded", "machine", "unsynced"]

RESTART = "systemctl --no-block reboot"
GOING_BACK = host(booted=slot(1), rollback=slot(2), rollbackQueued=True)


def hand_over(machine: Machine, name: str) -> Command:
    wanted = command(name)
    machine.drop(signed(wanted), wanted.nonce)
    machine.run()
    return wanted


def test_a_rollback_that_bootc_tells_of_wrongly_restarts_nobody_after_an_upgrade(machine: Machine) -> None:
    """github.com/bootc-dev/bootc/issues/2405: after each upgrade, the rollback is told as queued."""
    machine.bootc.says(GOING_BACK)
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
