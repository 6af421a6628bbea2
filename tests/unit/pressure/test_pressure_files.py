"""The small files of /proc and /sys, as they are and as they should not be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edged.pressure import files


def test_what_the_kernel_puts_together_line_by_line_is_read_to_its_end():
    """One read gives a page of it at most."""
    script = "import ctypes, decimal, sqlite3, ssl, sys; print(flush=True); sys.stdin.read()"  # many mappings
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        maps = Path(f"/proc/{process.pid}/maps")
        whole = maps.read_text().strip()
        found = files.text(maps)
        process.stdin.close()
    assert 4096 < len(whole) < 64 * 1024
    assert found == whole


def test_a_file_without_end_is_believed_up_to_a_bound():
    found = files.text("/dev/zero")
    assert found is not None
    assert len(found) == 64 * 1024


@pytest.mark.parametrize("digits", [21, 310, 4300, 5000])
def test_a_number_that_no_kernel_writes_is_none(digits: int, tmp_path: Path):
    path = tmp_path / "value"
    path.write_text("9" * digits)
    assert files.number(path, 1000) is None
    path.write_text(f"anon {'9' * digits}\nfile 7\n")
    assert files.table(path) == {"file": 7}


@pytest.mark.parametrize(("text", "value"), [("42000", 42.0), ("-89000\n", -89.0), ("1_000", None), ("", None)])
def test_a_whole_number_in_another_unit(text: str, value: float | None, tmp_path: Path):
    path = tmp_path / "value"
    path.write_text(text)
    assert files.number(path, 1000) == value


def test_what_may_not_be_looked_at_is_not_there(tmp_path: Path):
    assert files.exists(tmp_path)
    assert not files.exists(tmp_path / "none")
    assert not files.exists(tmp_path / ("x" * 5000))  # an error that is not one of absence
