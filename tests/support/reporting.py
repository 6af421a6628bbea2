"""A daemon that reports to a broker, what is asked of it, and what its spool says it has counted."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edged._pb.edged.v1 import telemetry_pb2 as pb
from edged.config import address
from edged.fleet.command import seal
from edged.system.identity import Files
from edged.telemetry.messages import Command
from edged.telemetry.mqtt import Options
from edged.telemetry.sync import Topics
from edged.types import Operator as Person
from edged.types import Operators
from support.broker import Mosquitto
from support.calls import request, tensor
from support.daemon import DIGITS, PATIENCE_S, Daemon
from support.deliveries import Counts, counts
from support.polling import until

DEVICE = "till-7"
TOPICS = Topics("shops", DEVICE, "generic")
ALICE = Ed25519PrivateKey.generate()
MAY = ("report", "diagnostics", "set_log_level", "install", "pin", "rollback", "os_status")


def linked(broker: Mosquitto, folder: Path) -> Options:
    """How the device connects to `broker`, whose files of it are put into `folder`."""
    broker.pki.identity(folder, DEVICE)
    return Options(
        broker=address.broker(broker.url),
        device=DEVICE,
        username="",
        files=Files(folder / "certificate.pem", folder / "key.pem", folder / "ca.pem"),
        keep_alive_s=900,
        subscriptions=TOPICS.commands,
        will_topic=TOPICS.of("online"),
    )


def daemon_for(tmp_path: Path, broker: Mosquitto, extra: str = "", mqtt: str = "", **identity: Any) -> Daemon:
    """One that knows the broker and one operator, and closes a window each second; `mqtt`: more settings of it."""
    root = tmp_path / "root"
    broker.pki.identity(root / "var/lib/edged/identity", DEVICE, **identity)
    return reporting(root, broker.url, extra, mqtt)


def reporting(root: Path, url: str, extra: str = "", mqtt: str = "") -> Daemon:
    """The same for a broker at `url`, which knows the device by other means."""
    settings = (
        f'[device]\nname = "{DEVICE}"\nfleet = "shops"\n[mqtt]\nbroker = "{url}"\n'
        f'rows_per_minute = 60000\njitter_s = 0\n{mqtt}[telemetry]\nwindow_s = 1\nsend = "windows"\n{extra}'
    )
    operators = root / "var/lib/edged/update/plan/operators.json"
    operators.parent.mkdir(parents=True, exist_ok=True)
    alice = Person(name="alice", key=ALICE.public_key().public_bytes_raw().hex(), may=MAY)
    operators.write_bytes(msgspec.json.encode(Operators(fleet="shops", operators=(alice,))))
    return Daemon(root, [] if (root / "usr").exists() else [DIGITS], settings)


def ask(daemon: Daemon, count: int, timeout_s: float = PATIENCE_S) -> None:
    """So many requests, each answered. Raises grpc.RpcError."""
    for _ in range(count):
        daemon.infer(request("digits", tensor("image", "FP32", [1, 1, 8, 8]), raw=[bytes(256)]), timeout_s)


def stored(daemon: Daemon) -> Counts:
    """What the spool has counted since it was made, read as anybody may while the daemon runs, or after its death."""
    path = daemon.root / "var/lib/edged/telemetry/spool.db"
    if not path.exists():
        return counts(())
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=PATIENCE_S) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE name = 'facts'").fetchall()
        found = tables and database.execute("SELECT value FROM facts WHERE name = 'totals'").fetchone()
    database.close()
    return counts(json.loads(found[0]).get("models", ()) if found else ())


def wait_stored(daemon: Daemon, asked: int) -> None:
    """Waits until the spool has counted so many answered requests."""
    what = f"{asked} answered requests are counted"
    found = until(lambda: answered(stored(daemon)), what, holds=lambda count: count >= asked, log=daemon.log)
    assert found == asked


def answered(found: Counts) -> int:
    """Requests that were answered, whoever answered."""
    return sum(count for (_, _, code), count in found.items() if code == "ok")


def telemetry_of(daemon: Daemon) -> Any:
    """What `edgectl telemetry` shows."""
    return daemon.call("edged.v1.Telemetry/GetTelemetry", pb.GetTelemetryRequest(), pb.TelemetryStanding, admin=True)


def wait_telemetry(daemon: Daemon, condition: Any) -> Any:
    """Waits until the standing of telemetry fulfils `condition`, and gives it."""
    return until(lambda: telemetry_of(daemon), "telemetry stands so", holds=condition, log=daemon.log)


def command(name: str, signer: Ed25519PrivateKey = ALICE, **changes: Any) -> bytes:
    """A signed command, as it goes over the wire."""
    now_ms = int(time.time() * 1000)
    known = Command(
        schema=1,
        command=name,
        fleet="shops",
        device=DEVICE,
        issued_ms=now_ms,
        expires_ms=now_ms + 60_000,
        nonce=f"{random.getrandbits(128):032x}",
    )
    return seal(msgspec.structs.replace(known, **changes), signer)
