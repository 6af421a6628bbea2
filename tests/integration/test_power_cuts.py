"""Power that goes at each step of an update: after the next start one whole, verified revision serves."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
from pathlib import Path

import grpc
import pytest
from support.daemon import PATIENCE_S, Daemon
from support.deriving import BEST, answer, cached, runs, twice_bundle
from support.fleet import Fleet
from support.powercuts import CACHE_WRITERS, WRITERS, Power, check_cut, kind, sampled, writers
from support.updating import Updating, scale_bundle

from edged._pb.edged.v1 import update_pb2 as up

SAMPLE = 4


class Bench:
    """A fleet with revision 2 published, and devices that have revision 1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = Fleet(folder / "fleet")
        self.first = scale_bundle(folder / "factory", 1, factor=2.0)
        self.fleet.publish(scale_bundle(folder / "bundles", 2, factor=3.0))
        self.fleet.plan("scale", 2)
        self._power = Power(folder)
        self.steps = self._update("", folder / "whole")

    def _update(self, cut: str, root: Path) -> list[str]:
        """Updates a new device, its power cut at a step; gives the steps that were made."""
        with Daemon(root, [self.first], self.fleet.trusted_by(root), self._power.interpreter) as daemon:
            daemon.start(wait=not cut, environment=self._power.environment(root, cut))
            if cut:
                daemon.process.wait(PATIENCE_S)
            else:
                Updating(daemon).wait_idle_at(2)
        return self._power.steps(root)

    def cut_at(self, step: str, root: Path) -> None:
        """Cuts the power at a step, starts again, and looks at what serves."""
        self._update(step, root)
        with Daemon(root, settings=self.fleet.trusted_by(root), interpreter=self._power.interpreter) as daemon:
            daemon.start()
            updating = Updating(daemon)
            answer, revision = updating.answers()
            assert (answer, revision) in (([2.0, 4.0], 1), ([3.0, 6.0], 2))
            updating.wait_idle_at(2)
            assert updating.answers() == ([3.0, 6.0], 2)
        shutil.rmtree(root)


class Turns:
    """Devices that refuse a bad revision twice, go back, are pinned and unpinned, and mend what has a flipped bit."""

    def __init__(self, folder: Path) -> None:
        self._fleet = Fleet(folder / "fleet")
        self._first = scale_bundle(folder / "factory", 1, factor=2.0)
        second = scale_bundle(folder / "bundles", 2, factor=3.0)
        self._fleet.publish(second, scale_bundle(folder / "bundles", 3, factor=4.0, golden_factor=5.0))
        self._fleet.plan("scale", 2)
        digest = hashlib.sha256((second / "model.onnx").read_bytes()).hexdigest()
        self._blob = Path("var/lib/edged/store/blobs", digest[:2], digest)
        self._power = Power(folder)
        self._ready = folder / "ready"
        with Daemon(self._ready, [self._first], self._fleet.trusted_by(self._ready)) as daemon:
            Updating(daemon.start()).wait_idle_at(2)
        self._fleet.plan("scale", 3)
        self.steps = self._live("", folder / "whole")

    def _live(self, cut: str, root: Path) -> list[str]:
        subprocess.run(["cp", "-a", self._ready, root], check=True)  # with its hard links
        with Daemon(root, settings=self._fleet.trusted_by(root), interpreter=self._power.interpreter) as daemon:
            try:
                self._turn(Updating(daemon.start(environment=self._power.environment(root, cut))), root)
            except (grpc.RpcError, AssertionError):
                if not cut:
                    raise
                daemon.process.wait(PATIENCE_S)  # for that it ended
        return self._power.steps(root)

    def _turn(self, updating: Updating, root: Path) -> None:
        for refused in (1, 2):
            updating.wait(lambda _, times=refused: len([each for each in updating.history() if each.reason]) == times)
            updating.call("ReleaseQuarantine", up.ReleaseQuarantineRequest(name="scale"), up.ReleaseQuarantineResponse)
            updating.look()
        updating.call("RollBack", up.RollBackRequest(model="scale", revision=1), up.RollBackResponse)
        updating.wait_idle_at(1)
        updating.call("Pin", up.PinRequest(model="scale", revision=2), up.PinResponse)
        updating.wait_idle_at(2)
        with (root / self._blob).open("r+b") as blob:
            blob.write(b"?")
        updating.call("GetStore", up.GetStoreRequest(repair=True), up.Store)
        updating.call("Unpin", up.UnpinRequest(model="scale"), up.UnpinResponse)

    def cut_at(self, step: str, root: Path) -> bool:
        """Cuts the power at a step, starts again, and looks at what serves, and whether it still can be changed.

        Says whether it came to that step.
        """
        self._live(step, root)
        was_cut = self._power.was_cut(root, step)
        with Daemon(root, settings=self._fleet.trusted_by(root), interpreter=self._power.interpreter) as daemon:
            updating = Updating(daemon.start())
            assert updating.answers() in (([2.0, 4.0], 1), ([3.0, 6.0], 2))
            updating.call("Pin", up.PinRequest(model="scale", revision=2), up.PinResponse)
            updating.wait_idle_at(2)
            assert updating.answers() == ([3.0, 6.0], 2)
            updating.call("GetStore", up.GetStoreRequest(repair=True), up.Store)
            assert not updating.call("GetStore", up.GetStoreRequest(verify=True), up.Store).damages
        shutil.rmtree(root)
        return was_cut


