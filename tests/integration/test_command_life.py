"""Commands that are under way when the daemon is killed, or that somebody else carries out: answered, and once."""

from __future__ import annotations

import base64
import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.broker import Mosquitto, Operator, Pki
from support.calls import request, tensor
from support.daemon import DIGITS, Daemon
from support.fleet import Fleet
from support.polling import until
from support.updating import Updating, scale, scale_bundle

from edged._pb.edged.v1 import update_pb2 as up
from edged.fleet.command import seal
from edged.fleet.operators import COMMANDS
from edged.system.os_requests import OsImage, OsResult, OsStatus
from edged.telemetry.messages import Command
from edged.telemetry.orders import Order
from edged.telemetry.spool import Spool
from edged.telemetry.sync import Topics
from edged.types import Operator as Person
from edged.types import Operators

DEVICE = "till-7"
TOPICS = Topics("shops", DEVICE, "generic")
ALICE = Ed25519PrivateKey.generate()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker", Pki(tmp_path / "pki")) as found:
        yield found


def prepared(root: Path, broker: Mosquitto, extra: str = "") -> str:
    """The device's identity and who may command it; the settings."""
    broker.pki.identity(root / "var/lib/edged/identity", DEVICE)
    operators = root / "var/lib/edged/update/plan/operators.json"
    operators.parent.mkdir(parents=True, exist_ok=True)
    key = ALICE.public_key().public_bytes_raw().hex()
    alice = Person(name="alice", key=key, may=tuple(COMMANDS))
    operators.write_bytes(msgspec.json.encode(Operators(fleet="shops", operators=(alice,))))
    return (
        f'[mqtt]\nbroker = "{broker.url}"\nrows_per_minute = 60000\njitter_s = 0\n[telemetry]\nwindow_s = 3600\n{extra}'
    )


def device(tmp_path: Path, broker: Mosquitto) -> Daemon:
    root = tmp_path / "root"
    bundles = [] if (root / "usr").exists() else [DIGITS]
    identity = f'[device]\nname = "{DEVICE}"\nfleet = "shops"\n'
    return Daemon(root, bundles, identity + prepared(root, broker))


def command(name: str, **changes: Any) -> tuple[str, bytes]:
    """Its nonce, and a signed command as it goes over the wire."""
    now_ms = int(time.time() * 1000)
    known = Command(
        schema=1,
        command=name,
        fleet="shops",
        device=DEVICE,
        issued_ms=now_ms,
        expires_ms=now_ms + 600_000,
        nonce=f"{random.getrandbits(128):032x}",
    )
    made = msgspec.structs.replace(known, **changes)
    return made.nonce, seal(made, ALICE)


def results(seen: Operator, nonce: str) -> list[tuple[str, str]]:
    return [(each["status"], each["code"]) for each in seen.all("result") if each["nonce"] == nonce]


def final(operator: Operator, nonce: str) -> dict[str, Any]:
    """What became of a command."""
    return operator.wait(
        lambda seen: [each for each in seen.all("result") if each["nonce"] == nonce and each["status"] != "accepted"]
    )[0]


def send(operator: Operator, name: str, **changes: Any) -> str:
    nonce, payload = command(name, **changes)
    operator.publish(TOPICS.commands[0], payload)
    return nonce


def obey(operator: Operator, name: str, **changes: Any) -> dict[str, Any]:
    return final(operator, send(operator, name, **changes))


def online(operator: Operator) -> None:
    count = len(operator.all("online"))
    operator.wait(lambda seen: [each for each in seen.all("online")[max(count - 1, 0) :] if each["online"]])


def keep_order(root: Path, name: str, **changes: Any) -> str:
    """As a daemon leaves one that it had accepted when the power went."""
    nonce, envelope = command(name, **changes.pop("of_command", {}))
    known = msgspec.json.decode(base64.b64decode(json.loads(envelope)["payload"]), type=Command)
    order = Order(command=known, operator="alice", envelope=envelope, topics=(TOPICS.of("result"),), **changes)
    spool = Spool(root / "var/lib/edged/telemetry", 8 * 2**20, 0)
    spool.orders.accept(order, 0)
    spool.close()
    return nonce


def open_orders(root: Path) -> list[Order]:
    spool = Spool(root / "var/lib/edged/telemetry", 8 * 2**20, 0)
    found = spool.orders.all()
    spool.close()
    return found


