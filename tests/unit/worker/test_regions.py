"""Regions of shared memory between the front and a worker's process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import helper
from support.descriptors import count, held
from support.loads import changed
from support.polling import PATIENCE_S
from support.slow import A_WHILE, counting_nodes
from support.standins import settle
from support.tflites import tflite_model

from edged.errors import Code, EdgedError
from edged.runtimes.base import ENGINES
from edged.types import Datatype
from edged.worker import codec, process
from edged.worker.messages import Answered, Failed, Form, Infer, InputPart, Target
from edged.worker.model import Model
from edged.worker.process import Caps, start
from edged.worker.regions import MAX_REGIONS, Mappings, Passing, Region, passing_pair

PATIENT = Caps(
    load_s=PATIENCE_S, first_inference_s=PATIENCE_S, inference_s=PATIENCE_S, memory_bytes=2**33, arena_bytes=2**26
)
PAGE = mmap.PAGESIZE

Make = Callable[..., Region]


@pytest.fixture
def region() -> Iterator[Make]:
    """Makes regions of memory files, and closes what the test has not."""
    made: list[Region] = []

    def make(size: int = 4096, begin: int = 0, file_bytes: int = 0, content: bytes = b"") -> Region:
        descriptor = os.memfd_create("edged-test")
        os.truncate(descriptor, file_bytes or begin + size)
        os.pwrite(descriptor, content, begin)
        made.append(Region(f"region-{len(made)}", "file", begin, size, descriptor))
        return made[-1]

    yield make
    for each in made:
        if not each.gone:
            each.close()


@pytest.fixture
def pair() -> Iterator[tuple[Passing, Mappings]]:
    passing, control = passing_pair()
    with control:
        yield passing, Mappings(control)
        passing.close()


@pytest.mark.parametrize("begin", [0, 1, PAGE - 1, PAGE, 3 * PAGE + 17])
def test_a_worker_sees_what_lies_in_a_region_and_the_owner_what_it_writes(region: Make, pair, begin: int) -> None:
    passing, mappings = pair
    made = region(5000, begin, content=bytes(range(250)) * 20)
    assert passing.pass_on([made]) == [made]
    view = mappings.view(made.number, 100, 1000)
    assert bytes(view) == (bytes(range(250)) * 20)[100:1100]
    os.pwrite(made.descriptor, b"changed", begin + 100)
    assert bytes(view[:7]) == b"changed"
    view[7:11] = b"back"
    assert os.pread(made.descriptor, 11, begin + 100) == b"changedback"


def test_each_is_passed_on_once(region: Make, pair) -> None:
    passing, mappings = pair
    one, two = region(), region()
    assert passing.pass_on([one, one]) == [one]
    assert passing.pass_on([one, two]) == [two]
    assert passing.pass_on([two, one]) == []
    for each in (one, two):
        assert len(mappings.view(each.number, 0, each.size)) == each.size


def test_all_that_there_may_be_go_over_at_once(region: Make, pair) -> None:
    passing, mappings = pair
    made = [region(8, content=number.to_bytes(8, "little")) for number in range(MAX_REGIONS)]
    for each in made:
        each.name, each.key = "n" * 256, "k" * 255
    passing.pass_on(made)
    for number, each in enumerate(made):
        assert int.from_bytes(mappings.view(each.number, 0, 8), "little") == number
        mappings.drop(each.number)


@pytest.mark.parametrize("used", [True, False], ids=["mapped", "never looked at"])
def test_what_is_dropped_leaves_nothing(region: Make, pair, used: bool) -> None:
    passing, mappings = pair
    made = region()
    before = held()
    passing.pass_on([made])
    if used:
        mappings.view(made.number, 0, 10)[:] = b"0123456789"
    assert passing.forget(made)
    assert not passing.forget(made)
    for _ in range(2):
        assert not mappings.drop(made.number)
    assert held() == before


def test_what_somebody_still_reads_is_unmapped_when_it_is_let_go(region: Make, pair) -> None:
    passing, mappings = pair
    made = region(content=b"still")
    before = held()
    passing.pass_on([made])
    array = np.frombuffer(mappings.view(made.number, 0, 5), np.uint8)
    assert mappings.drop(made.number)
    assert bytes(array) == b"still"
    del array
    gc.collect()
    assert held() == before


def test_a_file_that_has_become_too_short_is_told_at_each_use(region: Make, pair) -> None:
    passing, mappings = pair
    made = region(4096, begin=100)
    passing.pass_on([made])
    mappings.view(made.number, 0, 4096)
    os.truncate(made.descriptor, 2100)
    assert len(mappings.view(made.number, 0, 2000)) == 2000
    with pytest.raises(EdgedError, match="reaches to byte 2101 of /dev/shm/file, which has 2100 bytes") as raised:
        mappings.view(made.number, 0, 2001)
    assert raised.value.code is Code.REGION_UNUSABLE
    os.truncate(made.descriptor, 8192)
    assert len(mappings.view(made.number, 0, 4096)) == 4096


def test_one_that_was_too_short_before_it_was_mapped_is_told_too(region: Make, pair) -> None:
    passing, mappings = pair
    made = region()
    passing.pass_on([made])
    os.truncate(made.descriptor, 10)
    for _ in range(2):
        with pytest.raises(EdgedError, match="which has 10 bytes"):
            mappings.view(made.number, 0, 5)
    os.truncate(made.descriptor, 4096)
    assert len(mappings.view(made.number, 0, 5)) == 5


@pytest.mark.parametrize(("offset", "size"), [(0, 4097), (4096, 1), (-1, 1), (2**40, 1)])
def test_nothing_beyond_a_region_is_given(region: Make, pair, offset: int, size: int) -> None:
    passing, mappings = pair
    made = region(4096, file_bytes=2**41)
    passing.pass_on([made])
    with pytest.raises(EdgedError, match="beyond its end"):
        mappings.view(made.number, offset, size)


def test_one_that_cannot_be_passed_on_is_told(region: Make, pair) -> None:
    passing, _ = pair

    def for_ever() -> None:
        while True:
            passing.pass_on([region(1)])

    with pytest.raises(EdgedError, match="cannot be passed on to the model's worker") as raised:
        for_ever()  # nobody takes them
    assert raised.value.code is Code.REGION_UNUSABLE


# In a worker's process.


def identity(datatype: str) -> Any:
    return [helper.make_node("Identity", ["x"], ["y"])], [("x", datatype, [-1, -1])], [("y", datatype, [-1, -1])]


def batch(members: list[tuple[InputPart, ...]], regions: list[Region], targets: Any = (), **more: Any) -> process.Batch:
    given = {"inputs": ("x",), "outputs": ("y",), "contents": [[]], "expected": (0,)}
    return process.Batch(**{**given, **more}, members=members, targets=targets, regions=tuple(regions))


def read(_: Answered, parts: Any) -> list[Any]:
    return [part if isinstance(part, Failed) else [bytes(each) for each in part] for part in parts]


@contextlib.asynccontextmanager
async def started(load: Any) -> Any:
    made = await start(load, PATIENT)
    try:
        yield made
    finally:
        await made.stop(PATIENCE_S)


async def test_inputs_and_outputs_may_lie_in_regions_in_the_body_and_in_the_arena_at_once(folder, region: Make) -> None:
    rows = [np.full((1, 200_000), number, np.float32) for number in range(3)]
    size = rows[0].nbytes
    source, sink = region(size + 4, content=b"\xff" * 4 + rows[0].tobytes()), region(2 * size)
    async with started(folder.load(*identity("FP32"))) as worker:
        members = [
            (InputPart((1, 200_000), size, Form.RAW, source.number, 4),),
            (InputPart((1, 200_000), size, Form.RAW),),
            (InputPart((1, 200_000), size, Form.RAW),),
        ]
        asked = batch(
            members,
            [source, sink],
            ((), (Target(sink.number, 10, size + 100),), ()),
            contents=[[rows[1].tobytes(), rows[2].tobytes()]],
            expected=(2 * size,),
        )
        found = await worker.infer(asked, read)
    assert found == [[rows[0].tobytes()], [b""], [rows[2].tobytes()]]
    assert os.pread(sink.descriptor, size, 10) == rows[1].tobytes()
    assert os.pread(sink.descriptor, 10, 0) == bytes(10)
    assert os.pread(sink.descriptor, 100, 10 + size) == bytes(100), "no more than the output takes"


async def test_a_member_that_does_not_fit_its_region_is_alone_in_that(folder, region: Make) -> None:
    ones = np.ones((1, 4), np.float32)
    shrunk, small = region(16, content=ones.tobytes()), region(16)
    async with started(folder.load(*identity("FP32"))) as worker:
        os.truncate(shrunk.descriptor, 8)
        members = [
            (InputPart((1, 4), 16, Form.RAW, shrunk.number, 0),),
            (InputPart((1, 4), 16, Form.RAW),),
            (InputPart((1, 4), 16, Form.RAW),),
        ]
        targets = ((), (Target(small.number, 1, 15),), ())
        asked = batch(members, [shrunk, small], targets, contents=[[ones.tobytes()] * 2])
        found = await worker.infer(asked, read)
    assert [found[0].code, found[1].code, found[2]] == ["region_unusable", "invalid_tensor", [ones.tobytes()]]
    assert "'region-0'" in found[0].message
    assert found[1].message == "output 'y' takes 16 bytes, the request gives it 15 in shared memory"
    assert os.pread(small.descriptor, 16, 0) == bytes(16)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "edgetpu"])
async def test_no_engine_holds_on_to_what_it_was_given(folder, region: Make, engine: str) -> None:
    if ENGINES[engine].version() is None:
        pytest.skip(f"{engine} is not installed")
    load = changed(folder.load(*identity("FP32")), runtime=engine)
    if engine == "edgetpu":
        same = tflite_model("ABS", [("x", "FP32", [-1, -1])], [("y", "FP32", [-1, -1])])
        load = changed(load, file=folder.file("model.tflite", same), device="CPU")
    row = np.arange(100_000, dtype=np.float32)
    made = region(2 * row.nbytes, content=row.tobytes())
    part = InputPart((1, 100_000), row.nbytes, Form.RAW, made.number, 0)
    async with started(load) as worker:
        for _ in range(3):
            target = Target(made.number, row.nbytes, row.nbytes)
            assert await worker.infer(batch([(part,)], [made], ((target,),)), read) == [[b""]]
        assert os.pread(made.descriptor, row.nbytes, row.nbytes) == row.tobytes()
        await made.leave()
        assert count("edged-test", worker.pid) == 0


async def test_the_memory_of_others_is_not_the_models(folder, region: Make) -> None:
    """A worker that reads more in a region than it may take itself stays."""
    nodes = [helper.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=1)]
    load = folder.load(nodes, [("x", "FP32", [-1, -1])], [("y", "FP32", [-1, 1])])
    size = 256 * 2**20
    made = region(size)
    async with started(load) as first:
        taken = first.usage().resident_bytes
    worker = await start(load, msgspec.structs.replace(PATIENT, memory_bytes=taken + size // 2))
    try:
        for _ in range(2):
            asked = batch([(InputPart((1, size // 4), size, Form.RAW, made.number, 0),)], [made])
            assert await worker.infer(asked, read) == [[bytes(4)]]
        assert worker.usage().resident_bytes > worker.caps.memory_bytes
        assert worker.verdict is None
    finally:
        await worker.stop(PATIENCE_S)


async def test_unmapping_waits_for_what_the_worker_has(folder, region: Make) -> None:
    made = region(16, content=bytes(16))
    async with started(folder.load(*identity("FP32"))) as worker:
        asked = batch([(InputPart((1, 4), 16, Form.RAW, made.number, 0),)], [made])
        asking = asyncio.create_task(worker.infer(asked, read))
        await asyncio.sleep(0)
        assert list(made.holders) == [worker.pid]
        await made.leave()
        assert asking.done() or count("edged-test", worker.pid) == 0
        assert await asking == [[bytes(16)]]
        assert count("edged-test", worker.pid) == 0
        assert made.holders == {}
        problem = made.problem()
        assert problem is not None
        assert problem.code is Code.REGION_NOT_FOUND


async def test_an_error_holds_on_to_no_memory(folder, region: Make) -> None:
    made = region(16, content=bytes(16))
    async with started(folder.load(*identity("FP32"))) as worker:
        part = InputPart((1, 4), 16, Form.RAW, made.number, 0)
        for asked in (
            batch([(part,)], [made], ((Target(made.number, 0, 15),),)),
            batch([(InputPart((1, 5), 16, Form.RAW, made.number, 0),)], [made]),
        ):
            with contextlib.suppress(EdgedError):
                await worker.infer(asked, read)
        await made.leave()
        assert count("edged-test", worker.pid) == 0


async def test_the_end_of_a_worker_lets_go_of_all(folder, region: Make) -> None:
    made = region(16)
    async with started(folder.load(*identity("FP32"))) as worker:
        await worker.infer(batch([(InputPart((1, 4), 16, Form.RAW, made.number, 0),)], [made]), read)
        leaving = asyncio.create_task(made.leave())
        worker.kill()
        await leaving
    assert made.holders == {}


async def test_a_region_that_is_left_stays_open_until_the_death_of_its_user_was_looked_into(
    folder, region: Make
) -> None:
    """A worker's link ends before its process has."""
    made = region(16)
    async with started(folder.load(*identity("FP32"))) as worker:
        os.kill(worker.pid, signal.SIGSTOP)
        asked = batch([(InputPart((1, 4), 16, Form.RAW, made.number, 0),)], [made])
        asking = asyncio.create_task(worker.infer(asked, read))
        await settle()
        leaving = asyncio.create_task(made.leave())
        await settle()
        os.truncate(made.descriptor, 0)
        with reaped_late(worker):
            os.kill(worker.pid, signal.SIGBUS)
            os.kill(worker.pid, signal.SIGCONT)
            await worker._link.lost
            await settle()
            assert not leaving.done()
        await leaving
        with pytest.raises(EdgedError) as raised:
            await asking
        assert raised.value.code is Code.WORKER_CRASHED
    assert made.fault.startswith("was shrunk"), "the region is charged, though it is gone already"
    assert worker.excused
    assert made.holders == {}


