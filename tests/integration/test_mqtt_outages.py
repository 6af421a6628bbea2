"""The real daemon, a real mosquitto, and everything that comes between them: every count arrives, each row once or
recognizably again, none changed after it was sent, in the order of epoch and sequence."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from support.broker import Island, Mosquitto, Operator, Pki
from support.daemon import Daemon
from support.deliveries import Deliveries
from support.habits import Habits, served
from support.polling import PATIENCE_S, until
from support.reporting import (
    answered,
    ask,
    daemon_for,
    reporting,
    stored,
    telemetry_of,
    wait_stored,
    wait_telemetry,
)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "pki")


def arrived(asked: int) -> Callable[[Operator], bool]:
    """Whether all of it is there, and nothing that should not be."""

    def condition(seen: Operator) -> bool:
        seen.deliveries.check()
        return answered(seen.deliveries.totals()) == answered(seen.deliveries.counted()) == asked

    return condition


def is_online(seen: Operator) -> bool:
    return [each["online"] for each in seen.all("online")][-1:] == [True]


def notices(daemon: Daemon) -> None:
    """Waits until the daemon has found out by itself that nobody is there."""
    wait_telemetry(daemon, lambda found: not found.connected)


def hour(daemon: Daemon) -> None:
    """Waits for an hour, and until the daemon has found out."""
    end = time.monotonic() + 3600
    while time.monotonic() < end:
        time.sleep(60)
    notices(daemon)


# However long nobody was there, the broker is tried again every five minutes at least.
BACK_S = 300 + PATIENCE_S


def nothing(_daemon: Daemon) -> None:
    """The outage is short."""


@pytest.mark.parametrize(
    ("keep_alive_s", "half_open"), [(5, notices), pytest.param(900, hour, marks=pytest.mark.slow)], ids=["", "an hour"]
)
def test_every_count_arrives_whatever_the_network_does(tmp_path, pki, keep_alive_s, half_open):
    asked = 0
    with Island() as island, Mosquitto(tmp_path / "broker", pki, island) as broker:
        # An hour of windows of a second is more than a day may write by default.
        daemon = daemon_for(tmp_path, broker, "daily_write_mib = 4096\n", f"keep_alive_s = {keep_alive_s}\n")
        with daemon, Operator(broker, tmp_path / "operator") as operator:
            daemon.start()
            daemon.wait_for(lambda status: status.ready)
            operator.wait(is_online)
            for fault, meanwhile, cuts in (
                (island.drop, nothing, True),
                (island.reset, notices, True),
                (island.half_open, half_open, True),
                (lambda: island.lose(0.3), nothing, False),
            ):
                fault()
                ask(daemon, 5)
                asked += 5
                wait_stored(daemon, asked)
                if cuts:
                    assert answered(operator.deliveries.totals()) < asked
                    meanwhile(daemon)
                    island.heal()
                operator.wait(arrived(asked), BACK_S)
            operator.wait(is_online)
            assert telemetry_of(daemon).epoch in operator.deliveries.epochs
            assert len(operator.deliveries.epochs) == 1


@contextlib.contextmanager
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system without a byte left."""
    folder = tmp_path / "full"
    folder.mkdir()
    if os.getuid():
        pytest.skip("only root may mount")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "edged-test", folder], check=True)
    try:
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def no_disk(_tmp_path: Path) -> Iterator[None]:
    """Persistence is off."""
    yield None


@pytest.mark.parametrize("disk", [no_disk, full_disk])
def test_a_broker_that_loses_its_store_costs_resolution_and_no_count(tmp_path, pki, disk):
    with disk(tmp_path) as folder, Mosquitto(tmp_path / "broker", pki) as broker:
        if folder:  # it writes down each change: each time there is no room
            broker.kill()
            broker.configure(
                f"persistence true\npersistence_location {folder}/\nautosave_on_changes true\nautosave_interval 1\n"
            )
            broker.start()
        with daemon_for(tmp_path, broker) as daemon:
            with Operator(broker, tmp_path / "operator") as operator:
                daemon.start()
                daemon.wait_for(lambda status: status.ready)
                operator.wait(is_online)
                ask(daemon, 3)
                operator.wait(arrived(3))
            before = operator.deliveries
            # The operator is away, and the broker keeps its messages for it: what it took, the daemon has no more.
            ask(daemon, 4)
            wait_stored(daemon, 7)
            wait_telemetry(daemon, lambda found: not found.windows)
            broker.kill()
            assert not folder or not sum(file.stat().st_size for file in folder.glob("mosquitto*")), (
                "it has kept nothing"
            )
            broker.start()
            with Operator(broker, tmp_path / "operator") as operator:
                operator.deliveries = before
                operator.wait(is_online)
                ask(daemon, 5)
                operator.wait(lambda seen: answered(seen.deliveries.totals()) == 12)
                before.check()
                assert answered(before.counted()) == 8, "the windows between are gone with the broker's store"
                assert len(before.epochs) == 1


