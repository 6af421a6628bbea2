"""What befalls the daemon's spool: its disk fills up, its file is damaged; the operator hears of all that counted."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.broker import Mosquitto, Operator, Pki
from support.reporting import answered, ask, daemon_for, stored, wait_stored, wait_telemetry


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker", Pki(tmp_path / "pki")) as found:
        yield found


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_a_full_disk_is_waited_out_in_memory_and_costs_no_count(tmp_path, broker):
    folder = tmp_path / "root/var/lib/edged/telemetry"
    folder.mkdir(parents=True, mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "edged-test", folder], check=True)
    try:
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        with Operator(broker, tmp_path / "operator") as operator, daemon_for(tmp_path, broker) as daemon:
            daemon.start()
            daemon.wait_for(lambda status: status.ready)
            ask(daemon, 7)
            full = wait_telemetry(daemon, lambda found: found.spool_problem).spool_problem
            assert str(folder) in full
            ask(daemon, 5)
            operator.wait(lambda seen: seen.all("state"))
            assert not operator.deliveries
            (folder / "filler").unlink()
            operator.wait(lambda seen: answered(seen.deliveries.counted()) == 12)
            operator.deliveries.check()
            assert len(operator.deliveries.epochs) == 1
            assert not wait_telemetry(daemon, lambda found: not found.spool_problem).lost.windows
            assert daemon.stop() == 0
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_damaged_spool_is_set_aside_told_and_followed_by_a_new_epoch(tmp_path, broker):
    spool = tmp_path / "root/var/lib/edged/telemetry/spool.db"
    with Operator(broker, tmp_path / "operator") as operator:
        with daemon_for(tmp_path, broker) as daemon:
            daemon.start()
            daemon.wait_for(lambda status: status.ready)
            ask(daemon, 3)
            operator.wait(lambda seen: answered(seen.deliveries.counted()) == 3)
            assert daemon.stop() == 0
        spool.write_bytes(bytes(4096) + spool.read_bytes()[4096:])
        with daemon_for(tmp_path, broker) as daemon:
            daemon.start()
            daemon.wait_for(lambda status: status.ready)
            ask(daemon, 4)
            operator.wait(lambda seen: answered(seen.deliveries.counted()) == 7)
            operator.deliveries.check()
            assert len(operator.deliveries.epochs) == 2
            told = operator.wait(
                lambda seen: [each for each in seen.all("event") if "damaged" in each["event"]["message"]]
            )
            assert str(spool.with_name("spool.damaged.db")) in told[0]["event"]["message"]
            assert spool.with_name("spool.damaged.db").exists()
            wait_stored(daemon, 4)
            assert answered(stored(daemon)) == 4, "a new epoch begins to count anew; the operator adds them up"
