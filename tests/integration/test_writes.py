"""Templates and workers write nothing and connect nowhere: strace(1) follows a daemon with a model of each engine."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.bundles import make_bundle
from support.calls import request, tensor
from support.daemon import DIGITS, PATIENCE_S, Daemon
from support.tflites import tflite_model

from edged.runtimes.base import ENGINES

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

# What changes a file system; a `?` stands before what not every machine has.
OPENS = ("?open", "openat", "openat2", "?creat")
CHANGES = (
    *("?mkdir", "mkdirat", "?mknod", "mknodat", "?rename", "?renameat", "renameat2", "?link", "linkat"),
    *("?symlink", "symlinkat", "?unlink", "unlinkat", "?rmdir", "truncate", "?chmod", "fchmod", "fchmodat"),
    *("?chown", "fchown", "fchownat", "?utime", "?utimes", "utimensat", "setxattr", "fsetxattr"),
)
TALKS = ("socket", "connect", "bind", "execve")

CALL = re.compile(r"^(?:\d+ )?(\w+)\((.*)\) += (.+)$")
WRITES = re.compile(r"\bO_(?:WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)\b")


@pytest.fixture
def traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon with a model of each engine that is installed, in a home and a temporary folder of its own."""
    for name, variable in (("home", "HOME"), ("temporary", "TMPDIR")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    (tmp_path / "calls").mkdir()
    follow = ",".join(OPENS + CHANGES + TALKS)
    edged = tmp_path / "edged"
    strace = f"strace -DDD -ff -qq -s 300 -y -e trace={follow} -e signal=none -o {tmp_path}/calls/of"
    edged.write_text(f'#!/bin/sh\nexec {strace} {sys.executable} "$@"\n')
    edged.chmod(0o755)
    made = [bundle_of(engine, tmp_path) for engine in ENGINES if ENGINES[engine].version()]
    with Daemon(tmp_path / "root", made, interpreter=edged) as daemon:
        yield daemon


def bundle_of(engine: str, folder: Path) -> Path:
    """A model that takes images, for an engine."""
    image, scores = [("image", "FP32", [-1, 1, 8, 8])], [("scores", "FP32", [-1, 10])]
    if engine != "edgetpu":
        digits = (DIGITS / "model.onnx").read_bytes()
        return make_bundle(folder / engine, digits, image, scores, name=engine, runtime=engine)
    bright = [("scores", "FP32", [-1, 1, 8, 8])]
    return make_bundle(
        folder / engine,
        tflite_model("ADD", image, bright, takes=(0, 0)),
        image,
        bright,
        name=engine,
        runtime=engine,
        file="model.tflite",
        extra='options = { device = "CPU" }\n',
    )


def threads(pid: int) -> set[str]:
    return {thread.name for thread in Path(f"/proc/{pid}/task").iterdir()}


def calls_of(folder: Path, thread: str) -> Iterator[tuple[str, str, str]]:
    """Name, arguments and result of each system call that was followed."""
    for line in (folder / f"of.{thread}").read_text(errors="replace").splitlines():
        if found := CALL.match(line):
            yield found[1], found[2], found[3]


def is_harmless(name: str, arguments: str) -> bool:
    """The start of a process, its standing when memory is short, and what is only read."""
    if name in {each.lstrip("?") for each in OPENS}:
        known = re.search(r'"(/dev/null|/proc/self/oom_score_adj)"', arguments)
        return bool(known) or not WRITES.search(arguments)
    return name == "execve"


def test_neither_templates_nor_workers_write_or_connect_anywhere(traced: Daemon, tmp_path: Path) -> None:
    daemon = traced.start()
    status = daemon.wait_for(lambda status: status.ready)
    front = threads(daemon.pid)
    image = tensor("image", "FP32", [1, 1, 8, 8])
    for worker in status.workers:
        for _ in range(20):
            daemon.infer(request(worker.model, image, raw=[bytes(256)]))
    children = {str(child.pid) for child in psutil.Process(daemon.pid).children()}
    assert {str(worker.pid) for worker in status.workers} < children, "and templates"
    front |= threads(daemon.pid)
    assert daemon.stop() == 0
    folder = tmp_path / "calls"
    psutil.wait_procs([process for process in psutil.process_iter() if traces(process, folder)], timeout=PATIENCE_S)
    others = {path.name.removeprefix("of.") for path in folder.iterdir()} - front
    assert children <= others, "each was followed"
    found = [(name, arguments, result) for thread in others for name, arguments, result in calls_of(folder, thread)]
    assert len(found) > 1000, "what was read is there"
    changes = {
        f"{name}({arguments}) = {result}" for name, arguments, result in found if not is_harmless(name, arguments)
    }
    assert not changes
    assert not list((tmp_path / "home").iterdir())
    assert not list((tmp_path / "temporary").iterdir())


def traces(process: psutil.Process, folder: Path) -> bool:
    """Whether it is the one that writes the calls down, which goes on until all of them have ended."""
    try:
        return process.name() == "strace" and any(str(folder) in each for each in process.cmdline())
    except psutil.Error:
        return False
