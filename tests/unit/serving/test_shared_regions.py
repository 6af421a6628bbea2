"""The registry of regions, and what becomes of requests whose region is gone, short or to blame."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.descriptors import held
from support.queueing import FAR_S, Bench, code
from support.standins import as_it_is, call, settle

from edged.client import SharedRegion
from edged.errors import Code, EdgedError
from edged.serving import regions as under_test
from edged.serving.admission import admit
from edged.serving.overload import Bounds
from edged.serving.regions import Regions
from edged.serving.request import Asked, Call, Contents, Place
from edged.worker.messages import Form, Target
from edged.worker.regions import Region


@pytest.fixture
def regions() -> Iterator[Regions]:
    made = Regions()
    yield made
    made.close()


@pytest.fixture
def file() -> Iterator[SharedRegion]:
    with SharedRegion(f"test-of-regions-{uuid.uuid4().hex}", 4096, group=None) as made:
        yield made


@pytest.fixture
async def bench():
    made = Bench(Bounds(100, 10_000), None)
    yield made
    await made.end()


def placed(place: Place | None, *outputs: Asked) -> Call:
    """A request of one row whose input lies there."""
    contents = (Contents(Form.RAW, (), -1, place),) if place else call().contents
    return msgspec.structs.replace(call(), contents=contents, outputs=outputs)


def send(bench: Bench, regions: Regions, request: Call) -> asyncio.Task[Any]:
    """A caller of the queue, as the service sends it."""
    admitted = admit(bench.resident.manifest, request)
    shared = regions.resolve(request, len(admitted.outputs))
    deadline = asyncio.get_running_loop().time() + FAR_S
    caller = asyncio.create_task(bench.queue.run(admitted, request.contents, deadline, as_it_is, 1, shared))
    bench.callers.append(caller)
    return caller


def error(function: Any, *arguments: Any) -> EdgedError:
    with pytest.raises(EdgedError) as raised:
        function(*arguments)
    return raised.value


def test_what_is_refused_leaves_nothing_open(regions: Regions, file: SharedRegion) -> None:
    regions.register("a", file.key, 0, 100)
    before = held()
    for arguments in (("a", file.key, 0, 8), ("b", file.key, 4090, 8), ("b", "/none", 0, 8), ("b", file.key, 0, 0)):
        error(regions.register, *arguments)
        assert held() == before, arguments
    assert [each.name for each in regions.all()] == ["a"]


def test_a_device_in_shared_memory_is_not_opened(regions: Regions) -> None:
    path = Path("/dev/shm", f"test-of-regions-{uuid.uuid4().hex}")
    try:
        os.mknod(path, 0o20600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("may make no device")
    try:
        assert f"{path} is a device" in error(regions.register, "a", path.name, 0, 8).message
    finally:
        path.unlink()


def test_a_file_that_is_exchanged_for_a_pipe_is_noticed(
    regions: Regions, file: SharedRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("/dev/shm", file.key.lstrip("/"))
    stat = os.stat

    def slow(name: Any, **options: Any) -> os.stat_result:
        found = stat(name, **options)
        path.unlink()
        os.mkfifo(path)
        return found

    monkeypatch.setattr(under_test.os, "stat", slow)
    before = held().keys()
    assert "was exchanged just now" in error(regions.register, "a", file.key, 0, 8).message
    assert held().keys() == before


def test_one_for_a_link_is_not_followed(
    regions: Regions, file: SharedRegion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("/dev/shm", file.key.lstrip("/"))
    (tmp_path / "secret").write_bytes(bytes(100))
    stat = os.stat

    def slow(name: Any, **options: Any) -> os.stat_result:
        found = stat(name, **options)
        path.unlink()
        path.symlink_to(tmp_path / "secret")
        return found

    monkeypatch.setattr(under_test.os, "stat", slow)
    assert "cannot be opened" in error(regions.register, "a", file.key, 0, 8).message


AS_ANOTHER = """\
import os, sys
from edged.errors import EdgedError
from edged.serving.regions import Regions
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    Regions().register("a", sys.argv[1], 0, 8)
except EdgedError as error:
    sys.exit(f"{error.code}: {error}")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a file of one user, opened by another")
