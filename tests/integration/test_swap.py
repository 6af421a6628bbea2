"""Updates where memory holds only one of two revisions: requests wait while they change places, and none fails."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from support.daemon import PATIENCE_S, Daemon
from support.fleet import Fleet
from support.interpreter import hostile_interpreter
from support.polling import until
from support.swapping import limit_for_one_mib, worker_pids
from support.updating import MODEL, Updating, large_model, scale, scale_bundle

from edged._pb.edged.v1 import update_pb2 as up

# What the new revision says it takes; what is left beside the old one is made to be a little less.
NEED_MIB = 2000

# What the old one takes at least: half of it is how much else may change while a test runs.
LARGE_MIB = 64
NEEDS = f"requires = {{ memory_mib = {NEED_MIB} }}\n"
QUICK = "[acceptance]\nshadow = { samples = 20 }\nsoak = { min_requests = 0, max_s = 0.5 }\n"
LONG = "[acceptance]\nshadow = { samples = 20 }\nsoak = { min_requests = 50, max_s = 600 }\n"


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """The bundle of revision 1."""
    return scale_bundle(tmp_path_factory.mktemp("factory"), 1, model=large_model(LARGE_MIB))


@pytest.fixture
def device(tmp_path, fleet, first) -> Iterator[Daemon]:
    """A daemon that serves revision 1 and has room for one more only once that has gone."""
    root = tmp_path / "root"
    settings = fleet.trusted_by(root) + "[workers]\ninference_s = 5\n[pressure]\nmemory_reserve_mib = 0\n"
    with Daemon(root, [first], settings, hostile_interpreter(tmp_path / "python")) as daemon:
        daemon.start()
        daemon.infer(scale(1.0, 2.0))
        daemon.write_settings(settings + f"memory_limit_mib = {limit_for_one_mib(daemon, NEED_MIB)}\n")
        daemon.signal(signal.SIGHUP)
        daemon.wait_told("READY=1", 2)
        yield daemon


@pytest.fixture
def updating(device) -> Updating:
    return Updating(device)


class Caller(threading.Thread):
    """Asks one request after the other, and keeps what became of each."""

    def __init__(self, daemon: Daemon, *values: float) -> None:
        super().__init__()
        self.found: list[int] = []
        self.failed: list[grpc.RpcError] = []
        self._daemon, self._values, self._ended = daemon, values, threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                self.found.append(int(self._daemon.infer(scale(*self._values)).model_version))
            except grpc.RpcError as error:
                self.failed.append(error)

    def end(self) -> None:
        self._ended.set()
        self.join(PATIENCE_S)


@contextmanager
def traffic(daemon: Daemon, *values: float, callers: int = 3) -> Iterator[list[Caller]]:
    made = [Caller(daemon, *values) for _ in range(callers)]
    for each in made:
        each.start()
    try:
        yield made
    finally:
        for each in made:
            each.end()


def steps(updating: Updating) -> list[str]:
    return [step.event for step in updating.history()]


def publish(fleet: Fleet, folder: Path, **terms: object) -> None:
    fleet.publish(scale_bundle(folder / "bundles", 2, **terms))
    fleet.plan(MODEL, 2)


def test_requests_wait_while_two_revisions_change_places(tmp_path, fleet, device, updating):
    publish(fleet, tmp_path, factor=3.0, extra=NEEDS + QUICK)
    first = worker_pids(device)[1]
    with traffic(device, 1.0, 2.0) as callers:
        updating.look()
        updating.wait_idle_at(2)
    assert not [each.failed for each in callers if each.failed]
    for each in callers:  # nobody is answered by the new one, and then by the old one
        assert each.found == sorted(each.found)
    assert {revision for each in callers for revision in each.found} == {1, 2}
    assert steps(updating)[:5] == ["wanted", "fetched", "taken_in", "swaps", "swapped"]
    swaps, swapped = updating.history()[3:5]
    assert "memory holds one of the revisions 1 and 2, so requests wait while they change places" in swaps.text
    assert "MiB are missing" in swaps.text
    assert (swapped.before, swapped.after) == ("trial", "soaking")
    assert swapped.text == "no comparison: one of the two can be loaded at a time"
    assert swapped.evidence["cpu"]["goldens"] == 1
    assert not Path(f"/proc/{first}").exists()
    assert updating.answers() == ([3.0, 6.0], 2)


def test_it_is_said_before_anything_is_fetched(tmp_path, fleet, device, updating):
    updating.wait_looked()
    publish(fleet, tmp_path, extra=NEEDS + QUICK)
    status = updating.look(check_only=True)
    assert "so requests wait while they change places" in status.models[0].decision
    assert not list((device.root / "var/lib/edged/store").rglob("model.onnx"))
    lease = up.HoldUpdatesRequest(owner="a test", seconds=600)
    held = updating.call("HoldUpdates", lease, up.HoldUpdatesResponse).lease
    updating.look()
    waits = updating.wait(lambda model: bool(model.deferred))
    assert "a test holds it" in waits.deferred
    assert "so requests wait while they change places" in waits.deferred
    assert "so requests wait while they change places" in waits.swaps
    assert updating.answers()[1] == 1
    updating.call("ReleaseHold", up.ReleaseHoldRequest(lease=held), up.ReleaseHoldResponse)
    updating.wait_idle_at(2)
    assert not updating.model().swaps


def test_where_memory_holds_both_nothing_waits(tmp_path, fleet, updating):
    publish(fleet, tmp_path, extra=QUICK.replace("20", "0"))
    updating.look()
    updating.wait_idle_at(2)
    assert "swaps" not in steps(updating)


def test_where_memory_would_not_even_hold_one_it_waits_and_nothing_is_ended(tmp_path, fleet, device, updating):
    publish(
        fleet, tmp_path, extra=f"requires = {{ memory_mib = {NEED_MIB * 2} }}\ncaps = {{ memory_mib = 9999 }}\n" + QUICK
    )
    first = worker_pids(device)[1]
    updating.look()
    waits = updating.wait(lambda model: bool(model.deferred))
    assert waits.phase == "trial"
    assert "revision 2 cannot be tried" in waits.deferred
    assert worker_pids(device) == {1: first}
    assert not updating.last_reason()


def test_one_that_fails_its_goldens_is_never_asked_and_the_old_one_is_back(tmp_path, fleet, device, updating):
    publish(fleet, tmp_path, factor=3.0, golden_factor=3.5, extra=NEEDS + QUICK)
    with traffic(device, 1.0, 2.0) as callers:
        updating.look()
        updating.wait(lambda model: model.phase == "idle" and updating.last_reason() != "")
        for each in callers:
            count = len(each.found)
            until(
                lambda each=each, count=count: each.failed or len(each.found) >= count + 3,
                "three more are answered, or one fails",
                log=device.log,
            )
    assert not [each.failed for each in callers if each.failed]
    assert {revision for each in callers for revision in each.found} == {1}
    assert updating.last_reason() == "golden_mismatch"
    assert "swaps" in steps(updating)
    assert updating.answers() == ([2.0, 4.0], 1)
    assert "quarantined" in updating.look().models[0].decision


def test_going_back_from_a_soak_loads_the_one_before_and_nobody_is_refused(tmp_path, fleet, device, updating):
    publish(fleet, tmp_path, factor=3.0, extra=NEEDS + LONG)
    updating.look()
    soaks = updating.wait(lambda model: model.phase == "soaking")
    assert "so requests wait while they change places" in soaks.swaps
    assert list(worker_pids(device)) == [2]
    with pytest.raises(grpc.RpcError) as raised:
        device.infer(scale(1.0, 2.0, version="1"))
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    with traffic(device, 1.0, 2.0, callers=2) as callers:
        updating.call("RollBack", up.RollBackRequest(model=MODEL), up.RollBackResponse)
        updating.wait_idle_at(1)
        device.wait_for(lambda status: [each.revision for each in status.workers] == [1] and status.models[0].ready)
    assert not [each.failed for each in callers if each.failed]
    assert updating.last_reason() == "operator"
    assert updating.answers() == ([2.0, 4.0], 1)
    assert list(worker_pids(device)) == [1]


def test_one_that_errs_once_it_serves_is_gone_back_on(tmp_path, fleet, device, updating):
    publish(fleet, tmp_path, runtime="hostile", does="shape", extra=NEEDS + LONG)
    updating.look()
    updating.wait(lambda model: model.phase == "soaking")
    with traffic(device, 666.0, 1.0, callers=1):  # there is none beside it that could answer instead
        updating.wait_idle_at(1)
    assert updating.last_reason() == "error_rate"
    assert updating.answers() == ([2.0, 4.0], 1)


def kill(device: Daemon) -> None:
    device.process.kill()
    device.process.wait()
    device.stop()
    device.told.clear()
    device.start()


def test_a_power_cut_while_they_change_places_leaves_the_old_one_and_the_update_goes_on(
    tmp_path, fleet, device, updating
):
    publish(fleet, tmp_path, factor=3.0, extra=NEEDS + QUICK)
    updating.look()
    updating.wait(lambda model: (bool(model.swaps) and not model.deferred) or model.serving == 2)
    kill(device)
    assert updating.answers()[1] in (1, 2)
    updating.wait_idle_at(2)
    assert updating.answers() == ([3.0, 6.0], 2)


def test_a_power_cut_during_the_soak_brings_the_new_one_alone_and_the_old_one_can_be_gone_back_to(
    tmp_path, fleet, device, updating
):
    publish(fleet, tmp_path, factor=3.0, extra=NEEDS + LONG)
    updating.look()
    updating.wait(lambda model: model.phase == "soaking")
    kill(device)
    assert updating.answers() == ([3.0, 6.0], 2)
    assert list(worker_pids(device)) == [2]
    updating.call("RollBack", up.RollBackRequest(model=MODEL), up.RollBackResponse)
    assert updating.answers() == ([2.0, 4.0], 1)