def test_what_was_accepted_when_the_daemon_ended_is_done_or_answered_once(tmp_path, broker):
    root = tmp_path / "root"
    now_ms = int(time.time() * 1000)
    found = device(tmp_path, broker)
    done = keep_order(root, "set_log_level", of_command={"arguments": {"level": "debug"}})
    late = keep_order(
        root, "pin", of_command={"arguments": {"model": "digits", "revision": "1"}, "expires_ms": now_ms - 1}
    )
    deadly = keep_order(root, "report", resumed=2)
    with Operator(broker, tmp_path / "operator") as operator, found as daemon:
        daemon.start()
        assert final(operator, done)["status"] == "done"
        assert final(operator, late)["code"] == "expired"
        assert "ended 3 times" in final(operator, deadly)["text"]
        assert obey(operator, "report")["status"] == "done"
        daemon.stop()
    assert open_orders(root) == [], "all are told"
    with Operator(broker, tmp_path / "operator") as operator, device(tmp_path, broker) as daemon:
        daemon.start()
        assert obey(operator, "report")["status"] == "done"
        assert not results(operator, done), "none is told or done again"


def test_an_answer_waits_for_a_connection_and_outlives_a_kill(tmp_path, broker):
    root = tmp_path / "root"
    found = device(tmp_path, broker)
    nonce = keep_order(root, "diagnostics")
    broker.kill()
    with found as daemon:
        daemon.start()
        until(lambda: "diagnostics was commanded by alice" in daemon.log(), "the order is taken up", log=daemon.log)
        daemon.process.kill()
        daemon.process.wait()
    broker.start()
    with Operator(broker, tmp_path / "operator") as operator, device(tmp_path, broker) as daemon:
        daemon.start()
        assert final(operator, nonce)["details"]["state"]["device"] == DEVICE
        assert results(operator, nonce) == [("done", "")]


def test_a_model_is_restarted_without_a_failed_request(tmp_path, broker):
    with Operator(broker, tmp_path / "operator") as operator, device(tmp_path, broker) as daemon:
        daemon.start()
        (before,) = daemon.wait_for(lambda status: status.ready).workers
        online(operator)
        nonce = send(operator, "restart_model", arguments={"model": "digits"})
        answered = 0
        while ("done", "") not in results(operator, nonce):  # infer raises where a request fails
            daemon.infer(request("digits", tensor("image", "FP32", [1, 1, 8, 8]), raw=[bytes(256)]))
            answered += 1
        assert answered
        assert "beside it" in final(operator, nonce)["text"]
        (after,) = daemon.wait_for(lambda status: status.ready).workers
        assert after.pid != before.pid
        assert after.restarts == before.restarts, "it is no crash"
        assert obey(operator, "restart_model", arguments={"model": "faces"})["code"] == "model_not_found"


def take_request(root: Path, nonce: str) -> bytes:
    """As the operating system's helper does."""
    path = root / "var/lib/edged/os/requests" / f"{nonce}.json"
    until(path.exists, f"{path.name} is handed on")
    content = path.read_bytes()
    path.unlink()
    return content


def until_no_results(root: Path) -> None:
    folder = root / "var/lib/edged/os/results"
    until(lambda: list(folder.iterdir()), "every result has been taken", holds=lambda left: not left)


def leave_result(root: Path, nonce: str, **fields: Any) -> None:
    made = OsResult(nonce=nonce, command="os_upgrade", **fields)
    path = root / "var/lib/edged/os/results" / f"{nonce}.json"
    path.with_suffix(".new").write_bytes(msgspec.json.encode(made))
    path.with_suffix(".new").replace(path)


def test_what_concerns_the_operating_system_is_handed_on_signed_and_reported_after_a_restart(tmp_path, broker):
    root = tmp_path / "root"
    with Operator(broker, tmp_path / "operator") as operator:
        with device(tmp_path, broker) as daemon:
            daemon.start()
            online(operator)
            assert obey(operator, "os_status")["code"] == "unsupported"
            nonce, payload = command("os_upgrade")
            operator.publish(TOPICS.commands[0], payload)
            assert take_request(root, nonce) == payload, "byte for byte, so that it is verified anew"
            leave_result(root, nonce, status="accepted", text="staged", at_ms=1)
            operator.wait(lambda seen: [each for each in seen.all("result") if each["text"] == "staged"])
            refused = send(operator, "os_rollback")
            take_request(root, refused)
            leave_result(root, refused, status="refused", code="not_allowed", text="not on Sundays", at_ms=2)
            assert (final(operator, refused)["code"], final(operator, refused)["text"]) == (
                "not_allowed",
                "not on Sundays",
            )
            daemon.process.kill()
            daemon.process.wait()
        leave_result(root, nonce, status="done", text="edge-os 42 runs", details={"booted": "42"}, at_ms=3)
        booted = OsImage("registry.example/edge-os:42", "42", "sha256:" + "4" * 64, 1)
        (root / "var/lib/edged/os/status.json").write_bytes(msgspec.json.encode(OsStatus(booted=booted)))
        with device(tmp_path, broker) as daemon:
            daemon.start()
            told = final(operator, nonce)
            assert (told["status"], told["text"], told["details"]) == ("done", "edge-os 42 runs", {"booted": "42"})
            until_no_results(root)
            assert obey(operator, "os_status")["details"]["booted"]["version"] == "42"
            state = operator.wait(
                lambda seen: [
                    each for each in seen.all("state") if each["os_digest"] and each["models"][0].get("phase")
                ]
            )[-1]
            assert (state["os"], state["os_digest"]) == ("registry.example/edge-os:42 42", booted.digest)
            assert state["processors"] > 0
            assert state["models"][0]["phase"] == "idle"