@pytest.mark.parametrize("mode", [0o660, 0o640, 0o600, 0o460])
def test_another_user_may_open_what_its_group_may_read_and_write(file: SharedRegion, mode: int) -> None:
    path = Path("/dev/shm", file.key.lstrip("/"))
    os.chown(path, 1234, 65534)
    path.chmod(mode)
    done = subprocess.run([sys.executable, "-c", AS_ANOTHER, file.key], check=False, capture_output=True, text=True)
    if mode & 0o060 == 0o060:
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.stderr.startswith(
            f"region_unusable: region 'a': {path} belongs to user 1234 and group 65534 with mode {mode:04o}, and "
            "edged, which is user 65534, may not open it to read and write; "
        )
        assert f"`chgrp edged {path} && chmod 660 {path}`" in done.stderr


def test_places_become_spots(regions: Regions, file: SharedRegion) -> None:
    regions.register("a", file.key, 16, 100)
    regions.register("b", file.key, 0, 8)
    found = regions.resolve(placed(Place("a", 8, 8), Asked("y", place=Place("b", 1, 7)), Asked("z")), 2)
    assert found is not None
    a, b = regions.all()
    assert found.regions == (a, b)
    assert [spot and spot.where for spot in found.inputs] == [(a.number, 8)]
    assert found.targets == (Target(b.number, 1, 7), None)
    assert (a.requests, b.requests) == (1, 1)


def test_who_names_none_has_none(regions: Regions) -> None:
    assert regions.resolve(call(), 1) is None


def test_outputs_that_nobody_asked_for_by_name_go_nowhere(regions: Regions, file: SharedRegion) -> None:
    regions.register("a", file.key, 0, 100)
    found = regions.resolve(placed(Place("a", 0, 8)), 3)
    assert found is not None
    assert (found.outputs, found.targets) == ((None,) * 3, ())


@pytest.mark.parametrize("place", [Place("a", 93, 8), Place("a", 101, 0), Place("a", 2**62, 2**62)])
def test_a_place_beyond_its_region_is_refused_and_does_not_count(
    regions: Regions, file: SharedRegion, place: Place
) -> None:
    regions.register("a", file.key, 0, 100)
    found = error(regions.resolve, placed(place), 1)
    assert (found.code, regions.all()[0].requests) == (Code.INVALID_ARGUMENT, 0)


async def test_unregistering_none_is_no_error(regions: Regions) -> None:
    await regions.unregister("nobody")
    await regions.unregister("")


async def test_a_name_is_free_while_the_region_is_still_left(regions: Regions, file: SharedRegion) -> None:
    regions.register("a", file.key, 0, 100)
    old = regions.find("a")
    let_go = asyncio.Event()

    async def unmap(_: Region) -> None:
        await let_go.wait()

    old.holders[1] = unmap
    leaving = asyncio.create_task(regions.unregister("a"))
    await settle()
    regions.register("a", file.key, 0, 50)
    assert not leaving.done()
    assert os.fstat(old.descriptor).st_size == 4096, "its size may still be asked for"
    let_go.set()
    await leaving
    assert old.gone
    assert regions.find("a").size == 50


@pytest.mark.parametrize("again", ["a", ""], ids=["by name", "all"])
async def test_whoever_unregisters_again_waits_as_well(regions: Regions, file: SharedRegion, again: str) -> None:
    """Its caller may have lost patience with the first answer, and takes the second for what it says."""
    regions.register("a", file.key, 0, 100)
    let_go = asyncio.Event()

    async def unmap(_: Region) -> None:
        await let_go.wait()

    regions.find("a").holders[1] = unmap
    first = asyncio.create_task(regions.unregister("a"))
    await settle()
    first.cancel()
    second = asyncio.create_task(regions.unregister(again))
    await settle()
    assert not second.done()
    await regions.unregister("another")
    let_go.set()
    await second
    await regions.unregister(again)


