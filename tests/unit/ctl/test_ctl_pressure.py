"""`edgectl sensors` and `edgectl governor replay`, on trees of files and recorded traces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from sim import sysfs
from sim.device import JETSON, Device

from benchmarks.hotwork import Run
from edged.ctl import faults
from edged.ctl.main import run
from edged.pressure.governor import Governor, State
from edged.pressure.policy import Policy
from edged.pressure.trace import Recorder


def test_sensors_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sysfs.gateway(tmp_path).zone(2, "x86_pkg_temp", 61.0, {"passive": 95.0, "passive2": 20.0})
    assert run(["sensors", "--root", str(tmp_path)]) == faults.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["SENSOR", "VALUE", "UNIT", "ACTS", "BELOW", "SOURCE"]
    (zone,) = (line.split() for line in lines if line.startswith("thermal_zone2:x86_pkg_temp  "))
    assert zone == [
        "thermal_zone2:x86_pkg_temp",
        "61",
        "°C",
        "yes",
        "92",
        str(tmp_path / "sys/class/thermal/thermal_zone2/temp"),
    ]
    assert any(line.startswith("memory") and "5.9 GiB of 7.8 GiB left" in line for line in lines)
    assert lines[-1].startswith("thermal_zone2:x86_pkg_temp: its passive trip point says 20 °C")


def test_sensors_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tree = sysfs.jetson(tmp_path)
    tree.set_temperature(0, -89.0)
    assert run(["sensors", "--json", "--root", str(tmp_path)]) == faults.DONE
    found = json.loads(capsys.readouterr().out)
    by_name = {each["name"]: each for each in found["sensors"]}
    assert by_name["thermal_zone4:tj-thermal"]["value"] == 52.0
    assert by_name["thermal_zone4:tj-thermal"]["limits"]["set_c"] == 91.5  # 104.5 ends the device
    assert {"kind": "critical", "celsius": 104.5} in by_name["thermal_zone4:tj-thermal"]["trips"]
    assert by_name["thermal_zone0:cpu-thermal"]["doubts"] == ["it says -89 °C, which cannot be"]
    assert by_name["hwmon1:pwmfan/fan1"]["unit"] == "1/min"
    assert found["memory"]["limit_bytes"] == 16000 * 2**20


def test_a_root_without_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["sensors", "--root", str(tmp_path)]) == faults.DONE
    assert "no /proc and no /sys" in capsys.readouterr().out


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Of a module that becomes hot."""
    governor = Governor(Policy())
    hot = Run(Device(JETSON, 45.0), governor)
    hot.advance(240)
    recorder = Recorder(tmp_path, 2**24, governor)
    state = State()
    for now, readings, _ in hot.decisions:
        before = state
        state, decision = governor.decide(before, readings, now)
        recorder.record(before, now, readings, decision)
    recorder.close()
    (path,) = tmp_path.glob("*.trace")
    return path


def test_a_trace_is_decided_again(trace: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["governor", "replay", str(trace)]) == faults.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["AT", "LEVELS", "CAUSES"]
    assert any("thermal elevated" in line and "°C" in line for line in lines)
    assert lines[-1].endswith("moments, all decided the same again")


def test_a_trace_for_programs(trace: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["governor", "replay", "--json", str(trace)]) == faults.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["different"] == []
    assert found["moments"] > 200
    assert [each["levels"]["thermal"] for each in found["changes"]][:2] == ["nominal", "elevated"]


def test_a_trace_that_was_decided_otherwise(trace: Path, capsys: pytest.CaptureFixture[str]):
    trace.write_bytes(trace.read_bytes().replace(b'"margin_c":3.0', b'"margin_c":9.0', 1))
    assert run(["governor", "replay", str(trace)]) == faults.NO
    assert "decided otherwise" in capsys.readouterr().out


def test_a_picture_of_it(trace: Path, tmp_path: Path):
    picture = tmp_path / "picture.png"
    assert run(["governor", "replay", str(trace), "--plot", str(picture)]) == faults.DONE
    with Image.open(picture) as found:
        assert found.format == "PNG"
        assert found.width == 1200
        colours = {colour for _, colour in found.convert("RGB").getcolors(100_000) or []}
        assert (0x1F, 0x5F, 0xBF) in colours, "a curve is drawn"


def test_what_is_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "trace").write_text("nothing of the kind\n")
    assert run(["governor", "replay", str(tmp_path / "trace")]) == faults.NO
    assert "trace:1 is no line of a trace" in capsys.readouterr().err
