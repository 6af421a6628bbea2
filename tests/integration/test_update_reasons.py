"""Each reason why an update comes to nothing, reached by a real bundle or repository; the device is well after it.

One device has them all, one after the other: what one leaves behind would show in the next.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import onnx
import pytest
from support import long_lived
from support.daemon import Daemon
from support.fleet import Fleet
from support.fleets import overwrite
from support.interpreter import hostile_interpreter
from support.polling import until
from support.updating import MODEL, QUICK, Updating, picky_model, scale, scale_bundle

from edged import clock
from edged._pb.edged.v1 import update_pb2 as up
from edged.update.machine import REASONS
from edged.update.reasons import Reason

SOAK = "[acceptance]\nshadow = { samples = 0 }\nsoak = { min_requests = 50, max_s = 60 }\n"
SHADOW = "[acceptance]\nshadow = { samples = 20, agreement = 0.9 }\nsoak = { min_requests = 0, max_s = 0.2 }\n"
SETTINGS = "quota_mib = 1\nshadow_max_s = 20\n[workers]\nload_s = 5\nfirst_inference_s = 2\ninference_s = 2\n"


def large_model() -> bytes:
    """One that needs more than the store may take."""
    model = onnx.load_from_string(picky_model(most=1e9))
    model.doc_string = random.Random(1).randbytes(2**20).hex()
    return model.SerializeToString()


# Revisions by what is wrong with them: what `scale_bundle` is told.
BUNDLES: dict[Reason, dict] = {
    Reason.INCOMPATIBLE_HARDWARE: {"extra": 'requires = { accelerator = "edgetpu" }\n' + QUICK},
    Reason.INCOMPATIBLE_RUNTIME: {"extra": 'requires = { runtime = ">=99" }\n' + QUICK},
    Reason.INCOMPATIBLE_SIGNATURE: {"columns": 3},
    Reason.LOAD_FAILED: {"model": b"\xff" * 100},
    Reason.GOLDEN_MISMATCH: {"golden_factor": 3.5},
    Reason.LATENCY_BUDGET: {"extra": QUICK + "budgets = { p99_ms = 0.0001 }\n"},
    Reason.MEMORY_BUDGET: {"extra": QUICK + "budgets = { memory_mib = 1 }\n"},
    Reason.SHADOW_DISAGREEMENT: {"factor": -2.0, "extra": SHADOW},
    Reason.ERROR_RATE: {"runtime": "hostile", "does": "shape", "extra": SOAK},
    Reason.CRASH_LOOP: {"runtime": "hostile", "does": "segfault", "extra": SOAK},
    Reason.WORKER_HANG: {"runtime": "hostile", "does": "hang", "extra": SOAK},
    Reason.OPERATOR: {"extra": SOAK},
    Reason.SIGNATURE_INVALID: {},
    Reason.METADATA_EXPIRED: {},
    Reason.ROLLBACK_ATTACK: {},
    Reason.DOWNLOAD_FAILED: {"factor": 7.0},  # what others have too is not fetched
    Reason.DIGEST_MISMATCH: {},
    Reason.STORAGE_FULL: {"model": large_model()},
}
REVISIONS = {reason: number for number, reason in enumerate(BUNDLES, 2)}
SLOW_TO_LOAD = max(REVISIONS.values()) + 1


ONCE_IT_SERVES = (Reason.ERROR_RATE, Reason.CRASH_LOOP, Reason.WORKER_HANG, Reason.OPERATOR)
BY_THE_REPOSITORY = (
    Reason.SIGNATURE_INVALID,
    Reason.METADATA_EXPIRED,
    Reason.ROLLBACK_ATTACK,
    Reason.DOWNLOAD_FAILED,
    Reason.DIGEST_MISMATCH,
    Reason.STORAGE_FULL,
)


def test_each_reason_has_a_case():
    assert set(BUNDLES) == set(Reason) == {reason for reasons in REASONS.values() for reason in reasons}


class Setting:
    """A device with revision 1, and a fleet whose every other revision is wrong in a way of its own."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Fleet(folder / "fleet")
        self.metadata = self.fleet.home.metadata
        self.earlier = folder / "earlier"
        shutil.copytree(self.metadata, self.earlier)
        bundles = [scale_bundle(folder / "bundles", REVISIONS[reason], **made) for reason, made in BUNDLES.items()]
        bundles.append(scale_bundle(folder / "bundles", SLOW_TO_LOAD, extra=QUICK + "budgets = { load_s = 0.0001 }\n"))
        self.fleet.publish(*bundles)
        self.fleet.lie(MODEL, REVISIONS[Reason.DIGEST_MISMATCH], "model.onnx")
        root, first = folder / "root", scale_bundle(folder / "factory", 1)
        settings = self.fleet.trusted_by(root) + SETTINGS
        python = hostile_interpreter(folder / "python", "impatient_site")
        self.daemon = Daemon(root, [first], settings, python)
        self.updating = Updating(self.daemon)

    @contextlib.contextmanager
    def changed_repository(self) -> Iterator[None]:
        """The repository is as before when the block ends."""
        kept = self.earlier.with_name("kept")
        shutil.copytree(self.fleet.repository, kept)
        try:
            yield
        finally:
            shutil.rmtree(self.fleet.repository)
            kept.rename(self.fleet.repository)

    def pin(self, revision: int) -> None:
        self.updating.call("Pin", up.PinRequest(model=MODEL, revision=revision), up.PinResponse)

    def unpin(self) -> None:
        self.updating.call("Unpin", up.UnpinRequest(model=MODEL), up.UnpinResponse)

    def fails(self, revision: int, meanwhile: Callable[[], None] = lambda: None) -> up.Transition:
        """Tries a revision, does something meanwhile, and gives how it ended."""
        known = max((step.sequence for step in self.updating.history()), default=0)
        self.pin(revision)

        def stands() -> tuple[list[up.Transition], str]:
            meanwhile()
            ended = [step for step in self.updating.history() if step.sequence > known and step.reason]
            return ended, self.updating.model().phase

        ended, _ = until(
            stands, "it came to an end", holds=lambda found: found[0] and found[1] == "idle", log=self.daemon.log
        )
        return ended[-1]

    def ends_with(self, reason: Reason, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Tries the revision made for a reason, and looks at the device after it."""
        step = self.fails(REVISIONS[reason], meanwhile)
        assert (step.reason, step.revision) == (reason, REVISIONS[reason]), step
        self.unpin()
        self.is_well()

    def ask(self) -> None:
        """What makes the hostile engine misbehave, and what does not."""
        for value in (666.0, 1.0):
            with contextlib.suppress(grpc.RpcError):
                self.daemon.infer(scale(value, 1.0))

    def is_well(self) -> None:
        """Revision 1 serves, and nothing is amiss."""
        assert self.updating.answers() == ([2.0, 4.0], 1)
        status = self.daemon.status()
        assert status.ready
        assert not status.degraded_reasons, status.degraded_reasons


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory) -> Iterator[Setting]:
    """Everything in one; its channels are there before the first test."""
    made = Setting(tmp_path_factory.mktemp("r"))
    with made.daemon:
        made.daemon.start()
        long_lived.PROCESSES.add(made.daemon.pid)
        made.updating.look()
        made.is_well()
        yield made
        long_lived.PROCESSES.discard(made.daemon.pid)


def test_by_the_bundle_alone(shared_daemon):
    at_once = [reason for reason in BUNDLES if reason not in (*ONCE_IT_SERVES, *BY_THE_REPOSITORY)]
    for reason in at_once:
        shared_daemon.ends_with(reason, shared_daemon.ask)


def test_one_that_loads_too_slowly_for_its_own_budget(shared_daemon):
    ended = shared_daemon.fails(SLOW_TO_LOAD)
    assert ended.reason == Reason.LATENCY_BUDGET
    assert "loads in" in ended.text
    shared_daemon.is_well()


@pytest.mark.parametrize("reason", ONCE_IT_SERVES)
def test_once_it_serves(shared_daemon, reason):
    def go_back() -> None:
        if shared_daemon.updating.model().phase == "soaking":
            shared_daemon.updating.call("RollBack", up.RollBackRequest(model=MODEL), up.RollBackResponse)

    shared_daemon.ends_with(reason, go_back if reason is Reason.OPERATOR else shared_daemon.ask)


class TestByTheRepository:
    def test_signature_invalid(self, shared_daemon):
        with shared_daemon.changed_repository():
            path = shared_daemon.metadata / "timestamp.json"
            document = json.loads(path.read_bytes())
            signature = document["signatures"][0]["sig"]
            document["signatures"][0]["sig"] = ("0" if signature[0] != "0" else "1") + signature[1:]
            overwrite(path, json.dumps(document).encode())
            shared_daemon.ends_with(Reason.SIGNATURE_INVALID)

    def test_rollback_attack(self, shared_daemon):
        with shared_daemon.changed_repository():
            overwrite(
                shared_daemon.metadata / "timestamp.json", (shared_daemon.earlier / "timestamp.json").read_bytes()
            )
            shared_daemon.ends_with(Reason.ROLLBACK_ATTACK)

    def test_metadata_expired(self, shared_daemon):
        shared_daemon.fleet.renew(clock.wall() - timedelta(days=60))
        shared_daemon.ends_with(Reason.METADATA_EXPIRED)
        shared_daemon.fleet.renew(clock.wall())
        shared_daemon.updating.look()

    def test_download_failed(self, shared_daemon):
        with shared_daemon.changed_repository():
            shutil.rmtree(shared_daemon.fleet.repository / "chunks")
            shared_daemon.ends_with(Reason.DOWNLOAD_FAILED)

    def test_digest_mismatch(self, shared_daemon):
        """Each chunk is what its digest says, and the file that they make is not."""
        shared_daemon.ends_with(Reason.DIGEST_MISMATCH)

    def test_storage_full(self, shared_daemon):
        shared_daemon.ends_with(Reason.STORAGE_FULL)
