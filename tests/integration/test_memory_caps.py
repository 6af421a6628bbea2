"""The daemon in a delegated control group, where the kernel has the memory controller for it: elsewhere skipped."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from support import cgroups
from support.bundles import make_bundle
from support.calls import pack, refusal, request, tensor
from support.daemon import DIGITS, Daemon
from support.interpreter import hostile_interpreter

TRIGGER = 666.0
TENSORS = [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])]


@pytest.fixture
def inner() -> Iterator[Path]:
    yield from cgroups.delegated()


@pytest.fixture
def beside(inner: Path, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with digits and a model that allocates without end."""
    assert inner
    does = json.dumps({"does": "allocate"}).encode()
    caps = "caps = { memory_mib = 200 }\n"
    bundle = make_bundle(tmp_path / "hostile", does, *TENSORS, name="hostile", extra=caps, runtime="hostile")
    settings = "[workers]\nrestart_min_s = 0.05\n"
    with Daemon(tmp_path / "root", [DIGITS, bundle], settings, hostile_interpreter(tmp_path / "venv")) as daemon:
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        yield daemon


def groups(inner: Path) -> dict[str, list[int]]:
    """The groups of workers and who is in them."""
    found = inner.glob("worker-*")
    return {group.name: [int(pid) for pid in (group / "cgroup.procs").read_text().split()] for group in found}


def test_the_kernel_ends_a_worker_that_takes_too_much_and_nobody_else(beside: Daemon, inner: Path) -> None:
    before = {worker.model: worker for worker in beside.status().workers}
    assert all("held by the kernel" in worker.caps for worker in before.values())
    assert before["hostile"].caps.startswith("memory 200 MiB, held by the kernel")
    assert all(worker.charged_bytes > 2**18 for worker in before.values())
    assert sorted(groups(inner).values()) == sorted([worker.pid] for worker in before.values())
    with pytest.raises(grpc.RpcError) as raised:
        beside.infer(request("hostile", tensor("x", "FP32", [1, 2]), raw=[pack("FP32", [TRIGGER, 1.0])]))
    assert refusal(raised.value).code == "worker_crashed"
    assert "which had used up the memory of its cap of 200 MiB" in refusal(raised.value).message
    status = beside.wait_for(lambda status: status.ready and any(each.last_exit for each in status.workers))
    after = {worker.model: worker for worker in status.workers}
    assert after["digits"].pid == before["digits"].pid
    assert "which had used up the memory of its cap of 200 MiB (killed by SIGKILL)" in after["hostile"].last_exit
    assert sorted(groups(inner).values()) == sorted([worker.pid] for worker in after.values())


def test_groups_that_a_killed_daemon_left_are_gone_after_the_next_start(beside: Daemon, inner: Path) -> None:
    left = groups(inner)
    workers = [psutil.Process(pid) for pids in left.values() for pid in pids]
    beside.signal(signal.SIGKILL)
    assert beside.stop() == -signal.SIGKILL
    psutil.wait_procs(workers, 60)
    with Daemon(beside.root, interpreter=beside.root.parent / "venv/bin/python") as daemon:
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        assert not left.keys() & groups(inner).keys()
        assert len(groups(inner)) == 2
        assert daemon.stop() == 0
        assert groups(inner) == {}