@contextlib.contextmanager
def reaped_late(worker: Any) -> Iterator[None]:
    """Meanwhile the end of its process is not seen."""
    loop, child = asyncio.get_running_loop(), worker._child
    loop.remove_reader(child._pidfd)
    try:
        yield
    finally:
        loop.add_reader(child._pidfd, child._reap)


async def test_a_worker_has_an_end_whatever_goes_wrong_about_it(folder, region: Make) -> None:
    made = region(16)
    met: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: met.append(context["exception"]))
    worker = await start(folder.load(*identity("FP32")), PATIENT)
    os.kill(worker.pid, signal.SIGSTOP)
    asked = batch([(InputPart((1, 4), 16, Form.RAW, made.number, 0),)], [made])
    asking = asyncio.create_task(worker.infer(asked, read))
    await settle()
    made.close()
    os.kill(worker.pid, signal.SIGBUS)
    os.kill(worker.pid, signal.SIGCONT)
    ended = await asyncio.wait_for(asyncio.shield(worker.ended), PATIENCE_S)
    assert ended.by_lost_memory
    with pytest.raises(EdgedError, match="killed by SIGBUS"):
        await asking
    assert [type(each) for each in met] == [OSError], "and the defect is told"


async def test_two_regions_of_a_batch_are_told_apart_when_the_kernel_ends_the_worker(folder, region: Make) -> None:
    """A model without a batch axis: its members are run one after the other, and the second is looked at late."""
    nodes = [
        *counting_nodes("turns"),
        helper.make_node("Cast", ["counted"], ["number"], to=1),
        helper.make_node("Add", ["x", "number"], ["y"]),
    ]
    inputs = [("turns", "INT64", [1]), ("x", "FP32", [-1])]
    load = folder.load(nodes, inputs, [("y", "FP32", [-1])], max_batch_size=0)
    bad, good = region(4 * PAGE), region(4 * PAGE)
    async with started(load) as worker:

        def member(turns: int, made: Region) -> tuple[tuple[InputPart, ...], bytes]:
            parts = (InputPart((1,), 8, Form.RAW), InputPart((PAGE,), 4 * PAGE, Form.RAW, made.number, 0))
            return parts, turns.to_bytes(8, "little")

        members = [member(A_WHILE * 3, good), member(1, bad)]
        asked = batch(
            [parts for parts, _ in members],
            [bad, good],
            inputs=("turns", "x"),
            contents=[[turns for _, turns in members], []],
        )
        asking = asyncio.create_task(worker.infer(asked, read))
        while worker.usage().cpu_s < 0.3:  # noqa: ASYNC110 - it counts: both are mapped, and neither was looked at
            await asyncio.sleep(0.01)
        os.truncate(bad.descriptor, 0)
        with pytest.raises(EdgedError) as raised:
            await asking
        assert raised.value.code is Code.WORKER_CRASHED
        assert (await worker.ended).by_lost_memory
    assert worker.excused
    assert (bad.fault != "", good.fault) == (True, "")


