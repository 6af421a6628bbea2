"""Workers' control groups: where they can be had, what is written there, and what is left behind. On a laid-out tree
for what is only files, and on the kernel's own for what it does."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import cgroups
from support.descriptors import there
from support.polling import PATIENCE_S

from edged.worker import cgroup
from edged.worker.cgroup import Group, Groups

# One child that stays, and one that leaves its parent, its session and its group.
FORKS = """
import os, signal, sys
if os.fork() and os.fork():
    print(flush=True)
elif os.fork() == 0:
    os.setsid()
signal.pause()
"""


@pytest.fixture
def real() -> Iterator[Path]:
    yield from cgroups.real_folder()


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in folder.iterdir()}


# Where they can be had.


def test_a_delegated_group_is_divided(tmp_path):
    inner = cgroups.tree(tmp_path)
    groups = Groups.find(tmp_path)
    assert groups.why_not == ""
    group = groups.place(4242, 400 * 2**20)
    assert group.folder.parent == inner
    assert content(group.folder) == {
        "memory.max": str(400 * 2**20),
        "memory.oom.group": "1",
        "memory.swap.max": "0",
        "pids.max": "1024",
        "cgroup.procs": "4242",
    }
    other = groups.place(4243, 2**20)
    assert other.folder != group.folder


def test_a_worker_is_bounded_before_it_is_there(tmp_path, monkeypatch):
    cgroups.tree(tmp_path)
    written = []
    monkeypatch.setattr(Group, "set", lambda _, name, value: written.append((name, value)))
    Groups.find(tmp_path).place(4242, 2**20)
    assert written[-1] == ("cgroup.procs", 4242)
    assert ("memory.max", 2**20) in written[:-1]


@pytest.mark.parametrize(
    ("controllers", "on", "written"),
    [
        ("memory pids", "pids", "+memory"),
        ("memory pids", "memory", "+pids"),
        ("memory pids", "memory pids", "memory pids"),
        ("memory", "memory", "memory"),
        ("memory", "", "+memory"),
    ],
)
def test_controllers_that_are_off_are_switched_on(tmp_path, controllers, on, written):
    inner = cgroups.tree(tmp_path, controllers=controllers, on=on)
    assert Groups.find(tmp_path).why_not == ""
    assert (inner / "cgroup.subtree_control").read_text().strip() == written


@pytest.mark.parametrize(
    ("options", "why_not"),
    [
        ({"controllers": "cpu pids"}, "no delegated memory controller"),
        ({"delegated": None}, "no delegated control group; Delegate= and DelegateSubgroup= of the unit give one"),
        ({"delegated": b"0"}, "no delegated control group; Delegate= and DelegateSubgroup= of the unit give one"),
    ],
)
def test_what_is_not_delegated_is_left_alone(tmp_path, options, why_not):
    inner = cgroups.tree(tmp_path, on="", **options)
    groups = Groups.find(tmp_path)
    assert groups.why_not == why_not
    with pytest.raises(OSError, match="delegated"):
        groups.place(4242, 2**20)
    assert (inner / "cgroup.subtree_control").read_text() == "\n"
    assert [path.name for path in inner.iterdir() if path.is_dir()] == ["front"]


@pytest.mark.parametrize("own", ["0::/\n", "4:memory:/x\n", "", "0::/../../other\n"])
def test_a_process_without_a_group_of_its_own_has_none_to_give(tmp_path, own):
    cgroups.tree(tmp_path)
    (tmp_path / "proc/self/cgroup").write_text(own)
    assert Groups.find(tmp_path).why_not == "not in a control group of its own"


def test_a_machine_without_cgroup_v2_has_none(tmp_path):
    assert Groups.find(tmp_path).why_not == "no cgroup v2"


def test_a_controller_that_cannot_be_switched_on_is_a_reason(tmp_path):
    inner = cgroups.tree(tmp_path, on="")
    (inner / "cgroup.subtree_control").unlink()
    (inner / "cgroup.subtree_control").mkdir()
    found = Groups.find(tmp_path).why_not
    assert found == f"{inner / 'cgroup.subtree_control'}: Is a directory"


# What the kernel says of them.


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ("low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\noom_group_kill 0\n", ""),
        (
            "max 12\noom 1\noom_kill 1\noom_group_kill 1\n",
            "the kernel ended the worker, which had used up the memory of its cap of 400 MiB",
        ),
        (
            "max 12\noom 1\noom_kill 3\n",
            "the kernel ended the worker, which had used up the memory of its cap of 400 MiB",
        ),
        (
            "max 0\noom 0\noom_kill 1\noom_group_kill 0\n",
            "the kernel ended the worker within its cap of 400 MiB: the device, or edged as a whole, was out of memory",
        ),
        ("nonsense\n", ""),
        ("oom many\n", ""),
    ],
)
def test_a_death_for_want_of_memory_is_told(tmp_path, events, said):
    (tmp_path / "memory.events").write_text(events)
    assert Group(tmp_path, 400 * 2**20).death() == said


def test_what_is_charged_is_read(tmp_path):
    group = Group(tmp_path, 2**30)
    assert (group.taken_bytes, group.death()) == (0, "")
    (tmp_path / "memory.current").write_text("4096\n")
    assert group.taken_bytes == 4096


# Their end.


async def test_a_group_that_cannot_be_removed_yet_is_removed_later(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroup, "_REMOVE_AGAIN_S", (0.001,))
    cgroups.tree(tmp_path)
    groups = Groups.find(tmp_path)
    first, second = groups.place(1, 2**20), groups.place(2, 2**20)
    for group in (first, second):
        groups.remove(group)
        assert (group.folder / "cgroup.kill").read_text() == "1"
        assert group.folder.exists()
    cgroups.forget(first.folder)
    async with asyncio.timeout(PATIENCE_S):
        while first.folder.exists():  # noqa: ASYNC110 - folders tell nobody
            await asyncio.sleep(0.001)
    cgroups.forget(second.folder)
    groups.place(3, 2**20)  # the tries on its own are over
    assert not second.folder.exists()


def test_what_an_earlier_daemon_left_is_ended_and_removed(tmp_path):
    inner = cgroups.tree(tmp_path)
    left, empty = inner / "worker-1-1", inner / "worker-1-2"
    (left / "below").mkdir(parents=True)
    (left / "memory.max").write_text("1")
    empty.mkdir()
    groups = Groups.find(tmp_path)
    assert (left / "cgroup.kill").read_text() == "1"
    assert not (left / "below").exists()
    assert not empty.exists() or content(empty) == {"cgroup.kill": "1"}
    for group in (left, empty):
        cgroups.forget(group)
    groups.place(4242, 2**20)
    assert not left.exists()
    assert not empty.exists()
    assert (inner / "front").exists()


def test_where_a_bound_cannot_be_set_nothing_is_moved_and_nothing_stays(real):
    """A real group without the memory controller."""
    if "memory" in (real / "cgroup.controllers").read_text().split():
        pytest.skip("groups made here have the memory controller")
    groups = Groups(real)
    with pytest.raises(OSError, match=r"memory\.max"):
        groups.place(os.getpid(), 2**20)
    assert [path for path in real.iterdir() if path.is_dir()] == []


@pytest.fixture
def forking() -> Iterator[subprocess.Popen[bytes]]:
    """A process that forks once it has read a line."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", f"input()\n{FORKS}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


async def test_what_a_worker_forked_goes_with_its_group(real, forking):
    """Whatever it left: parent, session, process group."""
    groups = Groups(real)
    group = Group(real / "worker-1-1", 2**20)
    group.folder.mkdir()
    group.set("cgroup.procs", forking.pid)
    forking.stdin.write(b"\n")
    forking.stdin.flush()
    forking.stdout.readline()
    async with asyncio.timeout(PATIENCE_S):
        while len(pids := (group.folder / "cgroup.procs").read_text().split()) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    groups.remove(group)
    forking.wait()
    psutil.wait_procs([psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))], PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        while group.folder.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert not [pid for pid in pids if there(int(pid))]


def test_leftovers_with_processes_are_ended(real):
    left = Group(real / "worker-1-1", 2**20)
    left.folder.mkdir()
    with subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) as process:
        left.set("cgroup.procs", process.pid)
        Groups(real)
        assert process.wait(PATIENCE_S) == -9
    Groups(real)
    assert not left.folder.exists()
