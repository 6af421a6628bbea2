"""The kernel's own stall triggers wake an event loop; so do the FIFO and the socket that systemd may name."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from sim.sysfs import Sysfs
from support import cgroups
from support.polling import PATIENCE_S

from edged.pressure import sensors_memory, stall
from edged.pressure.readings import Stall
from edged.pressure.stall import Triggers, Wanted

CPU = Path("/proc/pressure/cpu")
needs_pressure = pytest.mark.skipif(not CPU.exists(), reason="this kernel keeps no pressure stall information")
BUSY = "while True: pass"


def is_v2(folder: Path) -> bool:
    return (folder / "cgroup.controllers").exists()


def on(loop: str, part: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs it on an event loop of that kind."""
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(part())


async def first(wanted: Wanted, cause: Callable[[], None] = lambda: None) -> str:
    """The name of the trigger that fires first."""
    fired: asyncio.Queue[str] = asyncio.Queue()
    triggers = Triggers(fired.put_nowait)
    triggers.arm(wanted)
    try:
        assert triggers.failed == {}
        assert triggers.armed == {wanted.name}
        cause()
        async with asyncio.timeout(PATIENCE_S):
            return await fired.get()
    finally:
        triggers.close()


@needs_pressure
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_real_trigger_fires(loop: str):
    """More processes than processors want to run: some wait."""
    crowd = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range((os.cpu_count() or 1) + 1)]

    async def part() -> None:
        assert await first(Wanted("cpu.some", CPU, b"some 20000 2000000\0")) == "cpu.some"

    try:
        on(loop, part)
    finally:
        for process in crowd:
            process.kill()
            process.wait()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_fifo_as_systemd_may_name_one(loop: str, tmp_path: Path):
    fifo = tmp_path / "watch"
    os.mkfifo(fifo)

    def write() -> None:
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        os.write(descriptor, b"pressure")
        os.close(descriptor)

    async def part() -> None:
        assert await first(Wanted("memory.watch", fifo, b""), write) == "memory.watch"

    on(loop, part)


async def test_a_socket_as_systemd_may_name_one(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "watch"))
        listening.listen()
        peers: list[socket.socket] = []

        def write() -> None:
            peers.append(listening.accept()[0])
            assert peers[0].recv(64) == b"hello"
            peers[0].send(b"pressure")

        try:
            assert await first(Wanted("memory.watch", tmp_path / "watch", b"hello"), write) == "memory.watch"
        finally:
            for peer in peers:
                peer.close()


async def test_a_socket_whose_other_end_goes_is_watched_no_longer(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "watch"))
        listening.listen()
        triggers = Triggers(lambda name: pytest.fail(f"{name} fired"))
        triggers.arm(Wanted("memory.watch", tmp_path / "watch", b""))
        listening.accept()[0].close()
        async with asyncio.timeout(PATIENCE_S):
            while triggers.armed:  # noqa: ASYNC110 - nothing tells, since nothing fires
                await asyncio.sleep(0)
        assert "memory.watch" in triggers.failed


