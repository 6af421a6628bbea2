"""The real daemon and a real mosquitto, with TLS and an ACL: what arrives, what survives, what is obeyed."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.broker import Mosquitto, Operator, Pki
from support.reporting import ALICE, DEVICE, TOPICS, answered, ask, command, daemon_for, telemetry_of, wait_telemetry

from edged.fleet.command import seal
from edged.telemetry.messages import Command


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "pki")


@pytest.fixture
def broker(tmp_path: Path, pki: Pki) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker", pki) as found:
        yield found


def test_the_operator_sees_the_device_and_every_request(tmp_path, broker):
    with Operator(broker, tmp_path / "operator") as operator, daemon_for(tmp_path, broker) as daemon:
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        operator.wait(lambda seen: [each for each in seen.all("online") if each["online"]])
        ready = operator.wait(
            lambda seen: [each for each in seen.all("state") if any(m["state"] == "ready" for m in each["models"])]
        )
        assert (ready[-1]["device"], ready[-1]["fleet"], ready[-1]["models"][0]["name"]) == (DEVICE, "shops", "digits")
        ask(daemon, 7)
        operator.wait(lambda seen: answered(seen.deliveries.counted()) == 7)
        operator.deliveries.check()
        found = operator.all("telemetry")
        assert answered(operator.deliveries.totals()) == 7
        (model,) = next(each["window"]["models"] for each in found if each["window"].get("models"))
        assert (model["model"], model["revision"], model["variant"]) == ("digits", 1, "fp32")
        assert sum(model["compute"]["counts"]) == model["codes"]["ok"]
        assert any(each["event"]["code"] == "started" for each in operator.all("event"))
        assert daemon.stop() == 0


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_device_that_is_not_there_any_more_leaves_its_will(tmp_path, broker, end):
    with Operator(broker, tmp_path / "operator") as operator, daemon_for(tmp_path, broker) as daemon:
        daemon.start()
        (birth, *_) = operator.wait(lambda seen: seen.all("online"))
        daemon.signal(end)
        daemon.wait_end()
        will = operator.wait(lambda seen: [each for each in seen.all("online") if not each["online"]])
        assert will[0]["session"] == birth["session"]


def test_commands_are_obeyed_once_and_only_from_operators(tmp_path, broker):
    with Operator(broker, tmp_path / "operator") as operator, daemon_for(tmp_path, broker) as daemon:
        daemon.start()
        operator.wait(lambda seen: [each for each in seen.all("online") if each["online"]])
        answers = "edged/1/shops/operators/alice/answers"
        diagnostics = command("diagnostics")
        operator.publish(TOPICS.commands[0], diagnostics, response_topic=answers, correlation=b"7")

        def last(code: str, status: str = "rejected") -> dict[str, Any]:
            return operator.wait(
                lambda seen: [each for each in seen.all("result") if (each["status"], each["code"]) == (status, code)]
            )[-1]

        done = last("", "done")
        assert done["operator"] == "alice"
        assert done["details"]["settings"]["mqtt.broker"] == json.dumps(broker.url)
        found = operator.wait(lambda seen: [each for each in seen.got if each.topic == answers][1:2])
        assert found[0].properties.CorrelationData == b"7"
        assert json.loads(found[0].payload)["status"] == "done"

        mallory = Ed25519PrivateKey.generate()
        forged = seal(msgspec.json.decode(_payload(command("report")), type=Command), mallory)
        cases = [
            (TOPICS.commands[0], diagnostics, "replayed"),
            (TOPICS.commands[2], command("report", device="", fleet="banks"), "wrong_scope"),
            (TOPICS.commands[1], command("report", expires_ms=int(time.time() * 1000) + 10**9), "validity_too_long"),
            (TOPICS.commands[0], forged, "signature_invalid"),
            (TOPICS.commands[0], b"[" * 16_000, "malformed"),
            (TOPICS.commands[0], command("os_status"), "unsupported"),
        ]
        for topic, payload, code in cases:
            operator.publish(topic, payload)
            assert last(code)["text"]
        operator.publish(TOPICS.commands[0], command("pin", arguments={"model": "digits", "revision": "1"}))
        pinned = operator.wait(
            lambda seen: [each for each in seen.all("result") if (each["command"], each["status"]) == ("pin", "done")]
        )
        assert "stays there, whatever the plan says" in pinned[-1]["text"]
        operator.publish(TOPICS.commands[0], command("rollback", arguments={"model": "digits"}))
        assert "no other revision" in last("revision_not_found")["text"]
        operator.publish(TOPICS.commands[0], b" " * 20_000)
        for _ in range(40):
            operator.publish(TOPICS.commands[0], forged)
        ask(daemon, 3)
        standing = telemetry_of(daemon)
        assert standing.commands["dropped"] > 0
        assert standing.commands["too_large"] == 1
        assert standing.commands["done"] == 2


def _payload(envelope: bytes) -> bytes:
    return base64.b64decode(json.loads(envelope)["payload"])


def test_a_row_that_nobody_listened_to_stays(tmp_path, broker):
    with daemon_for(tmp_path, broker) as daemon:
        daemon.start()
        ask(daemon, 3)
        standing = wait_telemetry(daemon, lambda found: "nobody listens" in found.problem)
        assert standing.connected
        assert (standing.sent, standing.events > 0) == (0, True)


def test_edgectl_commands_devices_and_shows_their_answers(tmp_path, broker):
    key = tmp_path / "alice.pem"
    key.write_bytes(ALICE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files = broker.pki.identity(tmp_path / "operator", "operator")

    def edgectl(*arguments: str) -> subprocess.CompletedProcess[str]:
        called = [sys.executable, "-m", "edged.ctl.main", *arguments]
        return subprocess.run(called, capture_output=True, text=True, timeout=60)

    def send(*arguments: str, as_json: bool = True) -> subprocess.CompletedProcess[str]:
        shown = {"ca": "ca", "cert": "certificate", "key": "key"}
        of_broker = [part for name, file in shown.items() for part in (f"--broker-{name}", str(files / f"{file}.pem"))]
        whom = ["--fleet-name", "shops", "--device", DEVICE, "--key", str(key), "--broker", broker.url]
        return edgectl("fleet", "command", *arguments, *whom, *of_broker, *["--json"] * as_json)

    with daemon_for(tmp_path, broker) as daemon:
        daemon.start()
        wait_telemetry(daemon, lambda found: found.connected)
        done = send("set_log_level", "level=debug")
        assert (done.returncode, json.loads(done.stdout)[0]["status"]) == (0, "done"), done.stderr
        refused = send("os_status")
        assert (refused.returncode, json.loads(refused.stdout)[0]["code"]) == (1, "unsupported")
        wrong = send("install", "model=digits")
        assert wrong.returncode == 1
        assert "revision" in wrong.stderr
        shown = edgectl("--root", str(daemon.root), "telemetry")
        assert shown.returncode == 1
        assert "nobody listens to it" in shown.stdout, "to windows and events"
        assert f"{broker.url}, connected" in shown.stdout
        assert "1 done, 1 unsupported" in shown.stdout
        not_hers = send("restart_model", "model=digits", "--wait", "600")
        assert not_hers.returncode == 1
        (told,) = json.loads(not_hers.stdout)
        assert (told["code"], told["operator"], told["command"]) == ("not_allowed", "alice", "restart_model")
        mallory = Ed25519PrivateKey.generate()
        key.write_bytes(mallory.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        forged = send("report", "--wait", "1", as_json=False)
        assert forged.returncode == 1
        assert "nobody has answered within 1 s, or nobody knows this key" in forged.stdout
