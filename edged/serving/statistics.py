"""What serving counts of each model revision."""

from __future__ import annotations

from datetime import datetime

import msgspec

from edged.errors import Code

# These say nothing of the model: the caller was at fault, gave up, or was turned away.
REFUSALS = frozenset(
    {
        Code.MALFORMED_REQUEST,
        Code.INVALID_TENSOR,
        Code.INVALID_ARGUMENT,
        Code.UNSUPPORTED,
        Code.REVISION_NOT_FOUND,
        Code.REVISION_NOT_SERVED,
        Code.MODEL_UNAVAILABLE,
        Code.OVERLOADED,
        Code.ANSWER_TOO_LARGE,
        Code.DEADLINE_EXCEEDED,
        Code.CANCELLED,
        Code.SHUTTING_DOWN,
    }
)


class Statistics(msgspec.Struct):
    """Totals since the daemon's start. `rows` counts inferences, `batches` executions."""

    ok: int = 0
    failed: int = 0
    refused: int = 0
    rows: int = 0
    batches: int = 0
    last_success: datetime | None = None

    def count_error(self, code: Code) -> None:
        """Counts a request that was not answered."""
        if code in REFUSALS:
            self.refused += 1
        else:
            self.failed += 1


def is_outcome(code: Code) -> bool:
    """Whether an error says something of the revision that was asked; that it cannot answer at all does."""
    return code not in REFUSALS or code is Code.MODEL_UNAVAILABLE
