"""Who a device is to a real broker: certificates that are replaced, run out or are nobody's, and passwords."""

from __future__ import annotations

import asyncio
import datetime
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.broker import Mosquitto, Operator, Pki
from support.reporting import DEVICE, answered, ask, daemon_for, linked, reporting, wait_telemetry

from edged.telemetry import mqtt
from edged.telemetry.mqtt import Mqtt

YESTERDAY = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "pki")


@pytest.fixture
def broker(tmp_path: Path, pki: Pki) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker", pki) as found:
        yield found


async def test_files_that_are_replaced_are_taken_up_while_the_connection_lasts(tmp_path, broker, monkeypatch):
    monkeypatch.setattr(mqtt, "_LOOK_S", 0.1)
    monkeypatch.setattr(mqtt, "_BACKOFF_LEAST_S", 300.0)
    folder = tmp_path / "identity"
    options = linked(broker, folder)
    changed = asyncio.Event()
    link = Mqtt(options, lambda session: session.encode(), changed.set, lambda _message: None, pytest.fail)

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                changed.clear()
                await changed.wait()

    def replace(name: str, **others: datetime.datetime) -> None:
        """As whoever renews it does: each file whole, one after the other."""
        new = broker.pki.identity(tmp_path / "new", name, **others)
        for file in ("key.pem", "certificate.pem"):
            (new / file).replace(folder / file)

    link.start()
    try:
        await until(lambda: link.connected)
        first = link.session
        assert "u'till-7'" in broker.log()
        replace("till-7-renewed")
        await until(lambda: link.connected and link.session != first and "u'till-7-renewed'" in broker.log())
        replace("till-7", not_before=YESTERDAY - datetime.timedelta(days=1), not_after=YESTERDAY)
        await until(lambda: "certificate.pem expired at" in link.problem and not link.connected)
        replace("till-7-again")
        await until(lambda: link.connected and "u'till-7-again'" in broker.log())
    finally:
        await link.stop()


def test_a_certificate_that_is_no_good_is_named_and_a_good_one_is_taken_up(tmp_path, broker):
    old = {"not_before": YESTERDAY - datetime.timedelta(days=1), "not_after": YESTERDAY}
    with Operator(broker, tmp_path / "operator") as operator, daemon_for(tmp_path, broker, **old) as daemon:
        identity = daemon.root / "var/lib/edged/identity"
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        ask(daemon, 3)
        named = wait_telemetry(daemon, lambda found: "expired at" in found.problem).problem
        assert f"{identity / 'certificate.pem'} expired at {YESTERDAY:%Y-%m-%d %H:%M} UTC" in named
        assert "renew the certificate" in named
        Pki(tmp_path / "strangers").identity(tmp_path / "foreign", DEVICE)
        for file in ("key.pem", "certificate.pem"):
            shutil.copy(tmp_path / "foreign" / file, identity / file)
        refused = wait_telemetry(daemon, lambda found: "the broker ended" in found.problem).problem
        assert "see that it accepts this certificate" in refused
        broker.pki.identity(identity, DEVICE)
        operator.wait(lambda seen: answered(seen.deliveries.counted()) == 3)


def test_a_name_and_a_password_from_a_credential_open_the_broker(tmp_path, pki):
    users, secret = tmp_path / "users", "correct horse battery staple"
    if not (program := shutil.which("mosquitto_passwd")):
        pytest.skip("mosquitto_passwd is not installed")
    subprocess.run([program, "-c", "-b", users, DEVICE, secret], check=True, capture_output=True)
    wanted = f"allow_anonymous false\npassword_file {users}\n"
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    password = credentials / "edged.mqtt-password"
    password.write_text(f"wrong {secret}\n")
    with Mosquitto(tmp_path / "broker", pki, settings=wanted) as broker:
        identity = tmp_path / "root/var/lib/edged/identity"
        identity.mkdir(parents=True)
        shutil.copy(pki.ca, identity / "ca.pem")
        with (
            Operator(broker, tmp_path / "operator") as operator,
            reporting(tmp_path / "root", broker.url, mqtt=f'username = "{DEVICE}"\n') as daemon,
        ):
            daemon.start(environment={"CREDENTIALS_DIRECTORY": str(credentials)})
            refused = wait_telemetry(daemon, lambda found: "refuses the connection" in found.problem).problem
            assert "Not authorized" in refused
            password.write_text(f"{secret}\n")
            ask(daemon, 2)
            operator.wait(lambda seen: answered(seen.deliveries.counted()) == 2)
            assert daemon.stop() == 0
            assert secret not in daemon.log()
            assert f"u'{DEVICE}'" in broker.log()
