"""Asks a running edged for its counters: `python -m benchmarks.programs.counters ADMIN_SOCKET` prints them as JSON."""

from __future__ import annotations

import sys

import grpc
import msgspec

from benchmarks.counters import PATIENCE_S, Counters, State
from edged._pb.edged.v1 import admin_pb2 as pb
from edged._pb.inference import grpc_service_pb2 as inference


def main(admin_socket: str) -> None:
    """Asks, and prints."""
    with grpc.insecure_channel(f"unix:{admin_socket}") as channel:
        ask = channel.unary_unary("/edged.v1.Admin/GetStatus", response_deserializer=pb.Status.FromString)
        status = ask(b"", timeout=PATIENCE_S, wait_for_ready=True)
        method = "/inference.GRPCInferenceService/ModelStatistics"
        ask = channel.unary_unary(method, response_deserializer=inference.ModelStatisticsResponse.FromString)
        statistics = ask(b"", timeout=PATIENCE_S)
    models = {
        model.name: Counters(model.requests_ok, model.requests_failed, model.requests_refused, model.batches)
        for model in status.models
    }
    workers = {worker.model: worker.pid for worker in status.workers if worker.pid}
    batches = {
        model.name: {each.batch_size: each.compute_infer.count for each in model.batch_stats}
        for model in statistics.model_stats
    }
    sys.stdout.buffer.write(msgspec.json.encode(State(models, workers, batches)))


if __name__ == "__main__":
    main(sys.argv[1])
