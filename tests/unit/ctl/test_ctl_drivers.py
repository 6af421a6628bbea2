"""`edgectl doctor` on an Intel module whose GPU and NPU have nodes, and no driver that OpenVINO finds."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from edged.config.settings import Device, Settings
from edged.ctl import drivers
from edged.ctl.checkup import Finding, Grade, Subject
from edged.runtimes.base import ENGINES

pytestmark = pytest.mark.skipif(ENGINES["openvino"].version() is None, reason="OpenVINO is not installed")

# Numbers that no device of the machine that tests run on has.
NODES = {"GPU": "dev/dri/renderD199", "NPU": "dev/accel/accel99"}


def find(root: Path, hardware_class: str = "intel-lowpower-detector") -> list[Finding]:
    settings = Settings(device=Device(hardware_class=hardware_class))
    return list(drivers.check(Subject(root, (), settings, datetime.now(UTC))))


def put(root: Path, node: str) -> None:
    (root / node).parent.mkdir(parents=True)
    (root / node).touch()


@pytest.mark.parametrize(("device", "remedy"), [("GPU", "intel-compute-runtime"), ("NPU", "linux-npu-driver")])
def test_a_device_that_openvino_does_not_find_is_named_with_what_it_lacks(
    tmp_path: Path, device: str, remedy: str
) -> None:
    put(tmp_path, NODES[device])
    (found,) = find(tmp_path)
    assert found.found.startswith(f"OpenVINO finds no {device} behind {tmp_path / NODES[device]}")
    assert remedy in found.remedy
    assert found.grade is Grade.WARNING


def test_one_that_it_finds_is_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU, which OpenVINO always finds, by whatever node."""
    monkeypatch.setattr(drivers, "_DEVICES", {"CPU": ("dev/cpu", "nothing")})
    put(tmp_path, "dev/cpu")
    assert find(tmp_path) == []


def test_an_engine_that_does_not_start_is_told_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken/openvino"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libmissing.so.1')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    put(tmp_path, NODES["GPU"])
    assert find(tmp_path) == []


def test_no_other_class_needs_them(tmp_path: Path) -> None:
    put(tmp_path, NODES["GPU"])
    assert find(tmp_path, "medical-cart-cpu") == []
