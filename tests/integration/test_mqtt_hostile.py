"""A broker in wrong hands, and a clock that is wrong: the real daemon obeys nobody but its operators, counts all that
comes, goes on serving, and keeps its windows in order."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.broker import Mosquitto, Operator, Pki
from support.daemon import PATIENCE_S, Daemon
from support.polling import until
from support.reporting import (
    TOPICS,
    answered,
    ask,
    command,
    daemon_for,
    stored,
    telemetry_of,
    wait_stored,
    wait_telemetry,
)

from edged.telemetry.commands import PAYLOAD_TYPE

MALLORY = Ed25519PrivateKey.generate()
DAY_MS = 86_400_000


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker", Pki(tmp_path / "pki")) as found:
        yield found


def unsigned(payload: bytes) -> bytes:
    return json.dumps(
        {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": []}
    ).encode()


def hostile(chance: random.Random) -> bytes:
    """Something that is no operator's command, however near it comes."""
    forged = command(chance.choice(["install", "rollback", "set_log_level", "report"]), MALLORY)
    match chance.randrange(6):
        case 0:
            return forged
        case 1:
            place = chance.randrange(len(forged))
            return forged[:place] + chance.randbytes(chance.randrange(1, 9)) + forged[place + 1 :]
        case 2:
            return forged[: chance.randrange(len(forged))]
        case 3:
            return chance.choice([b"[", b'{"a":', b'{"payload":[']) * chance.randrange(1, 2000)
        case 4:
            return chance.randbytes(chance.randrange(20_000))
    return unsigned(b'{"a":' * chance.randrange(1000) + b"1" + b"}" * chance.randrange(1000))


def results(seen: Operator) -> list[tuple[str, str]]:
    return [(each["status"], each["code"]) for each in seen.all("result")]


def named_results(seen: Operator) -> list[tuple[str, str, str, str]]:
    return [(each["nonce"], each["operator"], each["status"], each["code"]) for each in seen.all("result")]


def nonce_of(envelope: bytes) -> str:
    return json.loads(base64.b64decode(json.loads(envelope)["payload"]))["nonce"]


def test_a_flood_of_hostile_commands_is_counted_to_the_last_and_hinders_nobody(tmp_path, broker):
    chance = random.Random(seed := random.randrange(2**32))
    print(f"seed {seed}")  # noqa: T201 - to run it again
    count = 400
    with Operator(broker, tmp_path / "operator") as operator, daemon_for(tmp_path, broker) as daemon:
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        wait_telemetry(daemon, lambda found: found.connected)
        flooded = threading.Event()
        asked = 0

        def flood() -> None:
            for _ in range(count):
                operator.publish(chance.choice(TOPICS.commands), hostile(chance))
            flooded.set()

        thread = threading.Thread(target=flood)
        thread.start()
        while not flooded.is_set():
            ask(daemon, 1)
            asked += 1
        thread.join()
        found = wait_telemetry(daemon, lambda found: sum(found.commands.values()) >= count)
        assert sum(found.commands.values()) == count, "each answered or counted, and none twice"
        assert not {"done", "accepted"} & set(found.commands)
        assert found.connected
        silent = sum(found.commands.get(code, 0) for code in ("rate_limited", "too_large", "dropped"))
        operator.wait(lambda seen: len(seen.all("result")) == count - silent)
        assert not any(status != "rejected" for status, _ in results(operator))
        operator.wait(lambda seen: answered(seen.deliveries.counted()) == asked)
        operator.deliveries.check()


def wait_all_told(daemon: Daemon) -> None:
    """Until the broker has acknowledged each answer: what it has not would be told again, which is the same answer."""
    path = daemon.root / "var/lib/edged/telemetry/spool.db"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=PATIENCE_S)) as database:
        until(
            lambda: database.execute("SELECT nonce FROM orders").fetchall(),
            "each answer is acknowledged",
            holds=lambda left: not left,
            log=daemon.log,
        )


