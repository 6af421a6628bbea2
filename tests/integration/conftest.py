"""What the tests of this folder share: a daemon, started once, with a model for every datatype; and a fleet to copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import helper
from support import bundles, long_lived
from support.daemon import DIGITS, Daemon
from support.fleet import Fleet

from edged._pb.inference import grpc_service_pb2 as pb
from edged.types import Datatype

# What many ask at once here is no overload, however slow the machine is just then.
_PATIENT = "[serving]\nqueue_delay_ms = 60000\n"


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with `digits`, `identity-<datatype>` for each datatype, `sums`, and `unbatched`.

    `unbatched` is revision 3 of an FP32 identity of any shape with three axes, without a batch axis.
    It is everybody's: a test leaves it as it was, and one that ends a worker waits until the next is ready.
    """
    folder = tmp_path_factory.mktemp("daemon")
    unbatched = [("x", "FP32", [-1, -1, -1])], [("y", "FP32", [-1, -1, -1])]
    made = [
        DIGITS,
        *(bundles.identity_bundle(folder, datatype) for datatype in Datatype),
        bundles.sums_bundle(folder),
        bundles.make_bundle(
            folder / "unbatched",
            bundles.onnx_model([helper.make_node("Identity", ["x"], ["y"])], *unbatched),
            *unbatched,
            name="unbatched",
            revision=3,
            max_batch_size=0,
        ),
    ]
    with Daemon(folder / "root", made, _PATIENT) as daemon:
        daemon.start()
        long_lived.PROCESSES.add(daemon.pid)
        daemon.wait_for(lambda status: status.ready)  # and with it the admin socket's connection is there for all
        daemon.call("inference.GRPCInferenceService/ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse)
        yield daemon
        long_lived.PROCESSES.discard(daemon.pid)


@pytest.fixture(scope="session")
def new_fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet that has published nothing; its keys and hash bins take seconds to make."""
    folder = tmp_path_factory.mktemp("fleet") / "fleet"
    Fleet(folder)
    return folder


@pytest.fixture
def fleet(tmp_path: Path, new_fleet: Path) -> Fleet:
    """One of the test's own."""
    shutil.copytree(new_fleet, tmp_path / "fleet")
    return Fleet(tmp_path / "fleet")
