"""Measures a camera frame in shared memory beside one that is sent, and beside a request of a kilobyte.

docs/benchmarks.md explains what it prints. It fails when edged does not run or answers wrongly, never because of a
number.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import grpc
import msgspec
from msgspec import structs
from rich.table import Table

from benchmarks import engine, machine, memory, models, processes, report
from benchmarks.ask import once
from benchmarks.load import GrpcClient, Meter
from benchmarks.measure import Sample, Spread, spread
from benchmarks.models import Model
from benchmarks.processes import Cores
from benchmarks.servers import Edged, ServerError, Target
from edged._pb.inference import grpc_service_pb2 as pb
from edged.client import SharedRegion

SMALL, SENT, SHARED = "1 KB, sent", "frame, sent", "frame, shared"
SMALL_ROWS = 16
BUDGET = 1.3


class Contender(msgspec.Struct, frozen=True):
    """One way to ask, and its samples: of the server, and of the engine alone on the same input."""

    name: str
    target: Target
    model: Model
    server: list[Sample]
    engine: list[Sample]

    def measure(self, edged: Edged, generator: GrpcClient, seconds: float, cores: Cores) -> None:
        """One round."""
        meter = Meter(edged.pid)
        self.server.append(meter.sample(generator.run(self.target, 1, seconds, meter)))
        self.engine.append(engine.sample(self.model, seconds / 2, cores))

    @property
    def over_us(self) -> list[float]:
        """What the server took beyond the engine, round by round."""
        return [ours.cpu_us - alone.cpu_us for ours, alone in zip(self.server, self.engine, strict=True)]


def small_request(model: Model, folder: Path) -> Model:
    """The model with a request of SMALL_ROWS rows: a kilobyte of contents."""
    asked = pb.ModelInferRequest.FromString(Path(model.request).read_bytes())
    asked.inputs[0].shape[0] = SMALL_ROWS
    asked.raw_input_contents[0] *= SMALL_ROWS
    request = folder / "small.request"
    request.write_bytes(asked.SerializeToString())
    return structs.replace(model, request=str(request))


def shared_request(model: Model, folder: Path, region: SharedRegion) -> Path:
    """The model's request with its contents in a region."""
    asked = pb.ModelInferRequest.FromString(Path(model.request).read_bytes())
    region.buf[:] = asked.raw_input_contents[0]
    asked.inputs[0].parameters["shared_memory_region"].string_param = region.key
    asked.inputs[0].parameters["shared_memory_byte_size"].int64_param = region.byte_size
    del asked.raw_input_contents[:]
    request = folder / f"{model.name}-shared.request"
    request.write_bytes(asked.SerializeToString())
    return request


def register(target: Target, region: SharedRegion) -> None:
    """Makes the region known. Raises grpc.RpcError."""
    asked = pb.SystemSharedMemoryRegisterRequest(name=region.key, key=region.key, byte_size=region.byte_size)
    with grpc.insecure_channel(target.address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/SystemSharedMemoryRegister")
        call(asked.SerializeToString(), timeout=10)


def measure(folder: Path, rounds: int, seconds: float) -> list[Contender]:
    """All contenders, after so many rounds. Raises ServerError."""
    built = models.build(folder / "models")
    camera, identity = built["camera"], small_request(built["identity"], folder)
    plan = processes.plan(both=False)
    (folder / "edged").mkdir()
    edged = Edged(folder / "edged", [camera, identity])
    generator = GrpcClient(plan.load)
    frame = pb.ModelInferRequest.FromString(Path(camera.request).read_bytes()).raw_input_contents[0]
    with SharedRegion(f"bench-of-regions-{os.getpid()}", len(frame), group=None) as region:
        try:
            edged.start(plan.server)
            sent = edged.target(camera)
            register(sent, region)
            shared = structs.replace(sent, request=str(shared_request(camera, folder, region)))
            if (length := once(shared)) != sent.answer_bytes:
                raise ServerError(f"edged answers with {length} bytes for a shared frame, not {sent.answer_bytes}")
            contenders = [
                Contender(SMALL, edged.target(identity), identity, [], []),
                Contender(SENT, sent, camera, [], []),
                Contender(SHARED, shared, camera, [], []),
            ]
            for _ in range(rounds):
                for each in contenders:
                    each.measure(edged, generator, seconds, plan.server)
        finally:
            edged.end()
    return contenders


def table(contenders: Sequence[Contender]) -> Table:
    """What they took, and beside the small one."""
    shown = Table("request", "CPU µs", "engine alone µs", "the rest µs", "× 1 KB", "/s")
    small = contenders[0].over_us
    for each in contenders:
        over = [ours / theirs for ours, theirs in zip(each.over_us, small, strict=True)]
        columns = (
            spread([sample.cpu_us for sample in each.server]),
            spread([sample.cpu_us for sample in each.engine]),
            spread(each.over_us),
        )
        rate = spread([sample.per_s for sample in each.server])
        shown.add_row(each.name, *(_words(column, 0) for column in columns), _words(spread(over), 2), _words(rate, 0))
    return shown


def _words(found: Spread | None, digits: int) -> str:
    return f"{found.median:.{digits}f} ({found.low:.{digits}f}–{found.high:.{digits}f})" if found else "-"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    memory.add_options(parser)
    chosen = parser.parse_args()
    processes.end_on_sigterm()
    out = report.console()
    here = machine.read()
    report.machine(out, here)
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as folder:
        try:
            found = measure(Path(folder), chosen.rounds or (2 if chosen.quick else 5), 0.5 if chosen.quick else 2.0)
        except (ServerError, grpc.RpcError) as error:
            sys.exit(str(error))
    out.print(table(found))
    out.print(f"The budget: a shared frame at most {BUDGET} × 1 KB, what the engine alone takes left out of both.")
    if chosen.json:
        chosen.json.write_bytes(report.as_json({"machine": here, "regions": found}))


if __name__ == "__main__":
    main()
