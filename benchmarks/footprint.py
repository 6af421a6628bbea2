"""What edged costs when nothing is asked: its start, its memory with 1, 2 and 4 models, and its idling."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import procfs
from benchmarks.models import Model
from benchmarks.processes import Cores
from benchmarks.servers import Edged

COUNTS = (1, 2, 4)
TEMPLATE = "edged.worker.template"

# What a start leaves behind is over by then.
SETTLE_S = 2.0


class Worker(msgspec.Struct, frozen=True):
    """One worker process, and the size of the file of its model."""

    model: str
    model_bytes: int
    memory: procfs.Memory


class Held(msgspec.Struct, frozen=True):
    """Memory of edged with some small models loaded and nothing asked."""

    models: int
    front: procfs.Memory
    template: procfs.Memory | None
    workers: list[Worker]
    others: dict[str, procfs.Memory]
    """What is neither, by command line."""


class Idle(msgspec.Struct, frozen=True):
    """What one process did while nothing was asked."""

    process: str
    cpu_percent: float
    """Of one core."""
    wakes_per_s: float
    """Voluntary context switches of all its threads."""
    busiest_wakes_per_s: float
    """Those of the thread that had most."""
    busiest: str
    """That thread's name."""


class Footprint(msgspec.Struct, frozen=True):
    """All of it."""

    ready_s: list[float]
    """From exec to READY=1 with one small model, for each start."""
    idle: list[Idle]
    held: list[Held]


def measure(folder: Path, smalls: Sequence[Model], cores: Cores, starts: int, idle_s: float) -> Footprint:
    """Starts edged `starts` times with one model, then once with each of COUNTS. Raises ServerError."""
    ready_s = []
    idle: list[Idle] = []
    held = []
    for number, count in enumerate([1] * (starts - 1) + list(COUNTS)):
        place = folder / f"start-{number}"
        place.mkdir()
        edged = Edged(place, smalls[:count])
        try:
            edged.start(cores)
            if count == 1:
                ready_s.append(edged.ready_s)
            if number >= starts - 1:
                time.sleep(SETTLE_S)
                if count == 1:
                    idle = watch(edged, idle_s)
                held.append(hold(edged, smalls[:count]))
        finally:
            edged.end()
    return Footprint(ready_s, idle, held)


def hold(edged: Edged, loaded: Sequence[Model]) -> Held:
    """The memory of edged's processes."""
    found = procfs.memories(procfs.tree(edged.pid))
    roles = roles_of(edged)
    sizes = {model.name: model.model_bytes for model in loaded}
    by_role = {roles[pid]: memory for pid, memory in found.items() if pid in roles}
    return Held(
        models=len(loaded),
        front=by_role.pop("front"),
        template=by_role.pop("template", None),
        workers=[Worker(name, size, by_role.pop(f"worker {name}")) for name, size in sizes.items()],
        others=by_role,
    )


def watch(edged: Edged, seconds: float) -> list[Idle]:
    """What edged's processes do in `seconds` in which nothing is asked."""
    before = procfs.snapshot(edged.pid)
    began = time.monotonic()
    time.sleep(seconds)
    spent = procfs.spent(before, procfs.snapshot(edged.pid))
    elapsed_s = time.monotonic() - began
    roles = roles_of(edged)
    idle = []
    for pid in (pid for pid in spent.cpu_s_of if pid in roles):
        wakes = {thread: count for thread, count in spent.voluntary.items() if thread[0] == pid}
        busiest = max(wakes, key=lambda thread: wakes[thread])
        ran_ns = sum(ran for thread, ran in spent.running_ns.items() if thread[0] == pid)
        idle.append(
            Idle(
                process=roles[pid],
                cpu_percent=ran_ns / 1e7 / elapsed_s,
                wakes_per_s=sum(wakes.values()) / elapsed_s,
                busiest_wakes_per_s=wakes[busiest] / elapsed_s,
                busiest=procfs.thread_name(busiest),
            )
        )
    return idle


def roles_of(edged: Edged) -> dict[int, str]:
    """What each process of edged is there for."""
    roles = {pid: f"worker {model}" for model, pid in edged.state().workers.items()}
    for pid in procfs.tree(edged.pid):
        if pid == edged.pid:
            roles[pid] = "front"
        elif pid not in roles:
            command = procfs.command_line(pid)
            roles[pid] = "template" if TEMPLATE in command else command
    return roles
