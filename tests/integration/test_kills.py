"""kill -9 of workers, templates and the daemon at random under load: no orphan, no wrong answer, nothing lost."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
from support import bundles
from support.calls import pack, refusal, request, tensor
from support.daemon import PATIENCE_S, Daemon
from support.polling import until

from edged._pb.edged.v1 import admin_pb2

COLUMNS = 40_000  # 160 kB a row: some batches go through the arena, some do not
CALLERS = 4

# What a request may be told when its worker was killed, and then the next, which had it alone.
ALLOWED = {"worker_crashed", "model_unavailable"}


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with `sums` and `identity-fp32`, which starts workers again at once."""
    made = [bundles.sums_bundle(tmp_path), bundles.identity_bundle(tmp_path, "FP32")]
    settings = "[workers]\nrestart_min_s = 0.001\nrestart_max_s = 0.001\n"
    with Daemon(tmp_path / "root", made, settings) as daemon:
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        yield daemon


class Load:
    """Callers without end; each answer is held against what was sent."""

    def __init__(self, daemon: Daemon) -> None:
        self.told: Counter[str] = Counter()
        self._daemon = daemon
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(CALLERS)
        self._callers = [self._pool.submit(self._call, number) for number in range(CALLERS)]

    def _call(self, caller: int) -> None:
        number = caller
        while not self._stop.is_set():
            number += CALLERS
            try:
                (self._sum if number % 3 else self._same)(number)
                self.told["answered"] += 1
            except grpc.RpcError as error:
                self.told[refusal(error).code or str(error.code())] += 1

    def _sum(self, number: int) -> None:
        a, b = ([number % 1000 + offset, number % 7, offset] for offset in (1, 2))
        asked = request(
            "sums", *(tensor(name, "FP32", [1, 3]) for name in "ab"), raw=[pack("FP32", a), pack("FP32", b)]
        )
        answer = self._daemon.infer(asked)
        assert struct.unpack("<3f", answer.raw_output_contents[0]) == tuple(x + y for x, y in zip(a, b, strict=True))

    def _same(self, number: int) -> None:
        sent = struct.pack("<f", number) * (COLUMNS * (1 + number % 2))
        asked = request("identity-fp32", tensor("x", "FP32", [1 + number % 2, COLUMNS]), raw=[sent])
        assert self._daemon.infer(asked).raw_output_contents[0] == sent

    def answered(self, more: int) -> None:
        """Waits until so many more requests were answered."""
        wanted = self.told["answered"] + more
        until(
            lambda: (self.told["answered"], any(caller.done() for caller in self._callers)),
            f"{wanted} are answered, or a caller has failed",
            holds=lambda found: found[0] >= wanted or found[1],
            log=lambda: self._daemon.log()[-3000:],
            again_s=0.002,
        )

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with self._pool:
            for caller in self._callers:
                caller.result()


def seeded() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - to run it again
    return random.Random(seed)


def kill_children(daemon: Daemon, kills: int, chance: random.Random) -> Counter[str]:
    """Kills workers and templates; says what the callers were told, and who was killed."""
    killed: Counter[str] = Counter()
    with Load(daemon) as load:
        while killed.total() < kills:
            load.answered(chance.randrange(1, 20))
            children = psutil.Process(daemon.pid).children()
            if not children:
                continue
            victim = chance.choice(children)
            workers = {worker.pid for worker in daemon.status().workers}
            try:
                os.kill(victim.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed["workers" if victim.pid in workers else "templates"] += 1
        load.answered(CALLERS * 2)
    assert set(load.told) <= {"answered", *ALLOWED}, load.told
    until(
        lambda: strangers(daemon, daemon.wait_for(lambda status: status.ready)),
        "there is nobody but the workers and a template",
        holds=lambda left: not left,
        log=daemon.log,
    )
    return load.told + killed


def strangers(daemon: Daemon, status: admin_pb2.Status) -> list[psutil.Process]:
    """Children beside the workers and one template. One that is being started may be among them for a moment."""
    known = {worker.pid for worker in status.workers}
    others = [process for process in psutil.Process(daemon.pid).children() if process.pid not in known]
    templates = []
    for process in others:
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            templates += [process] * ("edged.worker.template" in process.cmdline())
    return [process for process in others if process not in templates[:1]]


def mostly_answered(told: Counter[str]) -> None:
    """Each request is tried twice, so that only two kills that hit the same one cost it."""
    kills = told["workers"] + told["templates"]
    assert sum(told[code] for code in ALLOWED) <= kills / 4, told


def kill_daemon(daemon: Daemon, chance: random.Random) -> float:
    """Its workers and templates go with it, whatever they are at. Says after how many seconds the next one is ready."""
    everybody = psutil.Process(daemon.pid).children(recursive=True)
    with Load(daemon) as load:
        load.answered(chance.randrange(1, 50))
        if everybody and chance.random() < 0.5:  # while a worker is on its way back
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(everybody).pid, signal.SIGKILL)
        everybody = psutil.Process(daemon.pid).children(recursive=True)
        daemon.signal(signal.SIGKILL)
        killed_at = time.monotonic()
        load._stop.set()
        daemon.wait_end()
        _, alive = psutil.wait_procs(everybody, timeout=PATIENCE_S)
        assert not alive, "they outlived the daemon"
        gone_s = time.monotonic() - killed_at
    left = set(load.told) - {"answered", *ALLOWED}
    assert left <= {"StatusCode.UNAVAILABLE", "StatusCode.CANCELLED"}, load.told
    daemon.stop()
    daemon.told.clear()
    started_at = time.monotonic()
    daemon.start()  # waits for READY=1, which every model's first load comes before
    took_s = gone_s + time.monotonic() - started_at
    assert daemon.status().ready
    return took_s


def stop(daemon: Daemon) -> None:
    """Nobody stays."""
    everybody = psutil.Process(daemon.pid).children(recursive=True)
    assert daemon.stop() == 0
    _, alive = psutil.wait_procs(everybody, timeout=PATIENCE_S)
    assert not alive


def test_forty_kills_of_workers_and_templates(target: Daemon) -> None:
    mostly_answered(kill_children(target, 40, seeded()))
    stop(target)


def test_three_kills_of_the_daemon(target: Daemon) -> None:
    chance = seeded()
    for _ in range(3):
        kill_daemon(target, chance)
    stop(target)


@pytest.mark.slow
def test_a_thousand_kills_of_daemon_workers_and_templates(target: Daemon) -> None:
    chance, told, ready_s = seeded(), Counter[str](), list[float]()
    while told["workers"] + told["templates"] + len(ready_s) < 1000:
        told += kill_children(target, chance.randrange(1, 10), chance)
        ready_s.append(kill_daemon(target, chance))
    median, worst = statistics.median(ready_s), max(ready_s)
    print(f"{dict(told)}, {len(ready_s)} daemons, ready again after {median:.2f} s, at worst {worst:.2f} s")  # noqa: T201
    mostly_answered(told)
    stop(target)
