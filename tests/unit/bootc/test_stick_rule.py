"""The label by which update sticks are known."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.daemon import REPO

# Of FAT, whose boot sector has no room for more (Microsoft, "FAT: General Overview of On-Disk Format", BS_VolLab), and
# of exFAT. ext4 takes 16.
LONGEST = 11

(LABEL,) = re.findall(r'ENV\{ID_FS_LABEL\}=="([^"]+)"', (REPO / "systemd/90-edged-stick.rules").read_text())


def test_every_file_system_that_the_rule_names_can_have_the_label() -> None:
    assert 0 < len(LABEL.encode()) <= LONGEST
    assert not re.search("[a-z]", LABEL), "FAT keeps no lower case"


@pytest.mark.parametrize("page", ["docs/operations.md", "systemd/run-edgedstick.mount"])
def test_what_people_are_told_is_what_the_rule_looks_for(page: str) -> None:
    assert set(re.findall(r"label\s+`?(EDGED-[A-Z]+)", (REPO / page).read_text())) == {LABEL}


@pytest.mark.skipif(shutil.which("mkfs.vfat") is None, reason="mkfs.vfat is not installed")
def test_a_fat_file_system_is_made_with_it(tmp_path: Path) -> None:
    subprocess.run(["mkfs.vfat", "-C", "-n", LABEL, tmp_path / "stick", "1024"], check=True, capture_output=True)
