"""The worker's end of the link, in this process."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from support.loads import changed

from edged.worker import host
from edged.worker.arena import Window
from edged.worker.landlock import Access
from edged.worker.messages import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    PREFIX,
    Answered,
    Failed,
    FileRef,
    FromWorker,
    Loaded,
    RunGolden,
    ToWorker,
)
from edged.worker.regions import Mappings

DOUBLE = ([helper.make_node("Add", ["x", "x"], ["y"])], [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])])
GONE = RunGolden(FileRef("gone.npz", 1, ""), 0, 0)


def frame(message: ToWorker, body: bytes = b"") -> bytes:
    head = msgspec.msgpack.encode(message)
    return PREFIX.pack(len(head), len(body)) + head + body


def unconfined(
    folder: str, runtime: str, device: str, more: Mapping[str, Access]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """This process goes on to run other tests."""
    return (f"kept to {folder} for {runtime} on {device or 'any'}", *more), ()


def served(data: bytes) -> list[tuple[FromWorker, bytes]]:
    """What it answers to a front that says all of this and goes."""
    front, link = socket.socketpair()
    with front:
        front.sendall(data)
        front.shutdown(socket.SHUT_WR)
        with link:
            host.serve(link, Window(-1), Mappings(None), unconfined)
        answers = b"".join(iter(lambda: front.recv(65536), b""))
    found: list[tuple[FromWorker, bytes]] = []
    while answers:
        head, body = PREFIX.unpack_from(answers)
        message = msgspec.msgpack.decode(answers[PREFIX.size : PREFIX.size + head], type=FromWorker)
        end = PREFIX.size + head + body
        found.append((message, answers[PREFIX.size + head : end]))
        answers = answers[end:]
    return found


def test_each_message_is_answered_in_order(folder, batch_of):
    load = folder.load(*DOUBLE)
    one, two = (batch_of(load, [{"x": np.full((1, 2), value, np.float32)}]) for value in (1, 2))
    found = served(
        frame(load) + frame(one.message, bytes(one.body)) + frame(GONE) + frame(two.message, bytes(two.body))
    )
    assert [type(message) for message, _ in found] == [Loaded, Answered, Failed, Answered]
    for batch, (message, body), value in ((one, found[1], 2), (two, found[3], 4)):
        assert batch.read(message, memoryview(body))[0]["y"].tolist() == [[value, value]]
    assert found[0][0].sandbox == (f"kept to {load.source.folder} for onnxruntime on any",), "what holds it is told"
    assert found[2][0] == Failed("load_failed", "gone.npz cannot be read: No such file or directory", "")


def test_a_load_that_fails_may_be_followed_by_another(folder):
    good = changed(folder.load(*DOUBLE), device="CPU")
    bad = changed(good, device="TPU")
    found = [message for message, _ in served(frame(bad) + frame(good))]
    assert [type(message) for message in found] == [Failed, Loaded]
    assert found[1].sandbox[0].endswith(" on CPU")


def test_it_ends_wherever_its_front_does(folder, batch_of):
    load = folder.load(*DOUBLE)
    batch = batch_of(load, [{"x": np.ones((1, 2), np.float32)}])
    loaded, asked = frame(load), frame(batch.message, bytes(batch.body))
    assert served(b"") == []
    for cut in range(1, len(loaded), 7):
        assert served(loaded[:cut]) == []
    for cut in range(len(asked)):
        assert len(served(loaded + asked[:cut])) == 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (PREFIX.pack(MAX_HEAD_BYTES + 1, 0), "a frame of 67108865 + 0 bytes: the link is out of step"),
        (PREFIX.pack(1, MAX_BODY_BYTES + 1), "a frame of 1 + 17179869185 bytes: the link is out of step"),
        (frame(GONE), "asked for answers before a model was loaded"),
    ],
)
def test_a_front_out_of_step_ends_it(data, why):
    with pytest.raises(SystemExit, match=why.replace("+", r"\+")):
        served(data)


class Narrow:
    """A socket that takes a few bytes at a time."""

    def __init__(self, take: Any) -> None:
        self._take = take
        self.data = b""

    def sendmsg(self, parts: list[bytes | memoryview]) -> int:
        assert len(parts) <= 1024, "the system takes no more parts (IOV_MAX)"
        some = b"".join(parts)[: self._take()]
        self.data += some
        return len(some)


@given(parts=st.lists(st.binary(max_size=300) | st.just(b""), max_size=200), data=st.data())
def test_an_answer_goes_out_whole_however_little_is_taken_at_once(parts, data):
    link = Narrow(lambda: data.draw(st.integers(1, 100_000)))
    message = Failed("code", "message", "hint")
    host._send(link, message, [memoryview(part) if index % 2 else part for index, part in enumerate(parts)])
    head = msgspec.msgpack.encode(message)
    body = b"".join(parts)
    assert link.data == PREFIX.pack(len(head), len(body)) + head + body
