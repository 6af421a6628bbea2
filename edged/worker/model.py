"""One loaded variant: runs batches and goldens on it. Child's end only."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edged.errors import Code, EdgedError
from edged.runtimes.base import Session, SessionOptions, load_runtime, signature_problems
from edged.types import Datatype, TensorSpec
from edged.worker import batch, codec, compare
from edged.worker.arena import Window
from edged.worker.messages import (
    Answered,
    Compared,
    Failed,
    Form,
    Infer,
    Load,
    Loaded,
    MemberAnswer,
    OutputPart,
    RunGolden,
    RunShadow,
    WarmupRun,
)
from edged.worker.samples import read_arrays, read_file

Contents = memoryview | bytes


class Model:
    """One loaded variant."""

    def __init__(self, load: Load) -> None:
        """Raises EdgedError with the reason when the model cannot be served as its manifest says."""
        started = time.monotonic()
        self._folder = Path(load.folder)
        self._inputs = {spec.name: spec for spec in load.inputs}
        self._outputs = {spec.name: spec for spec in load.outputs}
        self._batched = load.max_batch_size > 0
        self._max_answer_bytes = load.max_answer_bytes
        runtime = load_runtime(load.runtime)
        model = read_file(self._folder, load.file)
        options = SessionOptions(threads=load.threads, precision=load.precision, device=load.device)
        self._session: Session = runtime.open_session(model, options)
        problems = signature_problems(load.inputs, self._session.inputs, "input", all_wanted=True)
        problems += signature_problems(load.outputs, self._session.outputs, "output", all_wanted=False)
        if problems:
            raise EdgedError(
                Code.INCOMPATIBLE_SIGNATURE,
                f"{load.file.path} is not what the manifest says: {'; '.join(problems)}",
            )
        warm = time.monotonic()
        for run in load.warmup:
            self._warm_up(run)
        self.loaded = Loaded(load_s=warm - started, warmup_s=time.monotonic() - warm)

    def _warm_up(self, run: WarmupRun) -> None:
        arrays = read_arrays(self._folder, run.file, {name: (name, spec) for name, spec in self._inputs.items()})
        try:
            for _ in range(run.count):
                self._session.run(arrays, list(self._outputs))
        except EdgedError as error:
            raise EdgedError(Code.LOAD_FAILED, f"warm-up {run.file.path} fails: {error.message}", error.hint) from error

    def infer(self, asked: Infer, body: memoryview, arena: Window) -> tuple[Answered, list[Contents]]:
        """Runs a batch. A member that cannot be answered has its own error; the others are answered."""
        began = time.monotonic_ns()
        contents = _contents(asked, body, arena)
        everybody = range(len(asked.members))
        answers: list[list[NDArray[Any]] | EdgedError]
        try:
            decoded = self._decode(asked, everybody, contents)
            ready = time.monotonic_ns()
            answers = list(self._run(asked, everybody, decoded))
        except EdgedError as error:
            # Whose fault was it? Each is tried alone.
            ready = time.monotonic_ns()
            answers = [self._alone(asked, each, contents) for each in everybody] if len(everybody) > 1 else [error]
        ran = time.monotonic_ns()
        heads, placed, bodies = self._encode(asked, answers, arena)
        done = time.monotonic_ns()
        return Answered(heads, placed, ready - began, ran - ready, done - ran), bodies

    def _alone(self, asked: Infer, member: int, contents: Sequence[memoryview]) -> list[NDArray[Any]] | EdgedError:
        try:
            return self._run(asked, [member], self._decode(asked, [member], contents))[0]
        except EdgedError as error:
            return error

    def _decode(
        self, asked: Infer, members: Sequence[int], contents: Sequence[memoryview]
    ) -> dict[str, list[NDArray[Any]]]:
        """Each input's arrays: one of all members' rows where their contents can be read as one, else one a member."""
        decoded: dict[str, list[NDArray[Any]]] = {}
        if not members:
            return decoded
        for position, name in enumerate(asked.inputs):
            datatype = self._inputs[name].datatype
            parts = [asked.members[member][position] for member in members]
            at = sum(member[position].size for member in asked.members[: members[0]])
            data = contents[position][at : at + sum(part.size for part in parts)]
            if self._batched and datatype is not Datatype.BYTES and all(part.form == Form.RAW for part in parts):
                shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
                decoded[name] = [codec.decode(name, datatype, shape, Form.RAW, data)]
                continue
            arrays = []
            at = 0
            for part in parts:
                arrays.append(codec.decode(name, datatype, part.shape, part.form, data[at : at + part.size]))
                at += part.size
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
        merged = {name: batch.merge(arrays) for name, arrays in decoded.items()}
        outputs = self._checked(self._session.run(merged, asked.outputs), specs, sum(rows))
        parts = [batch.split(output, rows) for output in outputs]
        return [[part[index] for part in parts] for index in range(len(members))]

    def _checked(
        self, outputs: list[NDArray[Any]], specs: Sequence[TensorSpec], rows: int | None
    ) -> list[NDArray[Any]]:
        for spec, output in zip(specs, outputs, strict=True):
            batch.check_output(spec, output, codec.DTYPES[spec.datatype], rows)
        return outputs

    def _raw(self, asked: Infer, answer: list[NDArray[Any]] | EdgedError) -> list[Contents]:
        """The raw contents of a member's outputs; none where it has an error instead."""
        if isinstance(answer, EdgedError):
            return []
        named = zip(asked.outputs, answer, strict=True)
        return [codec.encode(array, self._outputs[name].datatype) for name, array in named]

    def _encode(
        self, asked: Infer, answers: list[list[NDArray[Any]] | EdgedError], arena: Window
    ) -> tuple[list[MemberAnswer | Failed], tuple[bool, ...], list[Contents]]:
        """The members' heads; for each output whether it was put into its room; what is left for the body."""
        encoded = [self._raw(asked, answer) for answer in answers]
        for index, raw in enumerate(encoded):
            size = sum(map(len, raw))
            if self._max_answer_bytes and size > self._max_answer_bytes:
                answers[index], encoded[index] = _too_large(size, self._max_answer_bytes), []
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
        for answer, raw in zip(answers, encoded, strict=True):
            if isinstance(answer, EdgedError):
                heads.append(failed(answer))
                continue
            shapes = (OutputPart(array.shape, len(part)) for array, part in zip(answer, raw, strict=True))
            heads.append(MemberAnswer(tuple(shapes)))
            bodies += [part for part, elsewhere in zip(raw, placed, strict=True) if not elsewhere]
        return heads, tuple(placed), bodies

    def golden(self, asked: RunGolden) -> Compared:
        """Runs a golden's inputs and compares what comes with what it expects."""
        arrays = read_arrays(
            self._folder, asked.file, {f"inputs/{name}": (name, spec) for name, spec in self._inputs.items()}
        )
        expected = read_arrays(
            self._folder,
            asked.file,
            {f"outputs/{name}": (name, spec) for name, spec in self._outputs.items()},
            optional=True,
        )
        if not expected:
            raise EdgedError(
                Code.GOLDEN_MISMATCH,
                f"{asked.file.path} holds no expected output",
                f"give one of {', '.join(f'outputs/{name}' for name in self._outputs)}",
            )
        began = time.monotonic()
        answers = self._session.run(arrays, list(expected))
        took = time.monotonic() - began
        outputs = [
            compare.compare(name, self._outputs[name].datatype, answer, expected[name], asked.atol, asked.rtol)
            for name, answer in zip(expected, answers, strict=True)
        ]
        return Compared(outputs, took)

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
        took = time.monotonic() - began
        outputs = [
            compare.compare(name, self._outputs[name].datatype, answer, expected[name], asked.atol, asked.rtol)
            for name, answer in zip(expected, answers, strict=True)
        ]
        return Compared(outputs, took)


def _contents(asked: Infer, body: memoryview, arena: Window) -> list[memoryview]:
    """Each input's contents of all members, from the arena or the body."""
    found = []
    at = 0
    for position, slot in enumerate(asked.slots):
        size = sum(member[position].size for member in asked.members)
        if slot >= 0:
            found.append(arena.view(slot, size))
        else:
            found.append(body[at : at + size])
            at += size
    return found


def _too_large(size: int, allowed: int) -> EdgedError:
    return EdgedError(
        Code.ANSWER_TOO_LARGE,
        f"the answer takes {size} bytes, at most {allowed} can be sent",
        "ask for less in one request, or raise listen.max_message_mib",
    )


def failed(error: EdgedError) -> Failed:
    """An error as the link carries it."""
    return Failed(error.code, error.message, error.hint)
