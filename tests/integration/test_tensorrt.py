"""A daemon whose model runs by TensorRT, on stand-ins for NVIDIA's libraries: built, forked, and begun anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.daemon import Daemon
from support.deriving import BEST, PORTABLE, Callers, answer, cached, runs, twice_bundle
from support.nvidia import COMPILER, VERSION, Nvidia

pytestmark = pytest.mark.skipif(COMPILER is None, reason="gcc is not installed")

ILLEGAL_ADDRESS = 700


@pytest.fixture
def nvidia(tmp_path: Path) -> Nvidia:
    return Nvidia(tmp_path / "nvidia")


@contextmanager
def device(folder: Path, nvidia: Nvidia) -> Iterator[Daemon]:
    """A daemon that has begun; its model is of TensorRT, then of ONNX Runtime."""
    bundle = twice_bundle(folder, runtime="tensorrt")
    with Daemon(folder / "root", [bundle], "[workers]\nrestart_min_s = 0.05\n", nvidia.interpreter) as daemon:
        daemon.start(environment={"LD_LIBRARY_PATH": str(nvidia.libraries)})
        yield daemon


def test_a_plan_is_built_while_another_engine_serves_and_then_forked_workers_run_it(tmp_path: Path, nvidia: Nvidia):
    with device(tmp_path, nvidia) as daemon:
        with Callers(daemon) as callers:
            daemon.wait_for(lambda status: runs(status, BEST))
            callers.until(3)
        assert callers.variants[-1] == BEST
        assert set(callers.variants) <= {PORTABLE, BEST}
        (built,) = daemon.events("variant_built")
        assert built.details["variant"] == BEST
        (changed,) = daemon.events("variant_changed")
        assert "forked, with what was built on this device" in changed.details["made"]
        (file,) = cached(daemon.root)
        about = json.loads(file.read_bytes().partition(b"\n")[0])
        assert about["version"] == VERSION
        assert about["profile"] == {"x": [[1, 2], [8, 2], [8, 2]]}, "the manifest's batch"


def test_a_gpu_that_breaks_under_a_worker_costs_no_request(tmp_path: Path, nvidia: Nvidia):
    nvidia.fail("cuStreamSynchronize", ILLEGAL_ADDRESS, after=3)
    with device(tmp_path, nvidia) as daemon:
        daemon.wait_for(lambda status: runs(status, BEST))
        nvidia.mend()  # for the next worker
        assert [answer(daemon) for _ in range(6)] == [[2.0, 4.0]] * 6
        (ended,) = daemon.events("worker_crashed")
        assert "exit status 1" in ended.message
        daemon.wait_logged("the GPU cannot be used by this process any more: cuStreamSynchronize")


def test_without_a_gpu_the_next_variant_serves_and_says_why(tmp_path: Path, nvidia: Nvidia):
    nvidia.have(devices=0)
    with device(tmp_path, nvidia) as daemon:
        daemon.wait_for(lambda _: bool(daemon.events("build_failed")))
        (failed,) = daemon.events("build_failed")
        assert failed.details["reason"] == "incompatible_hardware"
        assert "CUDA_ERROR_NO_DEVICE (100), no CUDA-capable device is detected" in failed.message
        assert answer(daemon) == [2.0, 4.0]
        assert runs(daemon.status(), PORTABLE)
