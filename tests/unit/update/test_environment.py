"""What the image says of itself."""

from datetime import UTC, datetime

import pytest

from edged.update.environment import build_time, read


@pytest.fixture
def built(tmp_path):
    path = tmp_path / "usr/lib/edged/built"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("text", ["2026-01-02T03:04:05Z\n", "2026-01-02T04:04:05+01:00", "2026-01-02T03:04:05"])
def test_the_build_time_is_read_with_its_zone(tmp_path, built, text):
    built.write_text(text)
    assert build_time(tmp_path) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "\0", "2026-13-01T00:00:00Z", "99999-01-01", "0001-01-01T00:00:00+14:00"]
)
def test_what_is_no_time_is_none(tmp_path, built, text):
    built.write_text(text)
    assert build_time(tmp_path) is None


def test_an_image_that_does_not_say_has_none(tmp_path):
    assert build_time(tmp_path) is None


CARD = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.211.01  Release Build\nGCC version: 13.3.0\n"
JETSON = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.3.0  Release Build\n"
LINUX = "# R36 (release), REVISION: 3.0, GCID: 36923193, BOARD: generic, EABI: aarch64, DATE: Fri Jul 19 2024\n"


@pytest.mark.parametrize(
    ("files", "driver"),
    [
        ({}, ""),
        ({"proc/driver/nvidia/version": CARD}, "nvidia 570.211.01"),
        ({"proc/driver/nvidia/version": JETSON, "etc/nv_tegra_release": LINUX}, "nvidia 540.3.0 l4t 36.3.0"),
        ({"etc/nv_tegra_release": LINUX.replace("R36", "R35").replace("3.0,", "5.0,")}, "l4t 35.5.0"),
        ({"etc/nv_tegra_release": "nothing of that kind\n"}, ""),
    ],
)
def test_nvidias_driver_is_known_by_its_version(tmp_path, files, driver):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert read({}, tmp_path).driver == driver
