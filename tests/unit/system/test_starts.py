"""The count of crashed starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.system.starts import LIMIT, Starts


def test_starts_that_never_settle_are_counted(tmp_path: Path) -> None:
    assert [Starts(tmp_path / "starts").begin() for _ in range(4)] == [0, 1, 2, 3]


def test_a_settled_start_ends_the_row(tmp_path: Path) -> None:
    starts = Starts(tmp_path / "starts")
    starts.begin()
    starts.settle()
    assert starts.begin() == 0


def test_one_crash_after_a_retry_brings_the_limit_back(tmp_path: Path) -> None:
    starts = Starts(tmp_path / "starts")
    starts.retry()
    assert starts.begin() == LIMIT - 1
    assert starts.begin() == LIMIT


@pytest.mark.parametrize("content", [b"", b"many", b"-3", b"\xff"])
def test_a_count_that_is_none_counts_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "starts"
    path.write_bytes(content)
    assert Starts(path).begin() == 0


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_start(tmp_path: Path) -> None:
    starts = Starts(tmp_path / "missing" / "starts")
    assert starts.begin() == 0
    starts.retry()
    starts.settle()
