"""Tensors in shared memory: through tritonclient, past every mistake, and with an owner who shrinks it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from support import slow
from support.bundles import identity_bundle, sums_bundle
from support.calls import Refusal, refusal
from support.daemon import PATIENCE_S, REPO, Daemon
from support.descriptors import count
from support.polling import until

from edged._pb.edged.v1 import admin_pb2
from edged._pb.inference import grpc_service_pb2 as pb
from edged.client import SharedRegion
from edged.types import Datatype

PYTHON = REPO / ".venv-tritonclient/bin/python"
SERVICE = "inference.GRPCInferenceService"

tritonclient = pytest.mark.skipif(
    not PYTHON.exists(), reason="tritonclient is not installed: make .venv-tritonclient/.installed"
)


@pytest.fixture(scope="module")
def key() -> str:
    """What files of this run begin with."""
    return f"test-of-regions-{uuid.uuid4().hex}"


# Through tritonclient.


@pytest.fixture(scope="module")
def results(daemon: Daemon, key: str) -> Any:
    """What the script found, by case."""
    done = subprocess.run(
        [PYTHON, REPO / "tests/tritonclient/shared_memory.py", daemon.socket, key],
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@tritonclient
@pytest.mark.parametrize("datatype", [str(each) for each in Datatype])
def test_shared_arrays_come_back_to_the_bit(results: Any, datatype: str) -> None:
    wanted = {"same": True, "region": "out", "size": True, "shape": [2, 3], "raw": [0]}
    assert results["round_trip"][datatype] == wanted


ANSWERS = {
    "mixed": {"sum": True, "difference": {"same": True, "shape": [2, 3], "datatype": "FP32"}},
    "offset_of_a_region": [True, {"name": "part", "key": "its", "offset": "10001", "byte_size": "48"}],
    "status": [{"one": ["one", True, 100], "two": ["two", True, 200]}, ["two"], []],
    "own_region": {"mode": "0o660", "right": True, "gone": True},
    "unregister_all": [],
    "asynchronous": {"right": 8, "regions": ["many"]},
}


@tritonclient
@pytest.mark.parametrize("case", ANSWERS)
def test_shared_memory_is_what_tritonclient_thinks(results: Any, case: str) -> None:
    assert results[case] == ANSWERS[case]


UNUSABLE, INVALID = "StatusCode.FAILED_PRECONDITION", "StatusCode.INVALID_ARGUMENT"
NOT_FOUND = "StatusCode.NOT_FOUND"
NO_KEY = "is no key of shared memory; it is a slash and the name of a file in /dev/shm"
REFUSALS = {
    "link": (UNUSABLE, "region 'new': /dev/shm/KEY-link is a link"),
    "pipe": (UNUSABLE, "region 'new': /dev/shm/KEY-pipe is a pipe"),
    "folder": (UNUSABLE, "region 'new': /dev/shm/KEY-folder is a folder"),
    "taken name": ("StatusCode.ALREADY_EXISTS", "region 'known' is registered already"),
    "no file": (UNUSABLE, "region 'new': /dev/shm/KEY-none is not there; create it before it is registered"),
    "too short": (UNUSABLE, "region 'new' reaches to byte 97 of /dev/shm/KEY-known, which has 96 bytes"),
    "too short from its offset": (UNUSABLE, f"region 'new' reaches to byte {2**63 + 24} of /dev/shm/KEY-known"),
    "no byte": (INVALID, "region 'new' has no byte"),
    "no name": (INVALID, "'' is no name for a region; it takes 1 to 256 bytes"),
    "a long name": (INVALID, f"'{'n' * 64}' is no name for a region"),
    **{f"key {each!r}": (INVALID, f"{each!r} {NO_KEY}") for each in ("", "/", "..", "/../etc/passwd", "/a/b", "a\0b")},
    "key 'kkkkkkkkkkkkkkkkkkkk'": (INVALID, f"'{'k' * 64}' {NO_KEY}"),
    "unknown status": (NOT_FOUND, "no shared-memory region 'nobody' is registered; register it first"),
    "unknown region": (NOT_FOUND, "no shared-memory region 'nobody' is registered; register it first"),
    "unknown region for an output": (NOT_FOUND, "no shared-memory region 'nobody' is registered"),
    "wrong size": (INVALID, "model 'sums' got input 'b' with 20 bytes; FP32 of shape [2, 3] takes 24 bytes"),
    "beyond the end": (INVALID, "input 'b' reaches from byte 80 to 104 of region 'known', which has 96 bytes"),
    "far beyond the end": (INVALID, f"input 'b' reaches from byte {2**62} to {2**62 + 24} of region 'known'"),
    "output too small": (
        INVALID,
        "model 'sums', revision 1: output 'sum' takes 24 bytes, the request gives it 20 in shared memory",
    ),
    "shrunk": (UNUSABLE, "region 'known' reaches to byte 96 of /dev/shm/KEY-known, which has 50 bytes"),
    "bytes that lie": (
        INVALID,
        "model 'identity-bytes', revision 1: input 'x': element 0 is said to be 4294967295 bytes long, 4 are left",
    ),
}


@tritonclient
@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_shared_is_refused_in_words(results: Any, case: str) -> None:
    status, message = REFUSALS[case]
    found = results["refusals"][case]
    assert found["status"] == status
    assert found["message"].startswith(message), found["message"]


@tritonclient
def test_every_case_of_shared_memory_is_judged(results: Any) -> None:
    assert set(results) == set(ANSWERS) | {"round_trip", "refusals"}
    assert set(results["refusals"]) == set(REFUSALS) | {"grown again"}
    assert results["refusals"]["grown again"] is True


# The daemon's own calls.


def register(daemon: Daemon, name: str, key: str, size: int, offset: int = 0) -> None:
    asked = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=size)
    daemon.call(f"{SERVICE}/SystemSharedMemoryRegister", asked, pb.SystemSharedMemoryRegisterResponse)


def unregister(daemon: Daemon, name: str = "") -> None:
    asked = pb.SystemSharedMemoryUnregisterRequest(name=name)
    daemon.call(f"{SERVICE}/SystemSharedMemoryUnregister", asked, pb.SystemSharedMemoryUnregisterResponse)


def regions(daemon: Daemon) -> dict[str, admin_pb2.Region]:
    found = daemon.call(
        "edged.v1.Admin/ListRegions", admin_pb2.ListRegionsRequest(), admin_pb2.ListRegionsResponse, admin=True
    )
    return {each.name: each for each in found.regions}


def place(tensor: Any, region: str, size: int, offset: int = 0) -> None:
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    tensor.parameters["shared_memory_offset"].int64_param = offset


def identity(region: str, size: int, *, out: bool = False) -> pb.ModelInferRequest:
    """For identity-fp32, of one row."""
    asked = pb.ModelInferRequest(model_name="identity-fp32")
    asked.inputs.add(name="x", datatype="FP32", shape=[1, size // 4])
    place(asked.inputs[0], region, size)
    if out:
        asked.outputs.add(name="y")
        place(asked.outputs[0], region, size)
    return asked


def refused(call: Callable[[], Any]) -> Refusal:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return refusal(raised.value)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon of the test's own."""
    made = [
        identity_bundle(tmp_path, "FP32"),
        sums_bundle(tmp_path),
        slow.waiting_bundle(tmp_path),
        slow.waiting_bundle(tmp_path, name="waits-alone", max_batch_size=0),
    ]
    with Daemon(tmp_path / "root", made, "[workers]\ninference_s = 300\n") as started:  # what takes long is no hang
        started.start()
        started.wait_for(lambda status: status.ready)
        yield started


