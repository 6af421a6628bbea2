"""A request is carried out once: whenever the helper is killed over it, and whatever the clock says meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from support.commanded import Machine, command, commanded, machine, signed
from support.quick_disk import unsynced

from edged import clock
from edged.oshelper.mailbox import Mailbox
from edged.oshelper.memory import Memory

__all__ = ["commanded", "machine", "unsynced"]


class _Killed(BaseException):
    """The process ends here."""


def killed_before(_real: Callable[..., Any]) -> Callable[..., Any]:
    def step(*_: object) -> None:
        raise _Killed

    return step


def killed_after(real: Callable[..., Any]) -> Callable[..., Any]:
    def step(*arguments: object) -> None:
        real(*arguments)
        raise _Killed

    return step


@pytest.mark.parametrize(("where", "step"), [(Memory, "take"), (Mailbox, "take"), (Mailbox, "answer")])
@pytest.mark.parametrize("killed", [killed_before, killed_after])
def test_what_the_helper_was_killed_over_is_carried_out_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, where: type, step: str, killed: Callable[..., Callable[..., Any]]
) -> None:
    wanted = command()
    machine.drop(signed(wanted), wanted.nonce)
    with monkeypatch.context() as during:
        during.setattr(where, step, killed(getattr(where, step)))
        with pytest.raises(_Killed):
            machine.run()
    assert machine.bootc.changes == []
    machine.run()
    machine.run()
    assert machine.bootc.changes == ["bootc upgrade --quiet"]
    assert machine.result(wanted.nonce).status == "done"
    assert not list((machine.state / "os/requests").iterdir())


@pytest.mark.parametrize(("where", "step"), [(Mailbox, "take"), (Mailbox, "answer")])
@pytest.mark.parametrize("killed", [killed_before, killed_after])
def test_what_the_helper_was_killed_over_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, where: type, step: str, killed: Callable[..., Callable[..., Any]]
) -> None:
    wanted = command("install", arguments={"model": "digits", "revision": "2"})
    machine.drop(signed(wanted), wanted.nonce)
    with monkeypatch.context() as during:
        during.setattr(where, step, killed(getattr(where, step)))
        with pytest.raises(_Killed):
            machine.run()
    machine.run()
    found = machine.result(wanted.nonce)
    assert (found.status, found.code) == ("refused", "unsupported")
    assert not list((machine.state / "os/requests").iterdir())


def test_what_is_withdrawn_while_it_is_remembered_is_not_carried_out(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = command()
    machine.drop(signed(wanted), wanted.nonce)
    real = Memory.take

    def take(memory: Memory, *arguments: Any) -> None:
        real(memory, *arguments)
        assert machine.requests.withdraw(wanted.nonce)

    monkeypatch.setattr(Memory, "take", take)
    machine.run()
    machine.run()
    assert machine.bootc.changes == []
    assert machine.requests.result(wanted.nonce) is None
    assert not (machine.root / "var/lib/edged-os/waiting").exists()


def test_a_clock_that_was_ahead_for_a_while_makes_no_room_for_a_replay(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ahead = clock.wall, timedelta(seconds=2)
    monkeypatch.setattr(clock, "wall", lambda: real() + ahead)
    first = command()
    envelope = signed(first)
    machine.drop(envelope, first.nonce)
    machine.run()
    ahead = timedelta(hours=3)
    second = command(now=clock.wall())
    ahead += timedelta(seconds=1)
    machine.drop(signed(second), second.nonce)
    machine.run()
    assert machine.result(second.nonce).status == "done"
    ahead = timedelta(minutes=5)
    machine.drop(envelope, first.nonce)
    machine.run()
    assert machine.result(first.nonce).code == "replayed"
    assert len(machine.bootc.changes) == 2


def test_what_has_expired_makes_room(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.oshelper.memory._MOST_NONCES", 1)
    real, ahead = clock.wall, timedelta()
    monkeypatch.setattr(clock, "wall", lambda: real() + ahead)
    for _ in range(2):
        wanted = command(now=clock.wall())
        ahead += timedelta(seconds=1)
        machine.drop(signed(wanted), wanted.nonce)
        machine.run()
        assert machine.result(wanted.nonce).status == "done"
        ahead += timedelta(hours=2)