def test_a_result_whose_order_nobody_remembers_is_told_as_an_event(tmp_path, broker):
    root = tmp_path / "root"
    nonce, _ = command("os_upgrade")
    with Operator(broker, tmp_path / "operator") as operator, device(tmp_path, broker) as daemon:
        (root / "var/lib/edged/os/results").mkdir(parents=True)
        leave_result(root, nonce, status="done", text="edge-os 42 runs", at_ms=int(time.time() * 1000))
        daemon.start()
        told = operator.wait(lambda seen: [each for each in seen.all("event") if each["event"]["code"] == "os_result"])
        assert (told[0]["event"]["message"], told[0]["event"]["details"]["nonce"]) == ("edge-os 42 runs", nonce)
        until_no_results(root)


def test_a_reload_changes_who_may_command_and_how_windows_go_out(tmp_path, broker):
    with Operator(broker, tmp_path / "operator") as operator, device(tmp_path, broker) as daemon:
        daemon.start()
        online(operator)

        def ask_unsigned() -> str:
            _, envelope = command("report")
            made = {**json.loads(envelope), "signatures": []}
            operator.publish(TOPICS.commands[0], json.dumps(made).encode())
            found = operator.wait(lambda seen: seen.all("result")[before:])
            return found[-1]["code"] or found[-1]["status"]

        before = len(operator.all("result"))
        assert ask_unsigned() == "unsigned"
        text = (daemon.root / "etc/edged/edged.toml").read_text()
        daemon.write_settings(
            text.replace("[telemetry]\n", '[telemetry]\nsend = "windows"\n').replace(
                "[mqtt]\n", "[mqtt]\nunsigned_commands = true\n"
            )
        )
        daemon.signal(signal.SIGHUP)
        until(lambda: "telemetry.send is now" in daemon.log(), "the settings are taken", log=daemon.log)
        before = len(operator.all("result"))
        assert ask_unsigned() in ("accepted", "done")
        operator.wait(lambda seen: [each for each in seen.all("result") if each["status"] == "done"])
        told = obey(operator, "diagnostics")["details"]["settings"]
        assert (told["telemetry.send"], told["mqtt.unsigned_commands"]) == ('"windows"', "true")
        assert "restart_needed" not in daemon.log()


def test_a_rollback_without_a_revision_goes_back_once_however_often_it_is_said(tmp_path):
    fleet = Fleet(tmp_path / "fleet")
    root = tmp_path / "root"
    first = scale_bundle(tmp_path / "factory", 1, factor=2.0)
    with Daemon(root, [first], fleet.trusted_by(root)) as daemon:
        daemon.start()
        updating = Updating(daemon)

        def go_back(revision: int = 0) -> int:
            asked = up.RollBackRequest(model="scale", revision=revision)
            return updating.call("RollBack", asked, up.RollBackResponse).revision

        for revision in (2, 3):
            fleet.publish(scale_bundle(tmp_path / "new", revision, factor=float(revision)))
            fleet.plan("scale", revision)
            updating.look()
            updating.wait_idle_at(revision)
        assert [go_back(), go_back()] == [2, 2]
        updating.wait_idle_at(2)
        assert go_back() == 2
        daemon.stop()
    with Daemon(root) as daemon:
        daemon.start()
        updating = Updating(daemon)
        updating.wait_idle_at(2)
        assert go_back() == 2, "nor after a restart"
        assert daemon.infer(scale(1.0, 2.0)).model_version == "2"
        assert go_back(1) == 1, "a revision that is named is gone back to"
        updating.wait_idle_at(1)