def worker(daemon: Daemon, model: str) -> psutil.Process:
    (found,) = (each for each in daemon.status().workers if each.model == model)
    return psutil.Process(found.pid)


def mapped(process: psutil.Process, key: str) -> int:
    """How many mappings of a file a process has."""
    return Path(f"/proc/{process.pid}/maps").read_text().count(key)


def test_regions_are_listed_with_their_owner_and_their_use(own: Daemon, key: str) -> None:
    with SharedRegion(key, 4096, group=None) as region:
        os.chown(f"/dev/shm/{key}", 1234, 4321)
        register(own, "frames", region.key, 1024, 512)
        own.infer(identity("frames", 400))
        own.infer(identity("frames", 400, out=True))
        found = regions(own)["frames"]
        pid = worker(own, "identity-fp32").pid
        wanted = admin_pb2.Region(
            name="frames",
            key=region.key,
            offset=512,
            byte_size=1024,
            file_bytes=4096,
            user_id=1234,
            group_id=4321,
            mode=0o660,
            requests=2,
            worker_pids=[pid],
        )
        assert found == wanted
        done = subprocess.run(
            [sys.executable, "-m", "edged.ctl.main", "--root", str(own.root), "regions"],
            check=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        head, line = done.stdout.splitlines()
        assert head.split() == ["NAME", "KEY", "OFFSET", "BYTES", "OWNER", "MODE", "REQUESTS", "WORKERS"]
        assert line.split() == ["frames", region.key, "512", "1024", "1234:4321", "0660", "2", str(pid)]
        unregister(own, "frames")
        assert regions(own) == {}


def test_regions_are_bounded_in_number(own: Daemon, key: str) -> None:
    with SharedRegion(key, 4096, group=None) as region:
        for number in range(200):
            register(own, str(number), region.key, 8, number)
        status, code, message = refused(lambda: register(own, "one more", region.key, 8))
        assert (status, code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
        assert message == "200 regions are registered, which is all there may be; unregister some"
        unregister(own, "7")
        register(own, "one more", region.key, 8)
        unregister(own)
        assert count(key, own.pid) == 0


@pytest.mark.parametrize("times", [pytest.param(100, id="100"), pytest.param(1000, id="1000", marks=pytest.mark.slow)])
def test_what_is_unregistered_leaves_no_descriptor_and_no_mapping(own: Daemon, key: str, times: int) -> None:
    process = worker(own, "identity-fp32")
    unregister(own)  # so that the connection is there
    held = (process.num_fds(), psutil.Process(own.pid).num_fds())
    with SharedRegion(key, 4096, group=None) as region:
        np.ndarray(1, np.float32, region.buf)[0] = 2.5
        for number in range(times):
            name = f"region-{number % 3}"
            register(own, name, region.key, 4096)
            if number % 2:
                own.infer(identity(name, 4, out=True))
            unregister(own, name)
            assert mapped(process, key) == 0
        assert (process.num_fds(), psutil.Process(own.pid).num_fds()) == held
        assert (count(key, own.pid), count(key, process.pid)) == (0, 0)
        assert np.ndarray(1, np.float32, region.buf)[0] == 2.5


# An owner who does not keep still.


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


def waits(model: str, region: str, turns: int, size: int = 65536) -> pb.ModelInferRequest:
    """For a model that counts to `turns` before it looks at `x`, which lies in a region."""
    asked = pb.ModelInferRequest(model_name=model)
    asked.inputs.add(name="turns", datatype="INT64", shape=[1, 1]).contents.int64_contents.append(turns)
    asked.inputs.add(name="x", datatype="FP32", shape=[1, size // 4])
    place(asked.inputs[1], region, size)
    return asked


def of_model(daemon: Daemon, name: str) -> admin_pb2.Model:
    (found,) = (each for each in daemon.status().models if each.name == name)
    return found


def until_has(daemon: Daemon, model: str, **requests: int) -> None:
    """Waits until a model has so many: what queues do is no change of the status, and so cannot be watched."""
    until(
        lambda: of_model(daemon, model),
        f"{model} has {requests}",
        holds=lambda found: all(getattr(found, name) == count for name, count in requests.items()),
        log=daemon.log,
    )


def until_it_computes(daemon: Daemon, model: str, requests: int = 1) -> None:
    """Waits until a worker is busy with so many requests, and past whatever comes before the counting."""
    until_has(daemon, model, executing=requests)
    process = worker(daemon, model)
    before = process.cpu_times().user
    until(lambda: process.cpu_times().user, "it computes", holds=lambda now: now > before + 0.1, log=daemon.log)


def test_a_region_that_shrinks_under_a_worker_is_charged_and_not_the_model(
    own: Daemon, key: str, pool: ThreadPoolExecutor
) -> None:
    for attempt in range(2):
        with SharedRegion(f"{key}-{attempt}", 65536, group=None) as region:
            name = f"frames-{attempt}"
            register(own, name, region.key, 65536)
            asked = pool.submit(own.infer, waits("waits-alone", name, slow.A_WHILE * 5))
            until_it_computes(own, "waits-alone")
            os.truncate(f"/dev/shm{region.key}", 0)
            own.infer(request_for_sums())
            status, code, message = refused(asked.result)
            assert (status, code) == (grpc.StatusCode.FAILED_PRECONDITION, "region_unusable")
            assert f"region {name!r} was shrunk while the model's worker used it" in message
            again = refused(lambda name=name: own.infer(identity(name, 4)))
            assert (again.code, "was shrunk" in again.message) == ("region_unusable", True)
            os.truncate(f"/dev/shm{region.key}", 65536)
            assert refused(lambda name=name: own.infer(identity(name, 4))).code == "region_unusable", "once is enough"
            assert "was shrunk" in regions(own)[name].fault
            unregister(own, name)
    status = own.wait_for(lambda status: status.ready)
    restarts = {each.model: each.restarts for each in status.workers}
    assert restarts == {"identity-fp32": 0, "sums": 0, "waits": 0, "waits-alone": 2}
    ended = [each.details["restart_s"] for each in own.events("worker_crashed")]
    assert ended == ["0.0", "0.0"], "deaths in a row, of which none counts"


def request_for_sums() -> pb.ModelInferRequest:
    asked = pb.ModelInferRequest(model_name="sums", raw_input_contents=[bytes(12)] * 2)
    for name in ("a", "b"):
        asked.inputs.add(name=name, datatype="FP32", shape=[1, 3])
    return asked


def test_the_other_members_of_its_batch_are_answered(own: Daemon, key: str, pool: ThreadPoolExecutor) -> None:
    """What a batch has is joined in microseconds, too soon for an owner: the kernel's signal is sent here by hand."""
    with SharedRegion(key, 65536, group=None) as bad, SharedRegion(f"{key}-good", 65536, group=None) as good:
        np.ndarray(16384, np.float32, good.buf)[:] = 3
        register(own, "bad", bad.key, 65536)
        register(own, "good", good.key, 65536)
        first = pool.submit(own.infer, waits("waits", "good", slow.A_WHILE))
        until_has(own, "waits", executing=1)
        together: list[Future[Any]] = [
            pool.submit(own.infer, waits("waits", name, slow.A_WHILE * 5)) for name in ("bad", "good")
        ]
        until_it_computes(own, "waits", 2)
        os.truncate(f"/dev/shm{bad.key}", 4096)
        worker(own, "waits").send_signal(signal.SIGBUS)
        status, code, message = refused(together[0].result)
        assert (status, code, "region 'bad' was shrunk" in message) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "region_unusable",
            True,
        )
        for answer in (first.result(), together[1].result()):
            assert set(np.frombuffer(answer.raw_output_contents[0], np.float32)) == {3}
        assert not regions(own)["good"].fault
        unregister(own)


def test_a_region_without_memory_is_charged_when_it_has_ended_two_workers(
    own: Daemon, key: str, pool: ThreadPoolExecutor
) -> None:
    """As where /dev/shm is full. It could be anything, once; so the request is tried again, alone."""
    with SharedRegion(key, 65536, group=None) as region:
        register(own, "frames", region.key, 65536)
        asked = pool.submit(own.infer, waits("waits", "frames", slow.A_WHILE * 5))
        seen = set()
        for _ in range(2):
            own.wait_for(lambda status: status.ready)
            until_it_computes(own, "waits")
            process = worker(own, "waits")
            assert not regions(own)["frames"].fault
            seen.add(process.pid)
            process.send_signal(signal.SIGBUS)
            process.wait(PATIENCE_S)
        assert len(seen) == 2
        status, code, message = refused(asked.result)
        assert (status, code) == (grpc.StatusCode.FAILED_PRECONDITION, "region_unusable")
        assert "region 'frames' had no memory behind it" in message
        status = own.wait_for(lambda status: status.ready)
        assert {each.model: each.restarts for each in status.workers}["waits"] == 2
        unregister(own)


def test_unregistering_waits_for_those_who_use_it(own: Daemon, key: str, pool: ThreadPoolExecutor) -> None:
    with SharedRegion(key, 65536, group=None) as region:
        np.ndarray(16384, np.float32, region.buf)[:] = 7
        register(own, "frames", region.key, 65536)
        asked = pool.submit(own.infer, waits("waits-alone", "frames", slow.A_WHILE * 3))
        until_it_computes(own, "waits-alone")
        waiting = pool.submit(own.infer, waits("waits-alone", "frames", 1))
        until_has(own, "waits-alone", queued=1)
        unregister(own, "frames")
        assert of_model(own, "waits-alone").requests_ok == 1, "it was answered first"
        assert mapped(worker(own, "waits-alone"), key) == 0
        register(own, "frames", region.key, 65536)
        assert set(np.frombuffer(asked.result().raw_output_contents[0], np.float32)) == {7}
        assert refused(waiting.result).code == "region_not_found"
        unregister(own)


# A user of its own.


def test_a_file_that_edged_may_not_open_is_answered_with_what_to_do(tmp_path: Path, key: str) -> None:
    """The daemon runs without root's way past permissions, as its service does."""
    restricted = tmp_path / "python"
    drop = "-dac_override,-dac_read_search"
    restricted.write_text(f'#!/bin/sh\nexec setpriv --bounding-set={drop} --inh-caps={drop} {sys.executable} "$@"\n')
    restricted.chmod(0o755)
    (tmp_path / "root").mkdir()
    with (
        SharedRegion(key, 4096, group=None) as region,
        Daemon(tmp_path / "root", [identity_bundle(tmp_path, "FP32")], interpreter=restricted) as daemon,
    ):
        path = Path("/dev/shm", key)
        os.chown(path, 1234, 4321)
        path.chmod(0o600)
        daemon.start()
        status, code, message = refused(lambda: register(daemon, "frames", region.key, 4096))
        assert (status, code) == (grpc.StatusCode.FAILED_PRECONDITION, "region_unusable")
        assert message == (
            f"region 'frames': {path} belongs to user 1234 and group 4321 with mode 0600, and edged, which is user "
            f"{os.geteuid()}, may not open it to read and write; when it is made, `chgrp edged {path} && chmod 660 "
            f"{path}`, or make it with edged.client.SharedRegion: see docs/shared-memory.md"
        )
        os.chown(path, -1, os.getegid())
        path.chmod(0o660)
        register(daemon, "frames", region.key, 4096)
        assert daemon.infer(identity("frames", 400)).raw_output_contents[0] == bytes(400)


# The page.


def blocks(page: Path) -> Sequence[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@tritonclient
def test_what_the_page_shows_runs(daemon: Daemon, key: str) -> None:
    """With a group that there is, and names that are nobody else's."""
    own, unmodified = blocks(REPO / "docs/shared-memory.md")
    code = (
        "import edged.client\nedged.client.SharedRegion.__init__.__kwdefaults__['group'] = None\n"
        + own
        + unmodified
        + "print(client.get_system_shared_memory_status(as_json=True)['regions']['frames']['key'])\n"
        + "client.unregister_system_shared_memory()\nshm.destroy_shared_memory_region(handle)\n"
    )
    for shown, here in (
        ("/run/edged/edged.sock", str(daemon.socket)),
        ('group="edged"', f"group={os.getegid()}"),
        ('SharedRegion("sums"', f'SharedRegion("{key}-sums"'),
        ("/frames", f"/{key}-frames"),
    ):
        assert shown in code
        code = code.replace(shown, here)
    done = subprocess.run(
        [PYTHON, "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["[[5. 7. 9.]]", f"/{key}-frames"]
