"""A daemon whose standard error nobody reads, as when the journal is held up by its disk."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import TensorProto, helper
from support.bundles import make_bundle, onnx_model
from support.calls import pack, refused, request, tensor
from support.daemon import DIGITS, Daemon
from support.polling import until

from edged._pb.inference.grpc_service_pb2 import ModelInferRequest


def picking(folder: Path) -> Path:
    """A model `pick`: of four numbers that `x` points to; what points beside them is the engine's error."""
    values = helper.make_tensor("values", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    nodes = [helper.make_node("Constant", [], ["four"], value=values), helper.make_node("Gather", ["four", "x"], ["y"])]
    inputs, outputs = [("x", "INT64", [-1, 1])], [("y", "FP32", [-1, 1])]
    return make_bundle(folder, onnx_model(nodes, inputs, outputs), inputs, outputs, name="pick")


class Unread(Daemon):
    """Its log is a pipe that is full from the beginning."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, [DIGITS, picking(root / "made")], '[log]\nlevel = "debug"\n')
        os.mkfifo(self.log_file)
        self._out = os.open(self.log_file, os.O_RDONLY | os.O_NONBLOCK)
        size = fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, 4096)
        into = os.open(self.log_file, os.O_WRONLY | os.O_NONBLOCK)
        os.write(into, b"x" * (size - 1) + b"\n")
        os.close(into)
        self.read = bytearray()
        self._reader = threading.Thread(target=self._read)

    def log(self) -> str:
        return self.read.decode(errors="replace")

    def begin_to_read(self) -> None:
        self._reader.start()

    def _read(self) -> None:
        os.set_blocking(self._out, True)
        while part := os.read(self._out, 65536):
            self.read += part

    def stop(self) -> int | None:
        status = super().stop()
        if self._reader.ident:
            self._reader.join()
        os.close(self._out)
        return status


@pytest.fixture
def unread(tmp_path: Path) -> Iterator[Unread]:
    made = Unread(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def test_it_starts_serves_and_ends_as_ever(unread: Unread):
    unread.start()
    for _ in range(3):
        assert unread.status().models
    unread.signal(15)
    assert unread.wait_end() == 0


def test_a_model_whose_engine_finds_errors_is_not_held_up(unread: Unread):
    def place(number: int) -> ModelInferRequest:
        return request("pick", tensor("x", "INT64", [1, 1]), raw=[pack("INT64", [number])])

    unread.start()
    for _ in range(3):
        assert refused(unread, place(99)).code == "invalid_tensor"
    assert unread.infer(place(2)).raw_output_contents == [pack("FP32", [3.0])]


def test_what_it_logged_is_there_once_it_is_read(unread: Unread):
    unread.start()
    unread.begin_to_read()
    until(lambda: '"code": "started"' in unread.log(), "it tells of its start", log=unread.log)
    unread.signal(15)
    assert unread.wait_end() == 0
    until(lambda: '"message": "stopping"' in unread.log(), "it tells of its end", log=unread.log)