V2 = next((each for each in map(Path, ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")) if is_v2(each)), None)


@pytest.mark.skipif(V2 is None or not os.access(V2, os.W_OK), reason="no group of version 2 can be made here")
async def test_a_group_that_is_removed_is_watched_no_longer():
    assert V2 is not None
    group = V2 / f"edged-test-{os.getpid()}"
    os.mkdir(group)  # noqa: PTH102
    triggers = Triggers(lambda name: pytest.fail(f"{name} fired"))
    try:
        triggers.arm(Wanted("memory.some", group / "memory.pressure", b"some 200000 2000000\0"))
        assert triggers.armed == {"memory.some"}
    finally:
        os.rmdir(group)  # noqa: PTH106
    async with asyncio.timeout(PATIENCE_S):
        while triggers.armed:  # noqa: ASYNC110 - nothing tells, since nothing fires
            await asyncio.sleep(0.01)
    assert triggers.failed == {"memory.some": "its control group is gone"}


@needs_pressure
@pytest.mark.parametrize("line", [b"some 20000 2\0", b"any 1 2000000\0", b"some 20000 1000000000\0"])
async def test_a_line_that_the_kernel_refuses_is_told(line: bytes):
    triggers = Triggers(lambda _: None)
    triggers.arm(Wanted("cpu.some", CPU, line))
    assert triggers.armed == frozenset()
    assert "/proc/pressure/cpu" in triggers.failed["cpu.some"]


async def test_a_file_that_is_not_there_is_told(tmp_path: Path):
    triggers = Triggers(lambda _: None)
    triggers.arm(Wanted("io.some", tmp_path / "io", b"some 1 2000000"))
    assert "No such file" in triggers.failed["io.some"]


def test_no_descriptor_is_left(tmp_path: Path):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    async def part() -> None:
        triggers = Triggers(lambda _: None)
        for wanted in stall.wanted(Path("/"), sensors_memory.groups(Path("/")), {}):
            triggers.arm(wanted)
        assert triggers.armed or triggers.failed
        triggers.close()
        triggers.arm(Wanted("cpu.some", tmp_path, b"some"))

    on("asyncio", part)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


class TestWanted:
    def names(self, root: Path, **environment: str) -> dict[str, list[Wanted]]:
        found: dict[str, list[Wanted]] = {}
        for each in stall.wanted(root, sensors_memory.groups(root), environment):
            found.setdefault(each.name, []).append(each)
        return found

    def test_every_resource_of_the_system(self, tmp_path: Path):
        found = self.names(tmp_path)
        assert {each.path.name for wanted in found.values() for each in wanted} == {"cpu", "memory", "io"}
        windows = {int(each.line.rstrip(b"\0").split()[2]) for wanted in found.values() for each in wanted}
        assert all(window % 2_000_000 == 0 for window in windows), "as they must be without privileges"

    def test_the_own_control_group(self, tmp_path: Path):
        tree = Sysfs(tmp_path)
        mounts = "25 20 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
        tree.write({"proc/self/cgroup": "0::/edged", "proc/self/mountinfo": mounts})
        tree.write({"memory.pressure": "", "memory.max": "max"}, "sys/fs/cgroup/edged")
        paths = [each.path for each in self.names(tmp_path)["memory.full"]]
        assert paths == [tmp_path / "proc/pressure/memory", tmp_path / "sys/fs/cgroup/edged/memory.pressure"]

    @pytest.mark.parametrize("delegated", [b"1", None])
    def test_the_group_above_where_workers_have_groups_beside_the_own(self, delegated: bytes | None, tmp_path: Path):
        service = cgroups.tree(tmp_path, delegated=delegated)
        (tmp_path / "proc/self/mountinfo").write_text("25 20 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
        for group in (service, service / "front"):
            for resource in ("cpu", "memory", "io"):
                (group / f"{resource}.pressure").touch()
        within = {name: wanted[-1].path for name, wanted in self.names(tmp_path).items()}
        own = service if delegated else service / "front"
        assert within["memory.some"] == within["memory.full"] == own / "memory.pressure"
        assert within["io.some"] == own / "io.pressure"
        assert within["cpu.full"] == own / "cpu.pressure"
        assert within["cpu.some"] == tmp_path / "proc/pressure/cpu", "its own work makes its own wait"

    def test_what_systemd_names(self, tmp_path: Path):
        line = b"some 200000 2000000\0"
        write = base64.b64encode(line).decode()
        (found,) = self.names(tmp_path, MEMORY_PRESSURE_WATCH="/sys/w", MEMORY_PRESSURE_WRITE=write)["memory.watch"]
        assert found == Wanted("memory.watch", tmp_path / "sys/w", line)

    @pytest.mark.parametrize("watch", ["", "/dev/null"])
    def test_what_systemd_switches_off(self, watch: str, tmp_path: Path):
        assert "memory.watch" not in self.names(tmp_path, MEMORY_PRESSURE_WATCH=watch)

    @pytest.mark.parametrize("write", ["no base64!", "kein Maß"])
    def test_nonsense_from_the_environment(self, write: str, tmp_path: Path):
        found = self.names(tmp_path, MEMORY_PRESSURE_WATCH="/w", MEMORY_PRESSURE_WRITE=write)
        assert "memory.watch" not in found


class TestAverages:
    FILE = "some avg10={some} avg60=0.00 avg300=0.00 total=1\nfull avg10={full} avg60=0.00 avg300=0.00 total=1"

    def test_of_what_no_trigger_tells_and_of_nothing_else(self, tmp_path: Path):
        """A group's files are root's where systemd has delegated it; the system's may be written by all."""
        tree = Sysfs(tmp_path)
        tree.write({"system": self.FILE.format(some="30.00", full="2.50"), "own": self.FILE.format(some=90, full=4)})
        silent = [("cpu.full", tmp_path / "own"), ("memory.some", tmp_path / "system"), ("io.some", tmp_path / "none")]
        assert stall.averages(silent) == {"cpu": Stall(full_percent=4.0), "memory": Stall(some_percent=30.0)}

    def test_the_highest_of_several_files(self, tmp_path: Path):
        tree = Sysfs(tmp_path)
        tree.write({"one": self.FILE.format(some=3, full=2), "other": self.FILE.format(some=1, full=7)})
        kinds = [(f"memory.{kind}", tmp_path / file) for kind in ("some", "full") for file in ("one", "other")]
        assert stall.averages(kinds) == {"memory": Stall(3.0, 7.0)}

    def test_nonsense_is_absent(self, tmp_path: Path):
        Sysfs(tmp_path).write({"file": "some avg10= total\nfull"})
        assert stall.averages([("cpu.some", tmp_path / "file"), ("cpu.full", tmp_path / "file")]) == {}

    async def test_what_could_not_be_armed_is_to_be_read(self, tmp_path: Path):
        triggers = Triggers(lambda _: None)
        triggers.arm(Wanted("io.some", tmp_path / "io", b"some 1 2000000"))
        assert triggers.silent == {("io.some", tmp_path / "io")}

    @needs_pressure
    def test_of_this_machine(self):
        found = stall.averages(stall.system(Path("/")))
        assert set(found) == {"cpu", "memory", "io"}
        assert all(0 <= each.full_percent <= 100 for each in found.values())