@pytest.mark.parametrize("datatype", ["BOOL", "INT32", "INT64", "BYTES"])
def test_what_engines_trust_once_seen_is_copied(folder, region: Make, pair, datatype: str) -> None:
    """A value that was checked, and could then be exchanged for an index beyond everything."""
    passing, mappings = pair
    load = folder.load(*identity(datatype))
    array = (
        np.array([[b"ab", b"c"]], object) if datatype == "BYTES" else np.ones((1, 2), codec.DTYPES[Datatype(datatype)])
    )
    data = bytes(codec.encode(array, Datatype(datatype)))
    made = region(len(data), content=data)
    passing.pass_on([made])
    model = Model(load)
    part = (InputPart((1, 2), len(data), Form.RAW, made.number, 0),)
    message = Infer(("x",), ("y",), [part], (-1,), ((-1, 0),))
    decoded = model._decode(message, [0], [memoryview(b"")], mappings)["x"][0]
    os.pwrite(made.descriptor, b"\xff" * len(data), 0)
    assert decoded.tolist() == array.tolist()


def test_all_else_is_read_where_it_lies(folder, region: Make, pair) -> None:
    passing, mappings = pair
    made = region(8, content=bytes(8))
    passing.pass_on([made])
    part = (InputPart((1, 8), 8, Form.RAW, made.number, 0),)
    message = Infer(("x",), ("y",), [part], (-1,), ((-1, 0),))
    decoded = Model(folder.load(*identity("UINT8")))._decode(message, [0], [memoryview(b"")], mappings)["x"][0]
    os.pwrite(made.descriptor, b"\x07" * 8, 0)
    assert decoded.tolist() == [[7] * 8]
