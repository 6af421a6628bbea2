"""What several siblings share: datatypes, tensors, levels, limits, outcomes, operators. It does nothing."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec


class Datatype(StrEnum):
    """The datatypes of the Open Inference Protocol, by the names it uses on the wire."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    BF16 = "BF16"
    FP32 = "FP32"
    FP64 = "FP64"
    BYTES = "BYTES"

    @property
    def size(self) -> int:
        """Bytes per element in raw form; 0 for BYTES, whose elements carry a 4-byte length each."""
        return _SIZES[self]


_SIZES = {
    Datatype.BOOL: 1,
    Datatype.UINT8: 1,
    Datatype.UINT16: 2,
    Datatype.UINT32: 4,
    Datatype.UINT64: 8,
    Datatype.INT8: 1,
    Datatype.INT16: 2,
    Datatype.INT32: 4,
    Datatype.INT64: 8,
    Datatype.FP16: 2,
    Datatype.BF16: 2,
    Datatype.FP32: 4,
    Datatype.FP64: 8,
    Datatype.BYTES: 0,
}


class Level(StrEnum):
    """How hard the device is pressed; what each level costs a model stands in its manifest."""

    NOMINAL = "nominal"
    ELEVATED = "elevated"
    CRITICAL = "critical"
    EMERGENCY = "emergency"


class Comparison(msgspec.Struct, frozen=True, array_like=True):
    """How one output compares, element by element, with what was expected of it.

    `outside` counts the elements that differ by more than atol + rtol·|expected|; NaN equals NaN and nothing else.
    `worst_abs` is the largest difference. `agreeing_rows` counts the rows (along the last axis) whose largest element
    is the expected one. Where the shapes differ nothing else was compared, and `note` says which came and which was
    expected.
    """

    output: str
    elements: int
    outside: int
    worst_abs: float
    rows: int
    agreeing_rows: int
    shape_matches: bool
    note: str = ""


ModelName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?\Z",
        extra={"allowed": "1 to 64 of a-z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit"},
    ),
]
TensorName = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Dimension = Annotated[int, msgspec.Meta(ge=-1, le=2**31 - 1)]


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One input or output of a model.

    `shape` is whole: where axis 0 is the batch it stands first, as -1. Any -1 is a free dimension.
    `labels` name the classes along the last axis of an output, in order.
    """

    name: TensorName
    datatype: Datatype
    shape: Annotated[tuple[Dimension, ...], msgspec.Meta(max_length=16)]
    labels: Annotated[tuple[str, ...], msgspec.Meta(max_length=100_000)] = ()


class ModelLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one model may take now. Empty or 0: no bound but its own."""

    variant: str = ""
    """The lighter variant to serve with, where the device can run it."""
    max_batch_size: int = 0
    """Rows."""
    max_rate: float = 0
    """Requests per second."""
    min_priority: int = 0
    """The lowest priority still served (1 is the highest)."""


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What serving, residency and background work may take now; the governor says it, they carry it out."""

    level: Level = Level.NOMINAL
    duty: float = 1.0
    """The share of time in which inferences may run. Priority 1 may run ahead of it by 2 s; the others pay it back."""
    max_concurrency: int = 0
    """Batches of all models that may be computed at the same time; 0: any number."""
    background_paused: bool = False
    """No fetching, trials, shadowing or soaks."""
    save_space: bool = False
    """The state folder's disk is nearly full: the store collects, telemetry coarsens, nothing is fetched."""
    journal_only: bool = False
    """What is left of it is the journal's: nothing else is written there."""
    unload_idle: bool = False
    """Models that nobody asks are unloaded, to be loaded again on demand."""
    models: dict[str, ModelLimits] = {}
    default: ModelLimits = ModelLimits()
    """Holds for models that are not named."""

    def of(self, model: str) -> ModelLimits:
        """What holds for `model`."""
        return self.models.get(model, self.default)


class Outcome(msgspec.Struct, frozen=True):
    """What became of one request that reached a model; refusals are none. Serving emits it, the update judges it."""

    model: str
    revision: int
    ok: bool
    code: str
    """The error's stable word; empty when it was answered."""
    took_s: float


class UpdateStanding(msgspec.Struct, frozen=True):
    """Where the update of one model stands."""

    model: str
    phase: str
    revision: int
    """That is under way, else that serves; 0: none."""
    previous_revision: int = 0
    """That served before, and can be gone back to; 0: none."""
    why: str = ""
    """Why nothing goes on now, where it does not."""


class Sample(msgspec.Struct, frozen=True):
    """A live request with its live answer, copied for a revision on trial.

    `shapes[i]`, `forms[i]` and `contents[i]` are those of input `inputs[i]`; `expected[o]` is the raw answer of output
    `outputs[o]`, of shape `expected_shapes[o]`.
    """

    inputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    forms: tuple[int, ...]
    contents: tuple[bytes, ...]
    outputs: tuple[str, ...]
    expected_shapes: tuple[tuple[int, ...], ...]
    expected: tuple[bytes, ...]


class Operator(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Somebody who may command devices, as the signed `operators.json` names them."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?\Z")]
    key: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """The 32 bytes of an ed25519 public key, in hex."""
    may: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)]
    """The commands."""
    hardware_classes: Annotated[tuple[str, ...], msgspec.Meta(max_length=256)] = ()
    """The classes whose devices; none named: all."""


class Operators(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The signed target `operators.json`."""

    fleet: str
    operators: Annotated[tuple[Operator, ...], msgspec.Meta(max_length=1000)] = ()
