"""The privileged helper: what operators signed is carried out, once, in its time; for all else bootc is not run."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.bootc import digest, host, slot
from support.commanded import ALICE, MAY, STAGED, Machine, command, commanded, later, machine, public, signed, staged
from support.daemon import REPO
from support.fleets import Fleet, copy_fleet, make_fleet, overwrite
from support.quick_disk import unsynced

from edged import clock
from edged.fleet import operators
from edged.system.os_requests import MOST_REQUESTS
from edged.telemetry.commands import MAX_BYTES, PAYLOAD_TYPE, pae
from edged.telemetry.messages import Command
from edged.update import issued

__all__ = ["commanded", "machine", "unsynced"]

MALLORY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
NOBODY = 65534


TRUE: dict[str, tuple[dict[str, str], str, dict[str, object]]] = {
    "os_upgrade": ({}, "bootc upgrade --quiet", STAGED),
    "os_switch": (
        {"image": "registry.example/other@" + digest(2)},
        f"bootc switch --quiet registry.example/other@{digest(2)}",
        STAGED,
    ),
    "os_rollback": ({}, "bootc rollback", host(booted=slot(1), rollback=slot(2), rollbackQueued=True)),
}


@pytest.mark.parametrize("name", TRUE)
def test_a_true_command_runs_exactly_its_words_and_restarts_the_device(machine: Machine, name: str) -> None:
    arguments, line, after = TRUE[name]
    machine.bootc.after(line.split()[1], after)
    wanted = command(name, arguments=arguments)
    machine.drop(signed(wanted), wanted.nonce)
    assert machine.run() == 0
    assert machine.bootc.changes == [line, "systemctl --no-block reboot"]
    assert machine.result(wanted.nonce).status == "accepted"
    assert digest(2) in machine.result(wanted.nonce).text
    assert not list((machine.state / "os/requests").iterdir())
    machine.boots("b2", 2)
    assert machine.run() == 0
    found = machine.result(wanted.nonce)
    assert (found.status, found.command) == ("done", name)
    assert digest(2) in found.text
    assert machine.run() == 0
    assert machine.bootc.changes == [line, "systemctl --no-block reboot"], "once"
    assert not (machine.root / "var/lib/edged-os/waiting").exists()


def test_what_does_not_run_after_the_restart_is_told(machine: Machine) -> None:
    """As where its kernel panics: no check found anything, and nobody else tells."""
    wanted = staged(machine)
    machine.boots("b2", 1)
    machine.run()
    found = machine.result(wanted.nonce)
    assert (found.status, found.code) == ("refused", "failed")
    assert f"runs registry.example/edge-os:stable 42.1 {digest(1)} and not" in found.text
    assert "or the power went" in found.text
    assert digest(2) in found.text


def test_where_bootc_does_not_say_what_runs_the_next_run_tells(machine: Machine) -> None:
    wanted = staged(machine)
    machine.boots("b2", 2)
    machine.bootc.fails("status", "busy")
    machine.run()
    assert machine.result(wanted.nonce).status == "accepted"
    machine.bootc.fails("status", "")
    machine.run()
    assert machine.result(wanted.nonce).status == "done"


def test_a_restart_waits_for_the_next_window_where_this_one_has_closed_meanwhile(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download takes three hours of a window of two."""
    real = clock.wall
    hour = real().astimezone().hour
    machine.set(f'[update]\nwindow = "{(hour - 1) % 24:02}:00-{(hour + 2) % 24:02}:00"\n')
    took = timedelta(hours=3)
    monkeypatch.setattr(clock, "wall", lambda: real() + (took if machine.bootc.changes else timedelta()))
    wanted = staged(machine)
    found = machine.result(wanted.nonce)
    assert (found.status, machine.bootc.changes) == ("accepted", ["bootc upgrade --quiet"])
    assert "in the maintenance window" in found.text
    other = command("os_rollback")
    machine.drop(signed(other), other.nonce)
    machine.run()
    assert machine.bootc.changes == ["bootc upgrade --quiet"]
    assert machine.result(wanted.nonce) == found, "it is told once"
    took = timedelta(hours=24)
    machine.run()
    assert machine.bootc.changes == ["bootc upgrade --quiet", "systemctl --no-block reboot"], "before anything else"


