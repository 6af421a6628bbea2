"""The small facts that serving, pressure, updates and workers tell, and telemetry folds into windows."""

from __future__ import annotations

import msgspec

from edged.types import Level


class Executed(msgspec.Struct, frozen=True):
    """One batch of which at least one request was answered, or a part of one that is executed in several."""

    model: str
    revision: int
    variant: str
    rows: int
    queue_s: tuple[float, ...]
    """One for each request that is answered now: from its arrival until it went to the worker, or its first part."""
    compute_s: float
    """How long the worker took over the batch, with a request's last part over all of them: so long each request that
    is answered now took."""
    at_ms: int
    """Wall time in ms since 1970."""


class Unanswered(msgspec.Struct, frozen=True):
    """One request that got an error instead of an answer."""

    model: str
    revision: int
    variant: str
    code: str


class LevelEntered(msgspec.Struct, frozen=True):
    """The device is pressed so hard from now on. `at_s` is monotonic."""

    level: Level
    at_s: float


class Reading(msgspec.Struct, frozen=True):
    """A whole number read from the device. Its name says the unit, and the part after a colon whose it is.

    `temperature_c`, `memory_available_mib`, `storage_free_mib`, `stall_some_permille:memory`.
    """

    name: str
    value: int


class WorkerRestarted(msgspec.Struct, frozen=True):
    """A worker ended unasked and was started again."""

    model: str


class UpdatePhase(msgspec.Struct, frozen=True):
    """Where the update of a model stands from now on."""

    model: str
    revision: int
    phase: str


class OutputCounts(msgspec.Struct, frozen=True):
    """How many results fell into each bin of the distribution that a bundle asks for; no result itself.

    `expected` are the shares of the reference that fall into the same bins.
    """

    model: str
    revision: int
    variant: str
    output: str
    kind: str
    expected: tuple[float, ...]
    counts: tuple[int, ...]
    flagged: int = 0
    """Results that the manifest wants reviewed."""


Fact = Executed | Unanswered | LevelEntered | Reading | WorkerRestarted | UpdatePhase | OutputCounts
