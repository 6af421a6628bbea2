"""What serving counted, as Triton's `ModelStatistics`."""

from __future__ import annotations

from edged._pb.inference import grpc_service_pb2 as pb
from edged.models.resident import Resident
from edged.serving.statistics import Duration, Statistics


def model_statistics(resident: Resident, counted: Statistics) -> pb.ModelStatistics:
    """One revision's, since the daemon's start; its memory is what its worker takes now."""
    return pb.ModelStatistics(
        name=resident.name,
        version=str(resident.revision),
        last_inference=counted.last_inference_ms,
        inference_count=counted.inference_count,
        execution_count=counted.execution_count,
        inference_stats=pb.InferStatistics(
            success=_duration(counted.success),
            fail=_duration(counted.fail),
            queue=_duration(counted.queue),
            compute_input=_duration(counted.compute_input),
            compute_infer=_duration(counted.compute_infer),
            compute_output=_duration(counted.compute_output),
            cache_hit=pb.StatisticDuration(),
            cache_miss=pb.StatisticDuration(),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=rows,
                compute_input=_duration(size.compute_input),
                compute_infer=_duration(size.compute_infer),
                compute_output=_duration(size.compute_output),
            )
            for rows, size in sorted(counted.batch_sizes.items())
        ],
        memory_usage=_memory(resident),
    )


def _duration(counted: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=counted.count, ns=counted.ns)


def _memory(resident: Resident) -> list[pb.MemoryUsage]:
    if resident.worker is None:
        return []
    return [pb.MemoryUsage(type="CPU", id=0, byte_size=resident.worker.usage().resident_bytes)]
