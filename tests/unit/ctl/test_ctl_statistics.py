"""Statistics as tables."""

from __future__ import annotations

from edged._pb.inference import grpc_service_pb2 as pb
from edged.ctl import statistics
from edged.ctl.output import Table

MS = 1_000_000


def rows(table: Table) -> list[dict[str, str]]:
    return [dict(zip([column.title for column in table.columns], row, strict=True)) for row in table.rows]


def duration(count: int, ns: int) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=count, ns=ns)


def test_means_are_per_answered_request():
    found = pb.ModelStatistics(
        name="digits",
        version="7",
        inference_count=96,
        execution_count=3,
        inference_stats=pb.InferStatistics(
            success=duration(4, 8 * MS),
            fail=duration(1, MS),
            queue=duration(4, 2 * MS),
            compute_input=duration(4, MS // 10),
            compute_infer=duration(4, 5 * MS),
            compute_output=duration(4, 0),
        ),
        memory_usage=[pb.MemoryUsage(type="CPU", byte_size=60 * 2**20)],
    )
    [row] = rows(statistics.table([found]))
    assert row == {
        "MODEL": "digits",
        "REV": "7",
        "ROWS": "96",
        "BATCHES": "3",
        "OK": "4",
        "FAILED": "1",
        "TOTAL": "2",
        "WAIT": "0.5",
        "IN": "0.025",
        "RUN": "1.25",
        "OUT": "0",
        "MIB": "60",
    }


def test_what_did_nothing_has_no_means():
    [row] = rows(statistics.table([pb.ModelStatistics(name="digits", version="7")]))
    assert {row[title] for title in ("TOTAL", "WAIT", "IN", "RUN", "OUT", "MIB")} == {"-"}


def test_batches_are_told_by_their_rows():
    found = pb.ModelStatistics(
        version="7",
        batch_stats=[
            pb.InferBatchStatistics(batch_size=size, compute_infer=duration(size, size * MS)) for size in (1, 32)
        ],
    )
    assert [(row["BATCH"], row["BATCHES"], row["RUN"]) for row in rows(statistics.batches(found))] == [
        ("1", "1", "1"),
        ("32", "32", "1"),
    ]
