"""One loaded variant: runs batches and goldens on it. Child's end only."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edged.errors import Code, EdgedError
from edged.runtimes.base import Session, SessionOptions, load_runtime, signature_problems
from edged.types import TensorSpec
from edged.worker import batch, codec, compare
from edged.worker.messages import (
    Answered,
    Compared,
    Failed,
    Infer,
    Load,
    Loaded,
    MemberAnswer,
    OutputPart,
    RunGolden,
    WarmupRun,
)
from edged.worker.samples import read_arrays, read_file


class Model:
    """One loaded variant."""

    def __init__(self, load: Load) -> None:
        """Raises EdgedError with the reason when the model cannot be served as its manifest says."""
        started = time.monotonic()
        self._folder = Path(load.folder)
        self._inputs = {spec.name: spec for spec in load.inputs}
        self._outputs = {spec.name: spec for spec in load.outputs}
        self._batched = load.max_batch_size > 0
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

    def infer(self, asked: Infer, body: memoryview) -> tuple[Answered, list[memoryview | bytes]]:
        """Runs a batch. A member whose tensors cannot be read has its own error; the others are answered."""
        began = time.monotonic_ns()
        members = self._decode(asked, body)
        good = [index for index, member in enumerate(members) if not isinstance(member, EdgedError)]
        decoded = time.monotonic_ns()
        answers: list[list[NDArray[Any]] | EdgedError] = list(members)
        try:
            for index, outputs in zip(good, self._run([members[index] for index in good], asked), strict=True):
                answers[index] = outputs
        except EdgedError as error:
            for index in good:  # find out whose fault it was: each alone
                answers[index] = error if len(good) == 1 else self._alone(members[index], asked)
        ran = time.monotonic_ns()
        heads: list[MemberAnswer | Failed] = []
        bodies: list[memoryview | bytes] = []
        for answer in answers:
            if isinstance(answer, EdgedError):
                heads.append(failed(answer))
                continue
            parts = [
                codec.encode(array, self._outputs[name].datatype)
                for name, array in zip(asked.outputs, answer, strict=True)
            ]
            sizes = (OutputPart(array.shape, len(part)) for array, part in zip(answer, parts, strict=True))
            heads.append(MemberAnswer(tuple(sizes)))
            bodies += parts
        done = time.monotonic_ns()
        return Answered(heads, decoded - began, ran - decoded, done - ran), bodies

    def _decode(self, asked: Infer, body: memoryview) -> list[Any]:
        """Each member's arrays by input, or the error that reading them gave."""
        decoded: list[Any] = [{} for _ in asked.members]
        at = 0
        for position, name in enumerate(asked.inputs):
            datatype = self._inputs[name].datatype
            for index, member in enumerate(asked.members):
                part = member[position]
                data = body[at : at + part.size]
                at += part.size
                if isinstance(decoded[index], EdgedError):
                    continue
                try:
                    decoded[index][name] = codec.decode(name, datatype, part.shape, part.form, data)
                except EdgedError as error:
                    decoded[index] = error
        return decoded

    def _alone(self, member: Mapping[str, NDArray[Any]], asked: Infer) -> list[NDArray[Any]] | EdgedError:
        try:
            return self._run([member], asked)[0]
        except EdgedError as error:
            return error

    def _run(self, members: Sequence[Mapping[str, NDArray[Any]]], asked: Infer) -> list[list[NDArray[Any]]]:
        """Each member's outputs in the order asked for."""
        if not members:
            return []
        specs = [self._outputs[name] for name in asked.outputs]
        if not self._batched:
            return [self._checked(self._session.run(member, asked.outputs), specs, None) for member in members]
        rows = [len(next(iter(member.values()))) for member in members]
        if not sum(rows):  # nothing to compute: engines differ in what they make of an empty batch
            return [[batch.empty_output(spec, codec.DTYPES[spec.datatype]) for spec in specs] for _ in members]
        merged = {name: batch.merge([member[name] for member in members]) for name in asked.inputs}
        outputs = self._checked(self._session.run(merged, asked.outputs), specs, sum(rows))
        parts = [batch.split(output, rows) for output in outputs]
        return [[part[index] for part in parts] for index in range(len(members))]

    def _checked(
        self, outputs: list[NDArray[Any]], specs: Sequence[TensorSpec], rows: int | None
    ) -> list[NDArray[Any]]:
        for spec, output in zip(specs, outputs, strict=True):
            batch.check_output(spec, output, codec.DTYPES[spec.datatype], rows)
        return outputs

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


def failed(error: EdgedError) -> Failed:
    """An error as the link carries it."""
    return Failed(error.code, error.message, error.hint)
