"""The spool when power goes: strace(1) tells what was written and synced at each moment, and each is opened anew."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edged.telemetry.messages import Telemetry
from edged.telemetry.spool import MOST_TAKEN, Spool

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

REPO = Path(__file__).resolve().parents[3]
WINDOWS = 24

# It says what it has promised and what it has handed on, in the same trace as what it writes.
KEEPER = textwrap.dedent(
    f"""
    import os, sys
    from pathlib import Path
    from edged.facts import Executed
    from edged.telemetry.aggregate import Aggregate
    from edged.telemetry.spool import Spool

    spool = Spool(Path(sys.argv[1]), 1, 1_000_000)
    aggregate = Aggregate(0.0, 0)
    for number in range(1, {WINDOWS} + 1):
        aggregate.add(Executed("digits", 1, "fp32", 1, (0.001,), 0.002, 7))
        spool.append_window(aggregate.close(300.0 * number, 0, clock_synchronized=True))
        os.write(1, b"kept %d\\n" % number)
        if number % 7 == 0:
            rows = [row.last for row in spool.take(1, coarse=True, all_now=True)]
            os.write(1, b"leaves %d\\n" % rows[-1])
            spool.acknowledge(rows)
            os.write(1, b"left %d\\n" % rows[-1])
    """
)

CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\w+)")
NAMED = re.compile(r"<([^>]*)>")
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Disk:
    """The files of a folder as the kernel has them, and as a disk has them that lost what was not synced."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.files: dict[str, bytes] = {}
        self.synced: dict[str, bytes] = {}
        self.said = {"kept": 0, "leaves": 0, "left": 0}

    def follow(self, line: str) -> bool:
        """Takes one call of the trace; whether the disk is another now."""
        if not (found := CALL.match(line)) or found[3].startswith("-"):
            return False
        name, arguments = found[1], found[2]
        texts = [bytes.fromhex(each.replace("\\x", "")) for each in TEXT.findall(arguments)]
        descriptor = NAMED.search(arguments)
        path = bytes.fromhex(descriptor[1].replace("\\x", "")).decode() if descriptor else ""
        if name == "write" and texts[0].split(b" ")[0].decode() in self.said:
            word, number = texts[0].split()
            self.said[word.decode()] = int(number)
            return False
        if name.startswith(("rename", "unlink")):
            names = [each.decode() for each in texts]
            content, kept = self.files.pop(names[0], None), self.synced.pop(names[0], None)
            if name.startswith("rename"):
                self.files[names[-1]], self.synced[names[-1]] = content or b"", kept or b""
            return names[0].startswith(self.folder)
        if not path.startswith(self.folder) or path.endswith("-shm"):
            return False
        before = self.files.get(path, b"")
        if name in ("fsync", "fdatasync"):
            self.synced[path] = before
        elif name == "ftruncate":
            length = int(arguments.rsplit(", ", 1)[1], 0)
            self.files[path] = before[:length].ljust(length, b"\0")
        elif name in ("write", "pwrite64"):
            place = int(arguments.rsplit(", ", 1)[1], 0) if name == "pwrite64" else len(before)
            self.files[path] = before[:place].ljust(place, b"\0") + texts[0] + before[place + len(texts[0]) :]
        return True

    def lay_out(self, folder: Path, files: dict[str, bytes]) -> None:
        """The files as they are found after the next start."""
        for path, content in files.items():
            (folder / Path(path).name).write_bytes(content)


def moments(folder: Path, trace: Path) -> Iterator[Disk]:
    """The disk after each call that changed it, while a spool is filled and emptied."""
    strace = ["strace", "-f", "-qq", "-xx", "-y", "-s", "100000", "-o", str(trace)]
    calls = "trace=write,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat"
    ran = subprocess.run(
        [*strace, "-e", calls, sys.executable, "-c", KEEPER, str(folder)], cwd=REPO, capture_output=True, text=True
    )
    if "ptrace" in ran.stderr or "Operation not permitted" in ran.stderr:
        pytest.skip(f"strace may not follow a process here: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran.stderr
    disk = Disk(str(folder))
    with trace.open() as lines:
        for line in lines:
            if disk.follow(line):
                yield disk
    assert disk.said["kept"] == WINDOWS


def check(folder: Path, said: dict[str, int]) -> None:
    """What was kept is there, what was handed on is gone or there, and every number counts what it counted."""
    spool = Spool(folder, 1, 2_000_000_000_000)
    try:
        sequence = spool.standing().sequence
        found: list[Telemetry] = []
        while rows := spool.take(MOST_TAKEN, coarse=False):
            found += [msgspec.json.decode(row.payload, type=Telemetry) for row in rows]
            spool.acknowledge([row.last for row in rows])
        assert sequence in (said["kept"], said["kept"] + 1), "a window that was being kept may be there"
        first = found[0].first if found else sequence + 1
        assert first in (said["left"] + 1, said["leaves"] + 1)
        assert [each.first for each in found[1:]] == [each.last + 1 for each in found[:-1]]
        assert sum(model.codes["ok"] for each in found for model in each.window.models) == sequence + 1 - first
        assert not found or found[-1].totals.models[0].codes == {"ok": sequence}
    finally:
        spool.close()


def test_power_may_go_at_each_write(tmp_path):
    chance = random.Random(seed := random.randrange(2**32))
    print(f"seed {seed}")  # noqa: T201 - to run it again
    count = 0
    for disk in moments(tmp_path / "spool", tmp_path / "trace"):
        count += 1
        torn = {path: chance.choice([disk.files, disk.synced]).get(path) for path in disk.files}
        for name, files in (("killed", disk.files), ("cut", disk.synced), ("torn", torn)):
            folder = tmp_path / f"{name}-{count}"
            folder.mkdir()
            disk.lay_out(folder, {path: content for path, content in files.items() if content is not None})
            check(folder, disk.said)
            shutil.rmtree(folder)
    assert count > 3 * WINDOWS