def staged_for_later(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Command:
    """An upgrade whose download outlasted the window; in the boot after, any time is in the window."""
    windows = iter((True, False, False))
    with monkeypatch.context() as during:
        during.setattr("edged.oshelper.helper.in_window", lambda *_: next(windows))
        wanted = staged(machine)
    assert machine.bootc.changes == ["bootc upgrade --quiet"]
    return wanted


def test_what_a_power_cut_took_before_the_restart_is_staged_anew(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = staged_for_later(machine, monkeypatch)
    machine.boots("b2", 1)
    machine.run()
    assert machine.bootc.changes == ["bootc upgrade --quiet"] * 2 + ["systemctl --no-block reboot"]
    machine.boots("b3", 2)
    machine.run()
    assert machine.result(wanted.nonce).status == "done"


def test_what_a_power_cut_took_while_the_device_could_not_restart_is_staged_anew(machine: Machine) -> None:
    machine.bootc.fails("--no-block", "Access denied")
    wanted = staged(machine)
    machine.bootc.fails("--no-block", "")
    machine.boots("b2", 1)
    machine.run()
    assert machine.bootc.changes == ["bootc upgrade --quiet", "systemctl --no-block reboot"] * 2
    assert machine.result(wanted.nonce).status == "accepted"


def test_what_a_power_cut_took_is_not_staged_anew_once_it_has_expired(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = staged_for_later(machine, monkeypatch)
    machine.boots("b2", 1)
    real = clock.wall
    monkeypatch.setattr(clock, "wall", lambda: real() + timedelta(hours=2))
    machine.run()
    assert machine.bootc.changes == ["bootc upgrade --quiet"]
    assert machine.result(wanted.nonce).code == "expired"


def test_that_the_device_restarts_is_remembered_before_it_does(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restart may end this process at any moment."""
    path, remembered = machine.root / "var/lib/edged-os/memory.json", []
    real = subprocess.run

    def run(line: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        if line[0] == "systemctl":
            remembered.append(json.loads(path.read_bytes())["waiting"])
        return real(line, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(subprocess, "run", run)
    wanted = staged(machine)
    assert [each[wanted.nonce]["staged"]["asked"] for each in remembered] == [True]


def test_a_restart_that_fails_is_told_and_tried_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.bootc.fails("--no-block", "Access denied")
    wanted = staged(machine)
    found = machine.result(wanted.nonce)
    assert found.status == "accepted"
    assert "cannot be restarted (systemctl ended with status 1)" in found.text
    machine.bootc.fails("--no-block", "")
    machine.run()
    assert machine.bootc.changes[1:] == ["systemctl --no-block reboot"] * 2
    monkeypatch.setattr("edged.oshelper.helper._RESTART_S", 0.0)
    assert machine.run() == 0
    assert "timed out" in machine.result(wanted.nonce).text


def test_where_there_is_nothing_newer_the_device_does_not_restart(machine: Machine) -> None:
    wanted = command()
    machine.drop(signed(wanted), wanted.nonce)
    machine.run()
    assert machine.bootc.changes == ["bootc upgrade --quiet"]
    assert "nothing newer" in machine.result(wanted.nonce).text


def test_what_was_staged_for_later_does_not_restart_it(machine: Machine) -> None:
    machine.bootc.after("upgrade", host(booted=slot(1), staged=slot(2, downloadOnly=True)))
    wanted = command()
    machine.drop(signed(wanted), wanted.nonce)
    machine.run()
    assert machine.bootc.changes == ["bootc upgrade --quiet"]


def test_a_failure_is_told_and_does_not_restart_it(machine: Machine) -> None:
    machine.bootc.fails("upgrade", "no space left on device")
    wanted = command()
    machine.drop(signed(wanted), wanted.nonce)
    machine.run()
    found = machine.result(wanted.nonce)
    assert (found.status, found.code) == ("refused", "failed")
    assert "no space left on device" in found.text
    assert machine.bootc.changes == ["bootc upgrade --quiet"]


def other(**changes: object) -> Callable[[], tuple[bytes, str]]:
    def make() -> tuple[bytes, str]:
        found = command(**changes)
        return signed(found), found.nonce

    return make


def of_mallory() -> tuple[bytes, str]:
    found = command()
    return signed(found, MALLORY), found.nonce


def of_nobody() -> tuple[bytes, str]:
    found = command()
    return json.dumps(json.loads(signed(found)) | {"signatures": []}).encode(), found.nonce


def changed_after() -> tuple[bytes, str]:
    """Signed for one thing, and saying another."""
    found = command("os_rollback")
    envelope = json.loads(signed(command("os_upgrade")))
    envelope["payload"] = base64.b64encode(msgspec.json.encode(found)).decode()
    return json.dumps(envelope).encode(), found.nonce


def of_another_type() -> tuple[bytes, str]:
    """The operator signed those bytes, as something else."""
    found = command()
    payload = msgspec.json.encode(found)
    signature = base64.b64encode(ALICE.sign(pae("text/plain", payload))).decode()
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": public(ALICE), "sig": signature}],
    }
    return json.dumps(envelope).encode(), found.nonce


def unknown_verb() -> tuple[bytes, str]:
    found = msgspec.structs.replace(command(), command="os_install --force")
    return signed(found), found.nonce


def odd_image(image: str) -> Callable[[], tuple[bytes, str]]:
    def make() -> tuple[bytes, str]:
        found = msgspec.structs.replace(command("os_upgrade"), command="os_switch", arguments={"image": image})
        return signed(found), found.nonce

    return make


NOW = datetime.now(UTC)

FALSE: dict[str, tuple[Callable[[], tuple[bytes, str]], set[str]]] = {
    "of another's key": (of_mallory, {"signature_invalid"}),
    "of nobody": (of_nobody, {"unsigned"}),
    "changed after it was signed": (changed_after, {"signature_invalid"}),
    "signed as something else": (of_another_type, {"signature_invalid"}),
    "for another device": (other(device="till-8"), {"wrong_scope"}),
    "for another fleet": (other(fleet="banks"), {"wrong_scope"}),
    "for another class": (other(device="", hardware_class="kiosk"), {"wrong_scope"}),
    "expired": (other(now=NOW - timedelta(hours=2)), {"expired"}),
    "from before anything was remembered": (other(now=NOW - timedelta(minutes=30)), {"before_rebuild"}),
    "from the future": (other(now=NOW + timedelta(hours=1)), {"not_yet_valid"}),
    "valid for ever": (other(expires_ms=2**52), {"validity_too_long"}),
    "of no verb": (unknown_verb, {"unknown_command", "not_allowed"}),
    "a verb that is not the system's": (
        other(name="install", arguments={"model": "digits", "revision": "2"}),
        {"unsupported"},
    ),
    "a verb that its operator may not": (other(name="restart_model", arguments={"model": "digits"}), {"not_allowed"}),
    "an option in place of an image": (odd_image("--apply"), {"invalid_arguments"}),
    "an image with a line in it": (odd_image("registry.example/a\n--apply"), {"invalid_arguments"}),
    "no document": (lambda: (b"\x00\xff", "n" * 22), {"malformed"}),
    "a deep document": (lambda: (b"[" * 16_000, "n" * 22), {"malformed"}),
}


@pytest.mark.parametrize("name", FALSE)
def test_what_is_not_in_order_is_refused_by_a_stable_word(machine: Machine, name: str) -> None:
    make, codes = FALSE[name]
    assert machine.refused(*make()) in codes


def test_the_same_command_twice_is_carried_out_once(machine: Machine) -> None:
    wanted = command()
    envelope = signed(wanted)
    machine.drop(envelope, wanted.nonce)
    machine.run()
    machine.drop(envelope, wanted.nonce)
    machine.run()
    assert machine.result(wanted.nonce).code == "replayed"
    assert machine.bootc.changes == ["bootc upgrade --quiet"]


def test_under_another_name_it_is_refused(machine: Machine) -> None:
    assert machine.refused(signed(command()), "another-name-than-its-nonce") == "malformed"


def test_what_a_daemon_writes_as_operators_is_not_believed(machine: Machine) -> None:
    known = json.loads((machine.state / "update/metadata/kept/operators.json").read_bytes())
    known["operators"][0]["key"] = public(MALLORY)
    for path in (machine.state / "update/metadata/kept/operators.json", machine.state / "update/plan/operators.json"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(known))
    found = command()
    assert machine.refused(signed(found, MALLORY), found.nonce) == "not_verified"
    assert "operators.json" in machine.result(found.nonce).text


def test_metadata_of_another_fleets_root_is_not_believed(machine: Machine, tmp_path: Path) -> None:
    foreign = make_fleet(tmp_path / "foreign")
    operators.add(foreign.signing(), "mallory", public(MALLORY), MAY, ())
    shutil.rmtree(machine.state / "update")
    machine.fleet = foreign
    machine.fetch()
    found = command()
    assert machine.refused(signed(found, MALLORY), found.nonce) == "not_verified"


def test_an_operator_who_was_dismissed_is_not_brought_back_by_old_metadata(
    machine: Machine, commanded: Fleet, tmp_path: Path
) -> None:
    machine.fleet = copy_fleet(commanded, tmp_path / "shops")
    before = tmp_path / "before"
    shutil.copytree(machine.state / "update", before)
    operators.remove(machine.fleet.signing(), "alice")
    machine.fetch()
    found = command()
    assert machine.refused(signed(found), found.nonce) == "signature_invalid"
    shutil.rmtree(machine.state / "update")
    shutil.copytree(before, machine.state / "update")
    found = command()
    assert machine.refused(signed(found), found.nonce) == "not_verified"
    assert "version" in machine.result(found.nonce).text


def test_without_a_root_of_trust_nobody_commands(machine: Machine) -> None:
    (machine.root / "usr/share/edged/trust/root.json").unlink()
    found = command()
    assert machine.refused(signed(found), found.nonce) == "signature_invalid"


def test_outside_the_maintenance_window_it_waits_and_is_carried_out_within(machine: Machine) -> None:
    machine.set(f'[update]\nwindow = "{later()}"\n')
    wanted = command()
    machine.drop(signed(wanted), wanted.nonce)
    machine.run()
    assert machine.bootc.changes == []
    assert machine.result(wanted.nonce).status == "accepted"
    assert (machine.root / "var/lib/edged-os/waiting").exists()
    machine.set('[update]\nwindow = ""\n')
    machine.run()
    assert machine.bootc.changes == ["bootc upgrade --quiet"]
    assert machine.result(wanted.nonce).status == "done"
    assert not (machine.root / "var/lib/edged-os/waiting").exists()


def waiting(machine: Machine, **changes: object) -> tuple[Command, Path]:
    """A command that waits for its window, and the helper's memory of it."""
    machine.set(f'[update]\nwindow = "{later()}"\n')
    wanted = command()
    machine.drop(signed(wanted), wanted.nonce)
    machine.run()
    path = machine.root / "var/lib/edged-os/memory.json"
    content = json.loads(path.read_bytes())
    order = content["waiting"][wanted.nonce]
    content["waiting"][wanted.nonce] = order | {"command": order["command"] | changes.pop("command", {})} | changes
    path.write_text(json.dumps(content))
    machine.set('[update]\nwindow = ""\n')
    return wanted, path


def test_what_expires_before_its_window_is_refused(machine: Machine) -> None:
    wanted, _ = waiting(machine, command={"expires_ms": 1})
    machine.run()
    assert machine.bootc.changes == []
    assert machine.result(wanted.nonce).code == "expired"


def test_what_the_power_interrupted_is_not_begun_again(machine: Machine) -> None:
    wanted, _ = waiting(machine, begun=True)
    machine.run()
    assert machine.bootc.changes == []
    assert machine.result(wanted.nonce).code == "failed"
    assert "interrupted" in machine.result(wanted.nonce).text


def test_what_the_image_is_younger_than_has_expired(machine: Machine) -> None:
    """The device's clock may be behind: it is not before the image was built."""
    built = machine.root / "usr/lib/edged/built"
    built.parent.mkdir(parents=True, exist_ok=True)
    built.write_text(f"{datetime.now(UTC) + timedelta(hours=2):%Y-%m-%dT%H:%M:%SZ}")
    found = command()
    assert machine.refused(signed(found), found.nonce) == "expired"


def test_what_waits_expires_by_the_time_that_was_seen_signed_whatever_the_clock_says(machine: Machine) -> None:
    wanted, _ = waiting(machine)
    shutil.rmtree(machine.state / "update")  # nothing can be verified anew
    trust = machine.root / "var/lib/edged-os/trust"
    seen = issued.recall(trust)
    assert seen is not None
    issued.keep(trust, msgspec.structs.replace(seen, at=datetime.now(UTC) + timedelta(hours=2)))
    machine.run()
    assert machine.bootc.changes == []
    assert machine.result(wanted.nonce).code == "expired"


def test_what_waits_waits_on_while_nobody_can_tell_who_may_command(machine: Machine, tmp_path: Path) -> None:
    wanted, _ = waiting(machine)
    (machine.state / "update").rename(tmp_path / "update")
    machine.run()
    assert machine.bootc.changes == []
    assert machine.result(wanted.nonce).status == "accepted"
    (tmp_path / "update").rename(machine.state / "update")
    machine.run()
    assert machine.bootc.changes == ["bootc upgrade --quiet"]


MEANWHILE: dict[str, Callable[[Fleet], object]] = {
    "was dismissed": lambda fleet: operators.remove(fleet.signing(), "alice"),
    "may less": lambda fleet: operators.add(fleet.signing(), "alice", public(ALICE), ("install",), ()),
    "may so elsewhere": lambda fleet: operators.add(fleet.signing(), "alice", public(ALICE), MAY, ("kiosk",)),
    "has another key": lambda fleet: operators.add(fleet.signing(), "alice", public(MALLORY), MAY, ()),
}


@pytest.mark.parametrize("change", MEANWHILE)
def test_what_waits_is_refused_where_its_operator_may_not_any_more(
    machine: Machine, commanded: Fleet, tmp_path: Path, change: str
) -> None:
    wanted, _ = waiting(machine)
    machine.fleet = copy_fleet(commanded, tmp_path / "shops")
    MEANWHILE[change](machine.fleet)
    machine.fetch()
    machine.run()
    assert machine.bootc.changes == []
    found = machine.result(wanted.nonce)
    assert (found.status, found.code) == ("refused", "not_allowed")
    assert "alice may not os_upgrade any more" in found.text


@pytest.mark.parametrize(("begun", "told"), [(False, ("accepted", "")), (True, ("refused", "failed"))])
def test_a_request_that_a_power_cut_brings_back_is_no_second_one(
    machine: Machine, begun: bool, told: tuple[str, str]
) -> None:
    wanted, _ = waiting(machine, begun=begun)
    machine.set(f'[update]\nwindow = "{later()}"\n')
    machine.drop(signed(wanted), wanted.nonce)
    machine.run()
    found = machine.result(wanted.nonce)
    assert (found.status, found.code) == told
    assert not list((machine.state / "os/requests").iterdir())


def test_a_damaged_memory_begins_anew_and_refuses_what_is_older(machine: Machine) -> None:
    wanted = command(now=datetime.now(UTC) - timedelta(seconds=2))
    machine.drop(signed(wanted), wanted.nonce)
    machine.run()
    (machine.root / "var/lib/edged-os/memory.json").write_text("{")
    machine.drop(signed(wanted), wanted.nonce)
    machine.run()
    assert machine.result(wanted.nonce).code in ("before_rebuild", "replayed")
    assert len(machine.bootc.changes) <= 1


def test_with_broken_settings_what_is_handed_over_is_refused_and_what_waits_waits_on(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    before, _ = waiting(machine)
    machine.set("[update]\nwindow = 3\n")
    wanted = command()
    machine.drop(signed(wanted), wanted.nonce)
    assert machine.run() == 1
    assert "update.window" in capsys.readouterr().err
    assert machine.bootc.changes == []
    found = machine.result(wanted.nonce)
    assert (found.status, found.code) == ("refused", "failed")
    assert "update.window" in found.text
    assert not list((machine.state / "os/requests").iterdir()), "what lies there starts it again and again"
    assert machine.result(before.nonce).status == "accepted"
    machine.set('[update]\nwindow = ""\n')
    machine.run()
    assert machine.result(before.nonce).status == "done"


def test_a_request_of_any_size_is_looked_at_no_further_than_it_may_be_long(machine: Machine) -> None:
    nonce = "n" * 22
    with (machine.state / f"os/requests/{nonce}.json").open("wb") as file:
        file.truncate(2**40)
    machine.run()
    assert machine.result(nonce).code == "too_large"


def test_only_plain_files_of_fitting_names_are_looked_at_and_the_rest_goes(machine: Machine, tmp_path: Path) -> None:
    folder = machine.state / "os/requests"
    secret = tmp_path / "secret.json"
    secret.write_bytes(signed(command()))
    (folder / f"{'a' * 22}.json").symlink_to(secret)
    os.mkfifo(folder / f"{'b' * 22}.json")
    (folder / f"{'c' * 22}.json").mkdir()
    (folder / "short.json").write_bytes(signed(command()))
    (folder / "no suffix at all, and a very odd name").write_bytes(b"")
    (folder / ".being-written.json").write_bytes(b"")
    assert machine.run() == 0
    assert machine.bootc.changes == []
    assert [path.name for path in folder.iterdir()] == [".being-written.json"], "what is being written stays"
    assert secret.exists()
    assert list((machine.state / "os/results").iterdir()) == []


def test_what_a_killed_daemon_was_writing_goes_and_keeps_nothing_waiting(machine: Machine) -> None:
    folder = machine.state / "os/requests"
    now_s = NOW.timestamp()
    for number in range(MOST_REQUESTS):
        (folder / f".{number}").write_bytes(b"")
        ahead_s = 7200 if number % 2 else -120  # the clock may be behind what it was
        os.utime(folder / f".{number}", (now_s + ahead_s, now_s + ahead_s))
    (folder / ".now").write_bytes(b"")
    wanted = command()
    machine.drop(signed(wanted), wanted.nonce)
    machine.run()
    assert machine.result(wanted.nonce).status == "done"
    assert [path.name for path in folder.iterdir()] == [".now"]


def test_no_more_files_than_a_bound_are_looked_at(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.oshelper.mailbox._MOST_FILES", 3)
    folder = machine.state / "os/requests"
    for number in range(5):
        (folder / f"{number}").write_bytes(b"")
    machine.run()
    assert len(list(folder.iterdir())) == 2


def test_the_folder_itself_may_be_a_link_or_gone(machine: Machine, tmp_path: Path) -> None:
    shutil.rmtree(machine.state / "os")
    assert machine.run() == 0
    assert machine.requests.status() is not None
    shutil.rmtree(machine.state)
    machine.state.symlink_to(tmp_path)
    assert machine.run() == 1
    assert not (tmp_path / "os").exists() or not (tmp_path / "os/status.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_in_the_daemons_folder_root_gets_no_further_than_the_daemon(machine: Machine, tmp_path: Path) -> None:
    """A daemon that has been taken over links its folders to where root alone may write and read."""
    roots = tmp_path / "roots"
    roots.mkdir(mode=0o700)
    (roots / "shadow").write_text("secret")
    wanted = command()
    tmp_path.chmod(0o755)
    shutil.rmtree(machine.state / "os/results")
    (machine.state / "os/results").symlink_to(roots)
    machine.drop(signed(wanted), wanted.nonce)
    for each in [machine.state, *machine.state.rglob("*")]:
        os.chown(each, NOBODY, NOBODY, follow_symlinks=False)
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    line = [sys.executable, "-m", "edged.oshelper", "--root", str(machine.root)]
    for parent in tmp_path.parents[:3]:  # pytest's own: one more where tests run side by side
        if not parent.stat().st_mode & 0o077:
            parent.chmod(0o711)
    done = subprocess.run(line, check=False, capture_output=True, text=True, env=environment)
    assert machine.bootc.changes == ["bootc upgrade --quiet"], done.stderr
    assert [path.name for path in roots.iterdir()] == ["shadow"]
    assert "a result cannot be left" in done.stdout + done.stderr


def test_what_bootc_says_is_left_for_the_daemon(machine: Machine) -> None:
    found = machine.requests.status()
    assert found is not None
    assert found.booted is not None
    assert found.booted.digest == digest(1)
    machine.bootc.says(host(booted=slot(1), rollback=slot(3)))
    machine.run()
    found = machine.requests.status()
    assert found is not None
    assert found.rollback is not None
    assert found.rollback.digest == digest(3)


def test_that_the_images_of_this_boot_are_told_shows_once_they_are(machine: Machine) -> None:
    """edged-os.service is started again while it does not: a first run that fails is not the last."""
    told = machine.root / "run/edged-os/told"
    told.unlink()
    machine.bootc.fails("status", "error: sysroot is locked")
    assert machine.run() == 1
    assert not told.exists()
    machine.bootc.fails("status", "")
    assert machine.run() == 0
    assert told.exists()


def test_which_images_there_are_is_told_before_an_order_that_may_take_hours(machine: Machine) -> None:
    machine.boots("b2", 1)
    assert machine.requests.status() is None, "what the boot before was is not this one"
    machine.drop(signed(found := command()), found.nonce)
    before = len(machine.bootc.asked)
    machine.run()
    asked = machine.bootc.asked[before:]
    assert asked.index("bootc status --format=json") < asked.index("bootc upgrade --quiet")
    assert asked[-1] == "bootc status --format=json"
    assert machine.requests.status() is not None


def test_a_request_that_is_withdrawn_while_others_are_looked_at_costs_them_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, wanted = command(), command()
    for each in (gone, wanted):
        machine.drop(signed(each), each.nonce)
    real = os.scandir

    def scandir(path: str | Path) -> Iterator[os.DirEntry[str]]:
        found = real(path)
        if Path(path) == machine.state / "os/requests":
            entries = list(found)
            machine.requests.withdraw(gone.nonce)
            return contextlib.nullcontext(entries)  # type: ignore[return-value]
        return found

    monkeypatch.setattr(os, "scandir", scandir)
    machine.run()
    assert machine.requests.result(gone.nonce) is None
    assert machine.result(wanted.nonce).status == "done"


def test_a_system_without_bootc_answers_so(machine: Machine) -> None:
    (machine.bootc.bin / "bootc").unlink()
    found = command()
    assert machine.refused(signed(found), found.nonce) == "unsupported"


def test_no_more_commands_than_can_be_remembered(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.oshelper.memory._MOST_NONCES", 1)
    first = command()
    machine.drop(signed(first), first.nonce)
    machine.run()
    second = command()
    machine.drop(signed(second), second.nonce)
    machine.run()
    assert machine.result(second.nonce).code == "not_remembered"


def test_a_request_is_as_long_as_a_command_may_be() -> None:
    from edged.system.os_requests import MAX_REQUEST_BYTES

    assert MAX_REQUEST_BYTES == MAX_BYTES


def test_metadata_that_is_no_file_is_not_waited_for(machine: Machine) -> None:
    path = machine.state / "update/metadata/timestamp.json"
    overwrite(path, b"")
    path.unlink()
    os.mkfifo(path)
    found = command()
    assert machine.refused(signed(found), found.nonce) == "not_verified"
