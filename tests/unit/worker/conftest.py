"""Models in a folder, and the messages that have a worker load and run them."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import uvloop
from numpy.typing import NDArray
from support.bundles import Tensor, onnx_model

from edged.runtimes.base import SessionOptions
from edged.types import Datatype, TensorSpec
from edged.worker import codec, process
from edged.worker.arena import Window
from edged.worker.messages import (
    Answered,
    Failed,
    FileRef,
    Form,
    Infer,
    InputPart,
    Load,
    MemberAnswer,
    Source,
    WarmupRun,
)
from edged.worker.placing import Parts

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on a loop of its own, of either kind; what it leaves running fails the test."""

    async def all_of(coroutine: Coroutine[Any, Any, Any]) -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await coroutine
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not complaints

    def on_a_loop(coroutine: Coroutine[Any, Any, Any]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(all_of(coroutine))

    return on_a_loop


class Folder:
    """The folder of a bundle: files in it, and what the link says of them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, name: str, content: bytes) -> FileRef:
        """Writes a file."""
        (self.path / name).write_bytes(content)
        return FileRef(name, len(content), hashlib.sha256(content).hexdigest())

    def npz(self, name: str, arrays: Mapping[str, Any]) -> FileRef:
        """Writes arrays as an .npz."""
        content = io.BytesIO()
        np.savez(content, **{key: np.asarray(array) for key, array in arrays.items()})
        return self.file(name, content.getvalue())

    def load(
        self,
        nodes: Sequence[Any],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        *,
        max_batch_size: int = 8,
        max_answer_bytes: int = 0,
        warmup: Sequence[WarmupRun] = (),
        declared: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> Load:
        """Has a worker load a model of `nodes`; `declared` is what the manifest says of it where that differs."""
        model = self.file("model.onnx", onnx_model(nodes, inputs, outputs))
        return Load(
            source=Source(str(self.path), model, "onnxruntime", SessionOptions(threads=1)),
            inputs=specs((declared or {}).get("inputs", inputs)),
            outputs=specs((declared or {}).get("outputs", outputs)),
            max_batch_size=max_batch_size,
            max_answer_bytes=max_answer_bytes,
            warmup=tuple(warmup),
        )


def specs(tensors: Sequence[Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, Datatype(datatype), tuple(shape)) for name, datatype, shape in tensors)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


class Batch:
    """A batch as the link carries it, and its answer read again."""

    def __init__(self, load: Load, members: Sequence[Mapping[str, NDArray[Any]]], outputs: Sequence[str] = ()) -> None:
        self._datatypes = {spec.name: spec.datatype for spec in load.inputs + load.outputs}
        self._outputs = tuple(outputs) or tuple(spec.name for spec in load.outputs)
        names = tuple(spec.name for spec in load.inputs)
        encoded = [[bytes(codec.encode(member[name], self._datatypes[name])) for name in names] for member in members]
        self.message = Infer(
            names,
            self._outputs,
            [
                tuple(
                    InputPart(member[name].shape, len(data), Form.RAW) for name, data in zip(names, parts, strict=True)
                )
                for member, parts in zip(members, encoded, strict=True)
            ],
            (-1,) * len(names),
            ((-1, 0),) * len(self._outputs),
        )
        self.contents = [[parts[position] for parts in encoded] for position in range(len(names))]
        self.expected = (0,) * len(self._outputs)

    @property
    def parts(self) -> list[bytes]:
        return [part for parts in self.contents for part in parts]

    @property
    def body(self) -> memoryview:
        return memoryview(b"".join(self.parts))

    async def by(self, worker: process.Worker) -> list[Any]:
        """A worker's answer, read."""
        message = self.message
        asked = process.Batch(message.inputs, message.outputs, message.members, self.contents, self.expected)
        return await worker.infer(asked, self._read_parts)

    def _read_parts(self, answered: Answered, parts: Sequence[Parts]) -> list[Any]:
        found: list[Any] = []
        for member, given in zip(answered.members, parts, strict=True):
            if isinstance(member, Failed) or isinstance(given, Failed):
                assert member == given
                found.append(member)
                continue
            outputs = {}
            for name, part, data in zip(self._outputs, member.outputs, given, strict=True):
                assert len(data) == part.size
                outputs[name] = codec.decode(name, self._datatypes[name], part.shape, Form.RAW, data).copy()
            found.append(outputs)
        return found

    def damaged(self, member: int, **changes: Any) -> Batch:
        """The same with the first input of a member told otherwise."""
        first, *others = self.message.members[member]
        self.message.members[member] = (msgspec.structs.replace(first, **changes), *others)
        return self

    def read(self, answered: Answered, body: Sequence[bytes | memoryview] | memoryview) -> list[Any]:
        """For each member its outputs by name, or its Failed."""
        found: list[Any] = []
        data, at = body if isinstance(body, memoryview) else memoryview(b"".join(body)), 0
        for member in answered.members:
            if not isinstance(member, MemberAnswer):
                found.append(member)
                continue
            outputs = {}
            for name, part in zip(self._outputs, member.outputs, strict=True):
                outputs[name] = codec.decode(
                    name, self._datatypes[name], part.shape, Form.RAW, data[at : at + part.size]
                )
                at += part.size
            found.append(outputs)
        assert at == len(data)
        return found


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Window]:
    """An arena of a mebibyte, as a worker sees it."""
    with (tmp_path / "arena").open("w+b") as file:
        file.truncate(2**20)
        yield Window(file.fileno())


@pytest.fixture
def batch_of() -> type[Batch]:
    return Batch