class Builder:
    """Devices that build a variant. A new one has nothing yet; one that has been cut may have left something."""

    def __init__(self, folder: Path) -> None:
        self._bundle = twice_bundle(folder, building={})
        self._power = Power(folder, "var/cache/edged")
        self.steps = self._build("", folder / "whole")

    def _build(self, cut: str, root: Path) -> list[str]:
        with Daemon(root, [self._bundle], "", self._power.interpreter) as daemon:
            daemon.start(wait=not cut, environment=self._power.environment(root, cut))
            if cut:
                daemon.process.wait(PATIENCE_S)
            else:
                daemon.wait_for(lambda status: runs(status, BEST))
        # Commits are steps wherever their database lies: those of the journal and the spool are cut elsewhere.
        return [step for step in self._power.steps(root) if "commit" not in step]

    def cut_at(self, step: str, root: Path) -> None:
        """Cuts the power at a step, and starts again."""
        self._build(step, root)
        with Daemon(root, [], "", self._power.interpreter) as daemon:
            daemon.start()
            assert answer(daemon) == [2.0, 4.0]
            daemon.wait_for(lambda status: runs(status, BEST))
            assert answer(daemon) == [2.0, 4.0]
            assert len(cached(root)) == 1, "nothing unfinished is left"
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def builder(tmp_path_factory) -> Builder:
    return Builder(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("power"))


@pytest.fixture(scope="module")
def turns(tmp_path_factory) -> Turns:
    return Turns(tmp_path_factory.mktemp("turns"))


def test_the_state_is_changed_by_whom_we_know(bench, turns):
    assert writers([*bench.steps, *turns.steps]) <= WRITERS


def test_the_cache_is_changed_by_whom_we_know(builder):
    assert writers(builder.steps) <= CACHE_WRITERS


def test_the_power_goes_at_some_steps_of_a_build(builder, tmp_path):
    step = random.SystemRandom().choice(builder.steps)
    print(step)  # noqa: T201
    builder.cut_at(step, tmp_path / "root")


@pytest.mark.slow
def test_the_power_goes_at_every_step_of_a_build(builder, tmp_path):
    for number, step in enumerate(builder.steps):
        print(step)  # noqa: T201
        builder.cut_at(step, tmp_path / str(number))


def test_the_power_goes_at_some_steps(bench, tmp_path):
    for number, step in enumerate(sampled(bench.steps, SAMPLE)):
        print(step)  # noqa: T201
        bench.cut_at(step, tmp_path / str(number))


@pytest.mark.slow
def test_the_power_goes_at_every_step(bench, tmp_path):
    first = {kind(step): step for step in reversed(bench.steps)}
    for number, step in enumerate(first.values()):
        print(step)  # noqa: T201
        bench.cut_at(step, tmp_path / str(number))


def test_the_power_goes_at_some_steps_of_ways_back_and_repairs(turns, tmp_path):
    for number, step in enumerate(sampled(turns.steps, SAMPLE // 2)):
        print(step)  # noqa: T201
        turns.cut_at(step, tmp_path / str(number))


@pytest.mark.slow
def test_the_power_goes_at_every_step_of_ways_back_and_repairs(turns, tmp_path):
    cut = []
    for number, step in enumerate(turns.steps):
        print(step)  # noqa: T201
        cut.append(turns.cut_at(step, tmp_path / str(number)))
    check_cut(cut)
