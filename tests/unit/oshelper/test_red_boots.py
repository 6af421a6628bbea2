"""A boot that greenboot found red: let be while greenboot may go back, and no dead end where nothing does."""

from __future__ import annotations

from datetime import timedelta

import pytest
from support.bootc import digest, host, slot
from support.commanded import STAGED, Machine, command, commanded, machine, signed, staged
from support.quick_disk import unsynced

from edged import clock
from edged.oshelper import helper
from edged.system import deployment
from edged.telemetry.messages import Command

__all__ = ["commanded", "machine", "unsynced"]

RESTART = "systemctl --no-block reboot"
BACK = host(booted=slot(2), rollback=slot(1), rollbackQueued=True)
WHY = "model 'digits' served under the last deployment"


def hand_over(machine: Machine, name: str, **arguments: object) -> Command:
    wanted = command(name, arguments=arguments)
    machine.drop(signed(wanted), wanted.nonce)
    machine.run()
    return wanted


def red(machine: Machine, boot: str, *, ago_s: float = 0.0) -> None:
    """It has started the second build, and greenboot found that red."""
    machine.boots(boot, 2)
    machine.bootc.says(host(booted=slot(2), rollback=slot(1)))
    at_s = clock.monotonic() - ago_s
    deployment.note(machine.root, deployment.Boot(boot, "two", good=False, wrong=(WHY,), at_s=at_s))


def stays(machine: Machine, boot: str) -> None:
    """Nothing has gone back since."""
    red(machine, boot, ago_s=helper._GOES_BACK_S)


def test_a_boot_that_its_check_found_red_is_not_the_last_word(machine: Machine) -> None:
    wanted = staged(machine)
    red(machine, "b2")
    machine.run()
    assert machine.result(wanted.nonce).status == "accepted"
    machine.boots("b3", 1)
    machine.run()
    assert machine.result(wanted.nonce).code == "failed"


@pytest.mark.parametrize("ordered", [True, False], ids=["after an order", "after an upgrade by hand"])
def test_while_greenboot_may_go_back_nothing_further_is_begun(machine: Machine, ordered: bool) -> None:
    """Staging may remove the deployment that greenboot goes back to."""
    if ordered:
        staged(machine)
    changes = list(machine.bootc.changes)
    red(machine, "b2")
    further = hand_over(machine, "os_upgrade")
    assert machine.bootc.changes == changes
    found = machine.result(further.nonce)
    assert found.status == "accepted"
    assert "did not pass its check" in found.text
    machine.boots("b3", 1)
    machine.bootc.after("upgrade", STAGED)
    machine.run()
    assert machine.bootc.changes == [*changes, "bootc upgrade --quiet", RESTART], "then it is carried out"


def test_nor_is_the_device_restarted_meanwhile(machine: Machine) -> None:
    machine.bootc.fails("--no-block", "Access denied")
    staged(machine)
    changes = list(machine.bootc.changes)
    deployment.note(machine.root, deployment.Boot("", "one", good=False, at_s=clock.monotonic()))
    machine.run()
    assert machine.bootc.changes == changes


def test_what_led_to_a_red_boot_that_stays_has_failed_and_the_reason_is_told(machine: Machine) -> None:
    wanted = staged(machine)
    red(machine, "b2")
    machine.run()
    stays(machine, "b2")
    machine.run()
    found = machine.result(wanted.nonce)
    assert (found.status, found.code) == ("refused", "failed")
    assert f"runs registry.example/edge-os:stable 42.2 {digest(2)}, which did not pass its boot check" in found.text
    assert WHY in found.text
    assert "os_rollback" in found.text


def test_an_operator_has_a_red_boot_that_stays_left_by_a_rollback(machine: Machine) -> None:
    staged(machine)
    changes = list(machine.bootc.changes)
    red(machine, "b2")
    machine.bootc.after("rollback", BACK)
    wanted = hand_over(machine, "os_rollback")
    assert machine.bootc.changes == changes, "it waits for what greenboot does"
    stays(machine, "b2")
    machine.run()
    assert machine.bootc.changes == [*changes, "bootc rollback", RESTART]
    machine.boots("b3", 1)
    machine.run()
    assert machine.result(wanted.nonce).status == "done"


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("os_upgrade", {}, "bootc upgrade --quiet"),
        ("os_switch", {"image": "edge-os@" + digest(3)}, f"bootc switch --quiet edge-os@{digest(3)}"),
    ],
)
def test_or_by_an_image_that_is_mended(machine: Machine, name: str, arguments: dict[str, object], line: str) -> None:
    """Going back first needs something to go back to that is good."""
    staged(machine)
    changes = list(machine.bootc.changes)
    stays(machine, "b2")
    machine.bootc.after(line.split()[1], host(booted=slot(2), staged=slot(3)))
    wanted = hand_over(machine, name, **arguments)
    assert machine.bootc.changes == [*changes, line, RESTART]
    machine.boots("b3", 3)
    machine.run()
    assert machine.result(wanted.nonce).status == "done"


def test_after_a_rollback_by_which_a_red_boot_is_left_what_waits_behind_it_is_carried_out(machine: Machine) -> None:
    """Both handed over at once: the deployment that was good stays there to go back to."""
    staged(machine)
    changes = list(machine.bootc.changes)
    red(machine, "b2")
    machine.bootc.after("rollback", BACK)
    hand_over(machine, "os_rollback")
    mended = hand_over(machine, "os_upgrade")
    stays(machine, "b2")
    machine.run()
    assert machine.bootc.changes == [*changes, "bootc rollback", RESTART]
    machine.boots("b3", 1)
    machine.bootc.after("upgrade", host(booted=slot(1), staged=slot(3)))
    machine.run()
    assert machine.bootc.changes == [*changes, "bootc rollback", RESTART, "bootc upgrade --quiet", RESTART]
    machine.boots("b4", 3)
    machine.run()
    assert machine.result(mended.nonce).status == "done"


def test_what_waits_expires_whatever_it_waits_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    staged(machine)
    red(machine, "b2")
    wanted = hand_over(machine, "os_rollback")
    real = clock.wall
    monkeypatch.setattr(clock, "wall", lambda: real() + timedelta(hours=2))
    machine.run()
    assert machine.result(wanted.nonce).code == "expired"
