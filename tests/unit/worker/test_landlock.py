"""Landlock in processes of their own, as this kernel and as older ones have it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.worker import landlock

TRIES = """
import ctypes, json, os, socket, sys
from pathlib import Path
from edged.worker import landlock
from edged.worker.landlock import DEVICE, READ
version, folder, port = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
allowed = {str(folder / name): READ for name in ("mine", "alone", "gone")}
landlock.restrict(version, {**allowed, "/dev/null": DEVICE})
connection = socket.socket()
found = {}
for name, attempt in {
    "read mine": (folder / "mine/file").read_bytes,
    "list mine": lambda: list((folder / "mine").iterdir()),
    "read alone": (folder / "alone").read_bytes,
    "device": lambda: Path("/dev/null").write_bytes(b"x"),
    "write mine": lambda: (folder / "mine/file").open("r+b").close(),
    "make": lambda: (folder / "mine/new").write_bytes(b""),
    "remove": lambda: (folder / "mine/file").unlink(),
    "move": lambda: (folder / "mine/file").rename(folder / "mine/other"),
    "read another": (folder / "another/file").read_bytes,
    "out by ..": (folder / "mine/../another/file").read_bytes,
    "out by link": (folder / "mine/link").read_bytes,
    "run": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "truncate": lambda: os.truncate(folder / "another/file", 1),
    "connect": lambda: connection.connect(("127.0.0.1", port)),
    "signal": lambda: os.kill(os.getppid(), 0),
}.items():
    try:
        attempt()
        found[name] = True
    except PermissionError:
        found[name] = False
print(json.dumps(found))
"""

ALWAYS_ALLOWED = {"read mine", "list mine", "read alone", "device"}
SINCE = {"truncate": 3, "connect": 4, "signal": 6}


@pytest.mark.skipif(not landlock.abi(), reason="this kernel has no Landlock")
@pytest.mark.parametrize("version", range(1, max(landlock.abi(), 1) + 1))
def test_what_each_abi_leaves_open(version: int, tmp_path: Path, listening: int) -> None:
    for name in ("mine", "another"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("content")
    (tmp_path / "mine/link").symlink_to(tmp_path / "another/file")
    (tmp_path / "alone").write_text("content")
    command = [sys.executable, "-c", TRIES, str(version), str(tmp_path), str(listening)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    allowed = ALWAYS_ALLOWED | {name for name, least in SINCE.items() if version < least}
    assert {name for name, got_through in found.items() if got_through} == allowed


@pytest.fixture
def listening() -> Iterator[int]:
    """A TCP port that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_what_the_kernel_does_not_know_raises() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        landlock._call(landlock._CREATE_RULESET, None, 0, 2**31)
