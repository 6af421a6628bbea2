"""A trace decides again as it was decided, stays in its quota, and says what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from sim.device import JETSON, Device

from benchmarks.hotwork import Run
from edged.bundle.manifest import Degradation
from edged.errors import EdgedError
from edged.pressure.governor import Governor, State
from edged.pressure.policy import Policy
from edged.pressure.readings import Readings
from edged.pressure.trace import Recorder, replay
from edged.types import Level

GOVERNOR = Governor(Policy(), {"quality": {Level.ELEVATED: Degradation(variant="int8")}})


def record(folder: Path, quota_bytes: int = 100 * 2**20, seconds: int = 200) -> list[Path]:
    """The files of a hot device's trace, the newest first."""
    run = Run(Device(JETSON, 45.0), GOVERNOR)
    run.advance(seconds)
    recorder = Recorder(folder, quota_bytes, GOVERNOR)
    state = State()
    for now, readings, _ in run.decisions:
        before = state
        state, decision = GOVERNOR.decide(before, readings, now)
        recorder.record(before, now, readings, decision)
    recorder.close()
    return sorted(folder.glob("pressure-*.trace"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def test_it_decides_the_same_again(tmp_path: Path):
    (path,) = record(tmp_path)
    found = list(replay(path))
    assert len(found) > 150
    assert all(each.same for each in found)
    assert {each.decision.levels["thermal"] for each in found} > {Level.NOMINAL}


def test_each_file_of_a_long_one_can_be_replayed_alone_and_the_quota_holds(tmp_path: Path):
    quota_bytes = 60_000
    paths = record(tmp_path, quota_bytes)
    assert len(paths) == 2
    assert sum(path.stat().st_size for path in paths) <= quota_bytes + 2000  # a beginning has no bound of its own
    for path in paths:
        found = list(replay(path))
        assert found
        assert all(each.same for each in found)


def test_a_decision_that_was_another_is_found(tmp_path: Path):
    (path,) = record(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    moment = msgspec.json.decode(lines[50])
    moment["readings"]["fired"] = ["memory.full"]
    path.write_bytes(b"".join([*lines[:50], msgspec.json.encode(moment) + b"\n", *lines[51:]]))
    different = [number for number, each in enumerate(replay(path)) if not each.same]
    assert different[0] == 49


def test_a_last_line_that_a_power_cut_shortened_is_left_out(tmp_path: Path):
    (path,) = record(tmp_path)
    whole = len(list(replay(path)))
    path.write_bytes(path.read_bytes()[:-20])
    assert len(list(replay(path))) == whole - 1


@pytest.mark.parametrize("content", [b"", b"{}\n", b"no json\n", b"\xff\xfe\n", b'{"schema": 2}\n'])
def test_what_is_no_trace(content: bytes, tmp_path: Path):
    path = tmp_path / "trace"
    path.write_bytes(content)
    with pytest.raises(EdgedError, match=r"trace:1 is no line of a trace"):
        list(replay(path))


def test_a_wrong_line_is_named(tmp_path: Path):
    (path,) = record(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:7], b'{"now": "soon"}\n', *lines[7:]]))
    with pytest.raises(EdgedError, match=r":8 is no line"):
        list(replay(path))


def test_another_governor_begins_a_file(tmp_path: Path):
    recorder = Recorder(tmp_path, 2**20, GOVERNOR)
    other = Governor(msgspec.structs.replace(Policy(), margin_c=9.0))
    state = State()
    for governor in (GOVERNOR, other):
        recorder.govern(governor)
        before = state
        state, decision = governor.decide(before, Readings(), 1.0)
        recorder.record(before, 1.0, Readings(), decision)
    recorder.close()
    assert [len(list(replay(path))) for path in tmp_path.iterdir()] == [1, 1]
