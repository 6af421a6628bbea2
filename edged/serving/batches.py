"""Requests as one batch for a worker, and a worker's answer as theirs. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edged.bundle.manifest import Manifest
from edged.serving.waiting import Pending
from edged.types import TensorSpec
from edged.worker.messages import InputPart
from edged.worker.process import Batch


def join(manifest: Manifest, members: Sequence[Pending]) -> Batch:
    """The members' tensors, input by input. They are of one key."""
    admitted = members[0].admitted
    specs = {spec.name: spec for spec in manifest.outputs}
    sharing = [pending.shared for pending in members if pending.shared is not None]
    return Batch(
        inputs=admitted.inputs,
        outputs=admitted.outputs,
        members=[_described(pending) for pending in members],
        contents=[
            [part for pending in members for part in pending.contents[position].parts]
            for position in range(len(admitted.inputs))
        ],
        expected=tuple(
            0
            if admitted.classes[position]
            else _expected_bytes(specs[name], _carried_rows(members, position), manifest)
            for position, name in enumerate(admitted.outputs)
        ),
        classes=admitted.classes if any(admitted.classes) else (),
        targets=tuple(pending.shared.targets if pending.shared else () for pending in members) if sharing else (),
        regions=tuple(dict.fromkeys(region for shared in sharing for region in shared.regions)),
        unwatched=tuple([place for place, pending in enumerate(members) if pending.synthetic]),
    )


def _described(pending: Pending) -> tuple[InputPart, ...]:
    plain = zip(pending.admitted.shapes, pending.contents, strict=True)
    if pending.shared is None:
        return tuple(InputPart(shape, content.size, content.form) for shape, content in plain)
    return tuple(
        InputPart(shape, content.size, content.form, *(spot.where if spot else ()))
        for (shape, content), spot in zip(plain, pending.shared.inputs, strict=True)
    )


def _carried_rows(members: Sequence[Pending], output: int) -> int:
    """The rows of those who want this output in their answer."""
    return sum(
        pending.admitted.rows for pending in members if pending.shared is None or pending.shared.outputs[output] is None
    )


def _expected_bytes(spec: TensorSpec, rows: int, manifest: Manifest) -> int:
    """What an output of `rows` rows takes; 0 where its declaration leaves that open."""
    shape = (rows, *spec.shape[1:]) if manifest.max_batch_size else spec.shape
    return 0 if -1 in shape else math.prod(shape) * spec.datatype.size
