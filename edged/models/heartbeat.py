"""A sign of life: an inference on zeros, which nobody's statistics count."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edged import clock
from edged.bundle.manifest import Manifest, Variant
from edged.errors import EdgedError
from edged.models.loading import start_worker
from edged.models.resident import Resident
from edged.types import Datatype, TensorSpec
from edged.worker.messages import Answered, Failed, Form, InputPart
from edged.worker.placing import Parts
from edged.worker.process import Batch, LostError, Worker

# A BYTES element begins with its length, of which none follow here.
_LENGTH_BYTES = 4
_GRACE_S = 2.0


class RefusedError(EdgedError):
    """The worker lives, and answered with an error: of a model that refuses zeros, or of a device that is broken."""


async def beat(worker: Worker, manifest: Manifest) -> float:
    """How many seconds an inference took; what it gave does not matter.

    Every free dimension is 1. Raises RefusedError, or another EdgedError where the worker crashed or hung.
    """
    begun = clock.monotonic()
    refusal = await worker.infer(zeros(manifest), _refusal)
    if refusal is not None:
        raise RefusedError(refusal.known_code, refusal.message, refusal.hint)
    return clock.monotonic() - begun


def _refusal(_: Answered, parts: Sequence[Parts]) -> Failed | None:
    return next((each for each in parts if isinstance(each, Failed)), None)


async def try_out(resident: Resident, variant: Variant) -> float:
    """As `beat`, by a worker of `variant` that is started for it alone; one that does not go counts as lost.

    Raises EdgedError or OSError.
    """
    try:
        worker = await start_worker(resident.source.folder, resident.manifest, variant, resident.terms)
    except LostError as error:
        resident.lost.add(variant, error.worker)
        raise
    try:
        return await beat(worker, resident.manifest)
    finally:
        if (await worker.stop(_GRACE_S)).lost:
            resident.lost.add(variant, worker)


def zeros(manifest: Manifest) -> Batch:
    """The smallest request for all outputs. Pure."""
    members = tuple(InputPart(_shape(spec), _size(spec), Form.RAW) for spec in manifest.inputs)
    return Batch(
        inputs=tuple(spec.name for spec in manifest.inputs),
        outputs=tuple(spec.name for spec in manifest.outputs),
        members=[members],
        contents=[[bytes(_size(spec))] for spec in manifest.inputs],
        expected=(0,) * len(manifest.outputs),
    )


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(1 if size < 0 else size for size in spec.shape)


def _size(spec: TensorSpec) -> int:
    element = _LENGTH_BYTES if spec.datatype is Datatype.BYTES else spec.datatype.size
    return math.prod(_shape(spec)) * element