def test_a_broker_that_has_a_store_and_is_started_again_loses_nothing(tmp_path, pki):
    folder = tmp_path / "store"
    folder.mkdir()
    with Mosquitto(tmp_path / "broker", pki) as broker:
        broker.stop()
        broker.configure(f"persistence true\npersistence_location {folder}/\n")
        broker.start()
        with daemon_for(tmp_path, broker) as daemon:
            Operator(broker, tmp_path / "operator").close()
            daemon.start()
            daemon.wait_for(lambda status: status.ready)
            ask(daemon, 4)
            wait_stored(daemon, 4)
            wait_telemetry(daemon, lambda found: found.connected and not found.windows)
            broker.stop()
            broker.start()
            with Operator(broker, tmp_path / "operator") as operator:
                operator.wait(arrived(4))


def test_a_broker_that_accepts_and_never_acknowledges_takes_nothing_away(tmp_path):
    habits, got = Habits(), Deliveries()
    habits.acknowledges = False
    with served(habits) as port, reporting(tmp_path / "root", f"mqtt://127.0.0.1:{port}") as daemon:
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        until(lambda: len(habits.rows), "a row is sent", log=daemon.log)
        ask(daemon, 6)
        wait_stored(daemon, 6)
        waiting = telemetry_of(daemon)
        assert (waiting.connected, waiting.sent) == (True, 0)
        assert waiting.windows + waiting.events == waiting.sequence, "all that was ever counted is still there"
        assert len(habits.rows) == 1, "one after the other: the rest waits on the disk, not in memory"
        habits.acknowledges = True
        habits.hang_up()

        def come() -> tuple[int, int]:
            while habits.rows:
                got.take(*habits.rows.popleft())
            return telemetry_of(daemon).sent, answered(got.counted())

        until(come, "all six came", holds=lambda found: found[0] and found[1] == 6, log=daemon.log)
        got.check()
        assert answered(got.totals()) == 6
        assert got.duplicates >= 1, "what was not acknowledged came again, and can be told"


@pytest.mark.parametrize("kills", [6, pytest.param(500, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_loses_and_repeats_nothing(tmp_path, pki, kills):
    chance = random.Random(seed := random.randrange(2**32))
    print(f"seed {seed}")  # noqa: T201 - to run it again
    with Island() as island, Mosquitto(tmp_path / "broker", pki, island) as broker:
        faults = [island.heal, island.heal, island.drop, island.reset, lambda: island.lose(0.3)]
        with Operator(broker, tmp_path / "operator") as operator:
            for _ in range(kills):
                island.heal()
                chance.choice(faults)()
                with daemon_for(tmp_path, broker) as daemon:
                    if chance.random() < 0.2:  # as it starts
                        daemon.start(wait=False)
                        time.sleep(chance.uniform(0, 1))
                    else:
                        daemon.start()
                        dies_s = time.monotonic() + chance.uniform(0, 3)
                        while (left_s := dies_s - time.monotonic()) > 0:
                            with contextlib.suppress(grpc.RpcError):  # its time was up
                                ask(daemon, 1, left_s)
                            if chance.random() < 0.01:
                                island.heal()
                                chance.choice(faults)()
                    daemon.process.kill()
                    daemon.process.wait()
            island.heal()
            with daemon_for(tmp_path, broker) as daemon:
                daemon.start()
                wait_telemetry(daemon, lambda found: found.connected)
                entered = stored(daemon)
                operator.wait(lambda seen: seen.deliveries.totals() == entered)
                operator.wait(lambda seen: seen.deliveries.counted() == entered)
            operator.deliveries.check()
            assert len(operator.deliveries.epochs) == 1
            assert answered(entered) > 0
            print(f"{kills} kills, {answered(entered)} requests, {operator.deliveries.duplicates} duplicates")  # noqa: T201