async def test_a_worker_that_does_not_let_go_is_told(
    regions: Regions, file: SharedRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "_LEAVE_S", 0.01)
    regions.register("a", file.key, 0, 100)
    let_go = asyncio.Event()

    async def unmap(_: Region) -> None:
        await let_go.wait()

    regions.find("a").holders[1] = unmap
    with pytest.raises(EdgedError, match="1 of the regions are still in use") as raised:
        await regions.unregister("")
    assert raised.value.code is Code.WORKER_HANG
    let_go.set()
    await settle()


async def test_what_lies_in_a_region_takes_no_place_in_the_queue(bench, regions: Regions, file: SharedRegion) -> None:
    bench.queue.bounds = Bounds(100, 16)
    regions.register("a", file.key, 0, 100)
    await bench.busy()
    waiting = [send(bench, regions, placed(Place("a", 0, 8))) for _ in range(5)]
    await settle()
    assert not any(caller.done() for caller in waiting)


async def test_the_worker_is_told_where_everything_lies(bench, regions: Regions, file: SharedRegion) -> None:
    regions.register("a", file.key, 0, 100)
    send(bench, regions, placed(None))
    send(bench, regions, placed(Place("a", 4, 8), Asked("y", place=Place("a", 50, 10))))
    await settle()
    (asked,) = bench.worker.asked
    (region,) = regions.all()
    assert asked.batch.regions == (region,)
    assert [(part.region, part.offset, part.size) for (part,) in asked.batch.members] == [
        (0, 0, 8),
        (region.number, 4, 8),
    ]
    assert asked.batch.targets == ((), (Target(region.number, 50, 10),))
    assert asked.batch.contents == [[bytes(8)]]


async def test_a_request_that_waited_while_its_region_went_is_told(bench, regions: Regions, file: SharedRegion) -> None:
    regions.register("a", file.key, 0, 100)
    first = await bench.busy()
    caller, other = send(bench, regions, placed(Place("a", 0, 8))), bench.send()
    await settle()
    await regions.unregister("a")
    bench.answer_all()
    await settle()
    bench.answer_all()
    await settle()
    assert code(caller) is Code.REGION_NOT_FOUND
    assert (await first).outputs
    assert (await other).outputs


async def test_a_region_that_has_become_short_is_told_before_the_worker_sees_it(
    bench, regions: Regions, file: SharedRegion
) -> None:
    regions.register("a", file.key, 0, 100)
    await bench.busy()
    caller = send(bench, regions, placed(Place("a", 0, 8)))
    await settle()
    os.truncate(f"/dev/shm{file.key}", 99)
    bench.answer_all()
    await settle()
    assert code(caller) is Code.REGION_UNUSABLE
    assert len(bench.worker.asked) == 1


async def test_of_a_batch_that_died_of_a_region_all_others_are_tried_again(
    bench, regions: Regions, file: SharedRegion
) -> None:
    for name in ("bad", "good"):
        regions.register(name, file.key, 0, 100)
    bad, good, plain = (
        send(bench, regions, placed(place)) for place in (Place("bad", 0, 8), Place("good", 0, 8), None)
    )
    await settle()
    (asked,) = bench.worker.asked
    assert len(asked.batch.members) == 3
    bench.resident.comes_back()
    bench.worker.excused = True
    regions.find("bad").fault = "was shrunk"
    asked.fail()
    await settle()
    assert code(bad) is Code.REGION_UNUSABLE
    assert bench.worker.excused
    next_ = bench.resident.is_back()
    for caller in (good, plain):
        await settle()
        next_.asked[-1].answer()
        await settle()
        assert caller.done()
    assert [len(each.batch.members) for each in next_.asked] == [1, 1]
