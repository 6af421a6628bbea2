"""What serving counts of each model revision, in the terms of Triton's statistics.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md

Only requests of callers count: goldens, shadows, warm-up and heartbeats go to workers by other ways. What says nothing
of the model, because the caller was at fault, gave up or was turned away, never counts as a failure.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edged import clock
from edged.errors import Code
from edged.serving.latency import Recent
from edged.worker.messages import Answered

# These say nothing of the model: the caller was at fault, gave up, or was turned away.
REFUSALS = frozenset(
    {
        Code.MALFORMED_REQUEST,
        Code.INVALID_TENSOR,
        Code.INVALID_ARGUMENT,
        Code.UNSUPPORTED,
        Code.REVISION_NOT_FOUND,
        Code.REVISION_NOT_SERVED,
        Code.REGION_NOT_FOUND,
        Code.REGION_UNUSABLE,
        Code.MODEL_UNAVAILABLE,
        Code.OVERLOADED,
        Code.ANSWER_TOO_LARGE,
        Code.DEADLINE_EXCEEDED,
        Code.CANCELLED,
        Code.SHUTTING_DOWN,
    }
)


class Duration(msgspec.Struct):
    """How often something happened, and for how many nanoseconds in all."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """So often more, each time for so long."""
        self.count += count
        self.ns += ns * count


def _none() -> Duration:
    return Duration()


class BatchSize(msgspec.Struct):
    """Executions of so many rows; each duration counts executions."""

    compute_input: Duration = msgspec.field(default_factory=_none)
    compute_infer: Duration = msgspec.field(default_factory=_none)
    compute_output: Duration = msgspec.field(default_factory=_none)

    def add(self, answered: Answered) -> None:
        """One execution."""
        self.compute_input.add(answered.input_ns)
        self.compute_infer.add(answered.infer_ns)
        self.compute_output.add(answered.output_ns)


class Statistics(msgspec.Struct):
    """Totals since the daemon's start.

    `success` and `fail` last from arrival to answer. `queue`, from arrival to the worker, and the three of computing
    count requests that were answered; each counts the whole of its batch's compute time. `batch_sizes`, by rows, counts
    executions instead: as many entries as the model's largest batch has rows.
    """

    success: Duration = msgspec.field(default_factory=_none)
    fail: Duration = msgspec.field(default_factory=_none)
    queue: Duration = msgspec.field(default_factory=_none)
    compute_input: Duration = msgspec.field(default_factory=_none)
    compute_infer: Duration = msgspec.field(default_factory=_none)
    compute_output: Duration = msgspec.field(default_factory=_none)
    inference_count: int = 0
    """Rows of the requests that were answered, and of the parts of those that are executed in several; a request
    without a batch is one."""
    execution_count: int = 0
    """Batches of which at least one request was answered, or a part of one."""
    batch_sizes: dict[int, BatchSize] = msgspec.field(default_factory=dict)
    refused: dict[Code, int] = msgspec.field(default_factory=dict)
    """What was not answered for no fault of the model's, by code; those below are among them."""
    expired: int = 0
    """Past their deadline before they were executed, and so never executed; or before all their parts were."""
    shed: int = 0
    """Taken in, and turned away for a more important request or by a limit before all of them was executed."""
    last_success_ms: int = 0
    """Wall time in ms since 1970 of the last answer; 0: there was none."""
    last_inference_ms: int = 0
    """Wall time in ms since 1970 of the last execution, whatever came of it; 0: there was none."""
    recent: Recent = msgspec.field(default_factory=Recent)
    """How long answered requests took lately, from arrival to answer."""

    @property
    def cancelled(self) -> int:
        """Requests whose callers gave up."""
        return self.refused.get(Code.CANCELLED, 0)

    @property
    def refusals(self) -> int:
        """Requests that were not answered for no fault of the model's."""
        return sum(self.refused.values())

    def count_execution(
        self, answered: Answered, executed: int, rows: Sequence[int], arrived_ns: Sequence[int], sent_ns: int
    ) -> None:
        """Counts an execution of `executed` rows, done just now.

        `rows` and `arrived_ns` tell of each request that was answered how many it had, and when it came by the
        monotonic clock; where there is none, nothing counts.
        """
        count = len(rows)
        if not count:
            return
        now_ns = clock.monotonic_ns()
        self._count_batch(answered, executed, sum(rows))
        arrived = sum(arrived_ns)
        self.success.count += count
        self.success.ns += count * now_ns - arrived
        self.queue.count += count
        self.queue.ns += count * sent_ns - arrived
        self.compute_input.add(answered.input_ns, count)
        self.compute_infer.add(answered.infer_ns, count)
        self.compute_output.add(answered.output_ns, count)
        for each in arrived_ns:
            self.recent.add(now_ns - each, now_ns)

    def count_part(self, answered: Answered, rows: int) -> None:
        """Counts the execution, done just now, of a part of a request."""
        self._count_batch(answered, rows, rows)

    def count_divided(self, spent_ns: tuple[int, int, int], arrived_ns: int, sent_ns: int) -> None:
        """Counts a request whose last part was answered just now; all of them together took `spent_ns`.

        `sent_ns`: when the first went to the worker.
        """
        now_ns = clock.monotonic_ns()
        self.success.add(now_ns - arrived_ns)
        self.queue.add(sent_ns - arrived_ns)
        for duration, ns in zip((self.compute_input, self.compute_infer, self.compute_output), spent_ns, strict=True):
            duration.add(ns)
        self.recent.add(now_ns - arrived_ns, now_ns)

    def _count_batch(self, answered: Answered, executed: int, rows: int) -> None:
        self.last_inference_ms = self.last_success_ms = clock.wall_ms()
        self.inference_count += rows
        self.execution_count += 1
        size = self.batch_sizes.get(executed)
        if size is None:
            size = self.batch_sizes[executed] = BatchSize()
        size.add(answered)

    def count_error(self, code: Code, took_ns: int) -> None:
        """Counts a request that was not answered."""
        if code in REFUSALS:
            self.refused[code] = self.refused.get(code, 0) + 1
        else:
            self.fail.add(took_ns)


def is_outcome(code: Code) -> bool:
    """Whether an error says something of the revision that was asked; that it cannot answer at all does."""
    return code not in REFUSALS or code is Code.MODEL_UNAVAILABLE


def may_be_its_own(code: Code) -> bool:
    """Whether another revision may answer where one gave this error: an engine too refuses what only its model cannot.

    Where the other one answers, the request was good, and the error says something of the revision after all.
    """
    return is_outcome(code) or code in (Code.INVALID_TENSOR, Code.UNSUPPORTED, Code.ANSWER_TOO_LARGE)
