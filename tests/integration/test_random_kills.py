"""kill -9 of the daemon and of what it has started, at any instant of updates, good and bad: what serves is whole."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from support.daemon import PATIENCE_S, Daemon
from support.fleet import Fleet
from support.interpreter import hostile_interpreter
from support.updating import MODEL, Updating, scale, scale_bundle

from edged._pb.edged.v1 import update_pb2 as up
from edged._pb.inference import grpc_service_pb2 as pb

SOAK = "[acceptance]\nshadow = { samples = 0 }\nsoak = { min_requests = 20, max_s = 60 }\n"
FACTORS = {1: 2.0, 2: 3.0, 4: 2.0}
WRONG, ERRING = 3, 4

# An update of these models takes about a second here, and so does a start.
LONGEST_S = 1.5


CALM, TRIGGERING = (1.0, 2.0), (666.0, 1.0)


def right(revision: int, values: Sequence[float]) -> bytes:
    """What a revision answers; one that may never answer, nothing."""
    return np.multiply(values, FACTORS[revision], dtype=np.float32).tobytes() if revision in FACTORS else b""


class Ordeal:
    """A device whose updates are cut off again and again. `chance` decides on everything."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.chance = chance
        self.seen: Counter[str] = Counter()
        fleet = Fleet(folder / "fleet")
        bundles = folder / "bundles"
        fleet.publish(
            scale_bundle(bundles, 2, factor=FACTORS[2]),
            scale_bundle(bundles, WRONG, factor=5.0, golden_factor=6.0),
            scale_bundle(bundles, ERRING, runtime="hostile", does="shape", extra=SOAK),
        )
        fleet.plan(MODEL, 2)
        root, first = folder / "root", scale_bundle(folder / "factory", 1, factor=FACTORS[1])
        self.daemon = Daemon(root, [first], fleet.trusted_by(root), hostile_interpreter(folder / "python"))
        self.updating = Updating(self.daemon)

    def once(self) -> None:
        """One update, cut off somewhere, and what is there then."""
        move = self.chance.choice([self.go_there_and_back, self.take_the_wrong_one, self.take_the_erring_one])
        with self.asking() as asked:
            with contextlib.suppress(grpc.RpcError):  # a pin may be too much for what is under way
                move()
            self.wait()
            phase = self.updating.model().phase
            self.kill()
        assert None not in asked, "a request was answered wrongly"
        self.seen[f"{move.__name__} {phase}"] += 1
        if self.chance.random() < 0.3:
            self.daemon.start(wait=False)
            self.wait()
            self.kill()
            self.seen["starting"] += 1
        self.daemon.start()
        self.look()

    def go_there_and_back(self) -> None:
        """To the good revision that does not serve, forward or back."""
        self.pin(1 if self.updating.model().serving == 2 else 2)

    def take_the_wrong_one(self) -> None:
        """To the one that fails its golden."""
        self.pin(WRONG)

    def take_the_erring_one(self) -> None:
        """To the one that errs once it serves."""
        self.pin(ERRING)

    def pin(self, revision: int) -> None:
        """What failed before may be tried again."""
        with contextlib.suppress(grpc.RpcError):
            request = up.ReleaseQuarantineRequest(name=MODEL)
            self.updating.call("ReleaseQuarantine", request, up.ReleaseQuarantineResponse)
        self.updating.call("Pin", up.PinRequest(model=MODEL, revision=revision), up.PinResponse)

    def wait(self) -> None:
        """Until any instant."""
        threading.Event().wait(self.chance.uniform(0, LONGEST_S))

    def kill(self) -> None:
        """The daemon first, or some of what it has started; the rest must go by itself."""
        family = [psutil.Process(self.daemon.pid)]
        with contextlib.suppress(psutil.Error):
            children = family[0].children(recursive=True)
            family[self.chance.randrange(2) : 0] = self.chance.sample(
                children, self.chance.randrange(len(children) + 1)
            )
        for process in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        self.daemon.wait_end()
        self.daemon.stop()
        self.daemon.told.clear()
        _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
        assert not alive, "they outlived the daemon"

    @contextlib.contextmanager
    def asking(self) -> Iterator[list[int | None]]:
        """Requests until the daemon is gone; gives which revision answered, None where it answered wrongly."""
        found: list[int | None] = []
        stop = threading.Event()
        channel = grpc.insecure_channel(f"unix:{self.daemon.socket}")  # one that goes with this daemon
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )

        def ask() -> None:
            values = TRIGGERING
            while not stop.is_set():
                values = CALM if values is TRIGGERING else TRIGGERING
                try:
                    response = infer(scale(*values), timeout=PATIENCE_S)
                except grpc.RpcError:  # it is gone
                    stop.wait(0.01)
                else:
                    revision, answer = int(response.model_version), response.raw_output_contents[0]
                    found.append(revision if answer == right(revision, values) else None)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield found
        finally:
            stop.set()
            thread.join()
            channel.close()

    def look(self) -> None:
        """One whole revision serves, none that was refused, and the daemon knows why."""
        answer, revision = self.updating.answers()
        assert np.array(answer, np.float32).tobytes() == right(revision, CALM)
        lines = self.updating.call("Explain", up.ExplainRequest(model=MODEL), up.ExplainResponse).lines
        assert any(line.startswith("at the start revision ") for line in lines), lines
        status = self.daemon.status()
        assert status.ready
        assert not status.degraded_reasons, status.degraded_reasons
        if revision == ERRING:
            assert self.updating.model().phase == "soaking"
        store = self.updating.call("GetStore", up.GetStoreRequest(verify=True), up.Store)
        assert not store.damages, store.damages

    def end(self) -> None:
        """Whatever came before, an update still comes to its end."""
        for revision in (1, 2):
            self.pin(revision)
            self.updating.wait_idle_at(revision)
        self.daemon.stop()


@pytest.mark.parametrize("times", [6, pytest.param(1000, marks=pytest.mark.slow)])
def test_any_instant_of_an_update_may_be_the_last(tmp_path, times):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - to run it again
    ordeal = Ordeal(tmp_path, random.Random(seed))
    with ordeal.daemon:
        ordeal.daemon.start()
        for _ in range(times):
            ordeal.once()
        ordeal.end()
    print(dict(ordeal.seen))  # noqa: T201