def test_a_command_is_obeyed_in_its_time_and_never_again_not_even_by_a_daemon_that_was_killed(tmp_path, broker):
    with Operator(broker, tmp_path / "operator") as operator:
        with daemon_for(tmp_path, broker) as daemon:
            daemon.start()
            wait_telemetry(daemon, lambda found: found.connected)
            now_ms = int(time.time() * 1000)
            once = command("set_log_level", arguments={"level": "debug"}, expires_ms=now_ms + DAY_MS // 2)
            late = command("report", issued_ms=now_ms - 7200_000, expires_ms=now_ms - 3600_000)
            early = command("report", issued_ms=now_ms + 3600_000, expires_ms=now_ms + 7200_000)
            other = command("report", device="till-8")
            for payload in (late, early, other, once):
                operator.publish(TOPICS.commands[2], payload)
            operator.wait(lambda seen: ("done", "") in results(seen))
            for payload, code in ((late, "expired"), (early, "not_yet_valid"), (other, "wrong_scope")):
                expected = (nonce_of(payload), "alice", "rejected", code)
                operator.wait(lambda seen, expected=expected: expected in named_results(seen))
            wait_all_told(daemon)
            daemon.process.kill()
            daemon.process.wait()
        with daemon_for(tmp_path, broker) as daemon:
            daemon.start()
            wait_telemetry(daemon, lambda found: found.connected)
            operator.publish(TOPICS.commands[0], once)
            operator.wait(lambda seen: ("rejected", "replayed") in results(seen))
            done = [each["nonce"] for each in operator.all("result") if each["status"] == "done"]
            assert len(set(done)) == 1  # its answer may come twice: the kill may have come before the broker's word
            assert "done" not in telemetry_of(daemon).commands


def test_a_command_that_the_broker_kept_for_ever_is_not_taken(tmp_path, broker):
    kept = command("set_log_level", arguments={"level": "debug"})
    with Operator(broker, tmp_path / "operator") as operator:
        operator.publish(TOPICS.commands[0], kept, retain=True)
        with daemon_for(tmp_path, broker) as daemon:
            daemon.start()
            found = wait_telemetry(daemon, lambda found: found.commands.get("dropped") == 1)
            assert dict(found.commands) == {"dropped": 1}


LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib64/faketime/libfaketimeMT.so.1")


def test_a_clock_that_is_wrong_and_then_right_leaves_windows_in_order(tmp_path, broker):
    library = next((found for each in LIBRARIES for found in Path("/").glob(each[1:])), None)
    if library is None:
        pytest.skip("faketime is not installed")
    said = tmp_path / "clock"

    def clock(offset: str) -> None:
        new = said.with_suffix(".new")
        new.write_text(offset)
        new.replace(said)

    clock("-15000d")
    environment = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(said),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with Operator(broker, tmp_path / "operator") as operator, daemon_for(tmp_path, broker) as daemon:
        daemon.start(environment=environment)
        daemon.wait_for(lambda status: status.ready)
        ask(daemon, 3)
        wait_stored(daemon, 3)
        refused = wait_telemetry(daemon, lambda found: found.problem).problem
        assert "set the clock right" in refused, "no certificate holds in 1985"
        clock("+0d")
        operator.wait(lambda seen: answered(seen.deliveries.counted()) == 3)
        clock("+20000d")
        ask(daemon, 4)
        operator.wait(lambda seen: answered(seen.deliveries.counted()) == 7)
        clock("-1d")
        ask(daemon, 5)
        operator.wait(lambda seen: answered(seen.deliveries.counted()) == 12)
        operator.wait(lambda seen: seen.deliveries.windows[-1][1]["window"]["began_ms"] < time.time() * 1000)
        operator.deliveries.check()
        assert stored(daemon) == operator.deliveries.totals() == operator.deliveries.counted()
        assert len(operator.deliveries.epochs) == 1
        began = [content["window"]["began_ms"] for _, content in operator.deliveries.windows]
        now_ms = time.time() * 1000
        assert began[0] < now_ms - 10_000 * DAY_MS
        assert max(began) > now_ms + 10_000 * DAY_MS
        assert now_ms - 2 * DAY_MS < began[-1] < now_ms
        assert all(0 < content["window"]["span_ms"] < 60_000 for _, content in operator.deliveries.windows)
