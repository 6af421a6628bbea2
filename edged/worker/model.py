"""One loaded variant: runs batches and goldens on it. Child's end only."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edged.errors import Code, EdgedError
from edged.runtimes.base import Session, load_deriving, load_runtime, signature_problems
from edged.types import Datatype, TensorSpec
from edged.worker import batch, carried, codec, compare, observe
from edged.worker.arena import Window
from edged.worker.classes import classify
from edged.worker.messages import (
    Answered,
    Compared,
    Derived,
    Failed,
    Form,
    Infer,
    Load,
    Loaded,
    MemberAnswer,
    OutputPart,
    RunGolden,
    RunShadow,
    Source,
    Target,
    WarmupRun,
    too_large,
)
from edged.worker.regions import Mappings
from edged.worker.samples import read_arrays, read_file, read_golden
from edged.worker.whole import encode_whole

Contents = memoryview | bytes

# Engines look at elements of these once and then trust them, as indices or as truth values; so they are copied out of
# memory that another process may change meanwhile. All else is only computed with.
_TRUSTED_ONCE_SEEN = (Datatype.BOOL, Datatype.INT32, Datatype.INT64)

# Why what was built cannot be loaded, though nothing is wrong with it.
_OF_THE_DEVICE = (Code.INCOMPATIBLE_HARDWARE, Code.INCOMPATIBLE_RUNTIME, Code.MEMORY_SHORT, Code.DEVICE_UNAVAILABLE)


class Model:
    """One loaded variant."""

    def __init__(self, load: Load) -> None:
        """Raises EdgedError with the reason when the model cannot be served as its manifest says."""
        started = time.monotonic()
        self._folder = Path(load.source.folder)
        self._inputs = {spec.name: spec for spec in load.inputs}
        self._outputs = {spec.name: spec for spec in load.outputs}
        self._max_batch_size = load.max_batch_size
        self._batched = load.max_batch_size > 0
        self._row_bytes = {spec.name: batch.row_bytes(spec) for spec in load.outputs}
        self._max_answer_bytes = load.max_answer_bytes
        self._session = _open(load.source, load.derived)
        self._observer = observe.Observer(load.watched, batched=self._batched)
        problems = signature_problems(load.inputs, self._session.inputs, "input", all_wanted=True)
        problems += signature_problems(load.outputs, self._session.outputs, "output", all_wanted=False)
        if problems:
            raise EdgedError(
                Code.INCOMPATIBLE_SIGNATURE,
                f"{load.source.file.path} is not what the manifest says: {'; '.join(problems)}",
            )
        warm = time.monotonic()
        for run in load.warmup:
            self._warm_up(run)
        self.loaded = Loaded(load_s=warm - started, warmup_s=time.monotonic() - warm)

    def _warm_up(self, run: WarmupRun) -> None:
        arrays = read_arrays(self._folder, run.file, {name: (name, spec) for name, spec in self._inputs.items()})
        try:
            for _ in range(run.count):
                self._answers(arrays, list(self._outputs))
        except EdgedError as error:
            raise EdgedError(Code.LOAD_FAILED, f"warm-up {run.file.path} fails: {error.message}", error.hint) from error

    def infer(
        self, asked: Infer, body: memoryview, arena: Window, regions: Mappings
    ) -> tuple[Answered, list[Contents]]:
        """Runs a batch. A member that cannot be answered has its own error; the others are answered."""
        began = time.monotonic_ns()
        contents = carried.contents(asked, body, arena)
        everybody = range(len(asked.members))
        answers: list[list[NDArray[Any]] | EdgedError] = []
        whole: list[NDArray[Any]] = []
        rows = [member[0].shape[0] for member in asked.members] if self._batched else []
        try:
            decoded = self._decode(asked, everybody, contents, regions)
            ready = time.monotonic_ns()
            if sum(rows) and self._fits_whole(asked, max(rows)):
                whole = self._run_whole(asked, decoded, sum(rows))
            else:
                answers = list(self._run(asked, everybody, decoded))
        except EdgedError as error:
            # Whose fault was it? Each is tried alone.
            ready = time.monotonic_ns()
            answers = (
                [self._alone(asked, each, contents, regions) for each in everybody] if len(everybody) > 1 else [error]
            )
        ran = time.monotonic_ns()
        review = self._observer.review(asked, whole, rows, answers) if self._observer else ()
        if whole:
            heads, placed, bodies = encode_whole(asked, whole, rows, arena)
        else:
            if any(asked.classes):
                answers = [self._classified(asked, answer) for answer in answers]
            heads, placed, bodies = self._encode(asked, answers, arena, regions)
        done = time.monotonic_ns()
        counted = self._observer.drain()
        return Answered(heads, placed, ready - began, ran - ready, done - ran, counted, review), bodies

    def _fits_whole(self, asked: Infer, rows: int) -> bool:
        """Whether the answer can be encoded for all at once: raw, and small enough however large a member's share."""
        if asked.targets or asked.classes:
            return False
        row_bytes = 0
        for name in asked.outputs:
            if not (size := self._row_bytes[name]):
                return False
            row_bytes += size
        return not self._max_answer_bytes or rows * row_bytes <= self._max_answer_bytes

    def _run_whole(self, asked: Infer, decoded: Mapping[str, Sequence[NDArray[Any]]], rows: int) -> list[NDArray[Any]]:
        """All members' outputs together, in the order asked for."""
        merged = {name: batch.merge(arrays) for name, arrays in decoded.items()}
        specs = [self._outputs[name] for name in asked.outputs]
        return self._checked(self._session.run(merged, asked.outputs), specs, rows)

    def _alone(
        self, asked: Infer, member: int, contents: Sequence[memoryview], regions: Mappings
    ) -> list[NDArray[Any]] | EdgedError:
        try:
            return self._run(asked, [member], self._decode(asked, [member], contents, regions))[0]
        except EdgedError as error:
            return error

    def _decode(
        self, asked: Infer, members: Sequence[int], contents: Sequence[memoryview], regions: Mappings
    ) -> dict[str, list[NDArray[Any]]]:
        """Each input's arrays: one of all members' rows where their contents can be read as one, else one a member."""
        decoded: dict[str, list[NDArray[Any]]] = {}
        if not members:
            return decoded
        for position, name in enumerate(asked.inputs):
            datatype = self._inputs[name].datatype
            parts = [asked.members[member][position] for member in members]
            at = sum([carried.size(member[position]) for member in asked.members[: members[0]]])
            plain = self._batched and datatype is not Datatype.BYTES
            size = rows = 0
            for part in parts:
                plain = plain and part.form == Form.RAW and not part.region
                size += 0 if part.region else part.size
                rows += part.shape[0] if plain else 0
            data = contents[position][at : at + size]
            if plain:
                shape = (rows, *parts[0].shape[1:])
                decoded[name] = [codec.decode(name, datatype, shape, Form.RAW, data)]
                continue
            arrays = []
            at = 0
            for part in parts:
                if part.region:
                    found = regions.view(part.region, part.offset, part.size)
                    if datatype in _TRUSTED_ONCE_SEEN:
                        found = memoryview(bytes(found))
                else:
                    found = data[at : at + part.size]
                    at += part.size
                arrays.append(codec.decode(name, datatype, part.shape, part.form, found))
            decoded[name] = arrays
        return decoded

    def _run(
        self, asked: Infer, members: Sequence[int], decoded: Mapping[str, Sequence[NDArray[Any]]]
    ) -> list[list[NDArray[Any]]]:
        """Each member's outputs in the order asked for."""
        specs = [self._outputs[name] for name in asked.outputs]
        if not self._batched:
            each = ({name: arrays[index] for name, arrays in decoded.items()} for index in range(len(members)))
            return [self._checked(self._session.run(inputs, asked.outputs), specs, None) for inputs in each]
        rows = [asked.members[member][0].shape[0] for member in members]
        if not sum(rows):  # nothing to compute: engines differ in what they make of an empty batch
            return [[batch.empty_output(spec, codec.DTYPES[spec.datatype]) for spec in specs] for _ in members]
        outputs = self._run_whole(asked, decoded, sum(rows))
        parts = [batch.split(output, rows) for output in outputs]
        return [[part[index] for part in parts] for index in range(len(members))]

    def _checked(
        self, outputs: list[NDArray[Any]], specs: Sequence[TensorSpec], rows: int | None
    ) -> list[NDArray[Any]]:
        for spec, output in zip(specs, outputs, strict=True):
            batch.check_output(spec, output, codec.DTYPES[spec.datatype], rows)
        return outputs

    def _classified(self, asked: Infer, answer: list[NDArray[Any]] | EdgedError) -> list[NDArray[Any]] | EdgedError:
        """A member's outputs, those of which classes are wanted as BYTES."""
        if isinstance(answer, EdgedError):
            return answer
        return [
            classify(self._outputs[name], array, count, batched=self._batched) if count else array
            for name, array, count in zip(asked.outputs, answer, asked.classes, strict=True)
        ]

    def _raw(self, asked: Infer, answer: list[NDArray[Any]] | EdgedError) -> list[Contents]:
        """The raw contents of a member's outputs; none where it has an error instead."""
        if isinstance(answer, EdgedError):
            return []
        classes = asked.classes or (0,) * len(answer)
        named = zip(asked.outputs, answer, classes, strict=True)
        return [
            codec.encode(array, Datatype.BYTES if count else self._outputs[name].datatype)
            for name, array, count in named
        ]

    def _put(
        self, raw: list[Contents], targets: Sequence[Target | None], outputs: Sequence[str], regions: Mappings
    ) -> list[Contents]:
        """Writes what a member wants in regions, all of it or none, and gives what is left to be carried.

        Raises EdgedError: invalid_tensor where a target is too small, answer_too_large, region_unusable.
        """
        views: list[memoryview | None] = []
        for name, part, target in zip(outputs, raw, targets, strict=True):
            if target is not None and len(part) > target.size:
                raise EdgedError(
                    Code.INVALID_TENSOR,
                    f"output {name!r} takes {len(part)} bytes, the request gives it {target.size} in shared memory",
                    "give it a larger shared_memory_byte_size",
                )
            views.append(None if target is None else regions.view(target.region, target.offset, len(part)))
        left = [part if view is None else b"" for part, view in zip(raw, views, strict=True)]
        size = sum(map(len, left))
        if self._max_answer_bytes and size > self._max_answer_bytes:
            raise too_large(size, self._max_answer_bytes)
        for part, view in zip(raw, views, strict=True):
            if view is not None:
                view[:] = part
        return left

    def _encode(
        self, asked: Infer, answers: list[list[NDArray[Any]] | EdgedError], arena: Window, regions: Mappings
    ) -> tuple[list[MemberAnswer | Failed], tuple[bool, ...], list[Contents]]:
        """The members' heads; for each output whether it was put into its room; what is left for the body."""
        raw = [self._raw(asked, answer) for answer in answers]
        encoded: list[list[Contents]] = []
        nowhere = (None,) * len(asked.outputs)
        for index, parts in enumerate(raw):
            try:
                targets = (asked.targets and asked.targets[index]) or nowhere
                encoded.append(self._put(parts, targets, asked.outputs, regions) if parts else [])
            except EdgedError as error:
                answers[index] = error
                encoded.append([])
        placed = []
        for position, (offset, room) in enumerate(asked.rooms):
            parts = [parts[position] for parts in encoded if parts]
            size = sum(map(len, parts))
            fits = 0 < size <= room
            placed.append(fits)
            if fits:
                target = arena.view(offset, size)
                at = 0
                for part in parts:
                    target[at : at + len(part)] = part
                    at += len(part)
        heads: list[MemberAnswer | Failed] = []
        bodies: list[Contents] = []
        for answer, whole, left in zip(answers, raw, encoded, strict=True):
            if isinstance(answer, EdgedError):
                heads.append(failed(answer))
                continue
            shapes = (OutputPart(array.shape, len(part)) for array, part in zip(answer, whole, strict=True))
            heads.append(MemberAnswer(tuple(shapes)))
            bodies += [part for part, elsewhere in zip(left, placed, strict=True) if not elsewhere]
        return heads, tuple(placed), bodies

    def _answers(self, arrays: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """What the model makes of the inputs of a file, all at once; as declared, or EdgedError."""
        specs, rows = [self._outputs[name] for name in outputs], self._rows(arrays)
        return self._checked(self._session.run(arrays, outputs), specs, rows)

    def _rows(self, arrays: Mapping[str, NDArray[Any]]) -> int | None:
        """Axis 0 of all inputs, None where there is no batch. Raises EdgedError (invalid_tensor)."""
        if not self._batched:
            return None
        counts = {array.shape[0] if array.ndim else None for array in arrays.values()}
        if len(counts) == 1 and (count := counts.pop()) is not None:
            return int(count)
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise EdgedError(Code.INVALID_TENSOR, f"the inputs do not have one number of rows: {shapes}")

    def _answers_in_batches(self, arrays: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """The same in batches that are no larger than the model takes, so that a golden may hold many rows."""
        rows, most = self._rows(arrays), self._max_batch_size
        if rows is None or rows <= most:
            return self._answers(arrays, outputs)
        parts = [
            self._answers({name: array[at : at + most] for name, array in arrays.items()}, outputs)
            for at in range(0, rows, most)
        ]
        for name, answers in zip(outputs, zip(*parts, strict=True), strict=True):
            if len(shapes := {answer.shape[1:] for answer in answers}) > 1:
                found = ", ".join(str(list(shape)) for shape in sorted(shapes))
                text = f"output {name!r} has rows of different shapes: {found}"
                raise EdgedError(Code.INFERENCE_FAILED, text)
        return [batch.merge(answers) for answers in zip(*parts, strict=True)]

    def let_go(self) -> None:
        """Lets go of what the last batch came in."""
        self._session.let_go()
        gc.collect()  # an error that was told holds on to it in a circle

    def golden(self, asked: RunGolden) -> Compared:
        """Runs a golden's inputs and compares what comes with what it expects.

        Raises EdgedError: golden_mismatch with the cause where the model cannot run it or does not answer as declared.
        """
        arrays, expected = read_golden(self._folder, asked.file, self._inputs, self._outputs)
        began = time.monotonic()
        try:
            answers = self._answers_in_batches(arrays, list(expected))
        except EdgedError as error:
            text = f"{asked.file.path} cannot be run: {error.message}"
            raise EdgedError(Code.GOLDEN_MISMATCH, text, error.hint) from error
        return self._compared(asked, answers, expected, time.monotonic() - began)

    def _compared(
        self,
        asked: RunGolden | RunShadow,
        answers: Sequence[NDArray[Any]],
        expected: Mapping[str, NDArray[Any]],
        took_s: float,
    ) -> Compared:
        outputs = [
            compare.compare(name, self._outputs[name].datatype, answer, expected[name], asked.atol, asked.rtol)
            for name, answer in zip(expected, answers, strict=True)
        ]
        return Compared(outputs, took_s)

    def shadow(self, asked: RunShadow, body: memoryview) -> Compared:
        """Runs a copied request and compares what comes with what another revision answered."""
        at = 0
        inputs, expected = {}, {}
        for name, part in zip(asked.inputs, asked.parts, strict=True):
            data = body[at : at + part.size]
            inputs[name] = codec.decode(name, self._inputs[name].datatype, part.shape, part.form, data)
            at += part.size
        for name, output in zip(asked.outputs, asked.expected, strict=True):
            data = body[at : at + output.size]
            expected[name] = codec.decode(name, self._outputs[name].datatype, output.shape, Form.RAW, data)
            at += output.size
        began = time.monotonic()
        answers = self._session.run(inputs, list(expected))
        return self._compared(asked, answers, expected, time.monotonic() - began)


def _open(source: Source, derived: Derived | None) -> Session:
    """Raises EdgedError; derived_unusable where what was built of the file is at fault, and not the file."""
    if derived is None:
        return load_runtime(source.runtime).open_session(read_file(Path(source.folder), source.file), source.options)
    deriving = load_deriving(source.runtime)
    try:
        return deriving.open_derived(read_file(Path(derived.folder), derived.file), source.options)
    except EdgedError as error:
        if error.code in _OF_THE_DEVICE:  # to build it again would help nobody
            raise
        raise EdgedError(
            Code.DERIVED_UNUSABLE, f"what was built of {source.file.path} cannot be used: {error}", "it is built again"
        ) from error


def failed(error: EdgedError) -> Failed:
    """An error as the link carries it."""
    return Failed(error.code, error.message, error.hint)
