"""The shared memory that applications make: who may open it, and what is left of it."""

from __future__ import annotations

import grp
import os
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.descriptors import held

from edged.client import SharedRegion


@pytest.fixture
def path() -> Iterator[Path]:
    made = Path("/dev/shm", f"test-of-regions-{uuid.uuid4().hex}")
    yield made
    assert not made.exists()


def test_it_is_open_to_a_group_and_to_nobody_else(path: Path) -> None:
    group = grp.getgrgid(os.getegid()).gr_name
    with SharedRegion(path.name, 5000, group=group) as region:
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid, found.st_size) == (0o660, os.getegid(), 5000)
        assert (region.key, region.byte_size, bytes(region.buf)) == (f"/{path.name}", 5000, bytes(5000))


def test_what_one_writes_the_other_reads(path: Path) -> None:
    with SharedRegion(path.name, 8, group=None) as region:
        np.ndarray(2, np.float32, region.buf)[:] = [1, 2]
        assert np.fromfile(path, np.float32).tolist() == [1, 2]
        path.write_bytes(np.array([3, 4], np.float32).tobytes())


def test_a_slash_in_front_changes_nothing(path: Path) -> None:
    with SharedRegion(f"/{path.name}", 8, group=None) as region:
        assert region.key == f"/{path.name}"


def test_it_leaves_nothing(path: Path) -> None:
    before = held()
    region = SharedRegion(path.name, 8, group=None)
    region.close()
    region.close()
    assert held() == before


def test_what_somebody_still_holds_stays_readable(path: Path) -> None:
    with SharedRegion(path.name, 8, group=None) as region:
        array = np.ndarray(2, np.float32, region.buf)
    array[:] = 7
    assert array.tolist() == [7, 7]


def test_another_may_have_removed_it(path: Path) -> None:
    with SharedRegion(path.name, 8, group=None):
        path.unlink()


def test_what_is_there_is_not_replaced(path: Path) -> None:
    with SharedRegion(path.name, 8, group=None) as region:
        region.buf[:] = b"precious"
        with pytest.raises(FileExistsError):
            SharedRegion(path.name, 8, group=None)
        assert path.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("size", "group", "raised"),
    [(8, "no such group", LookupError), (0, None, ValueError), (-1, None, OSError)],
)
def test_one_that_cannot_be_made_leaves_no_file(path: Path, size: int, group: str | None, raised: type) -> None:
    before = held()
    with pytest.raises(raised):
        SharedRegion(path.name, size, group=group)
    assert held() == before


def test_it_needs_the_standard_library_only() -> None:
    """`-S`: without the folders of installed packages."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import edged.client"
    repository = str(Path(__file__).resolve().parents[2])
    subprocess.run([sys.executable, "-S", "-I", "-c", code, repository], check=True, timeout=60)
