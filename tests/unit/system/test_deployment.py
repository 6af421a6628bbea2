"""Deployments: which is booted, what served under the last one, when that is amiss."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.system import deployment
from edged.system.deployment import Served, amiss


def boot(root: Path, cmdline: str) -> None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/cmdline").write_text(cmdline)


@pytest.mark.parametrize(
    ("cmdline", "found"),
    [
        (
            "BOOT_IMAGE=/vmlinuz ostree=/ostree/boot.1/default/0f3a/0 rw psi=1\n",
            "/ostree/boot.1/default/0f3a/0",
        ),
        ("root=/dev/vda rw\n", ""),
        ("", ""),
    ],
)
def test_the_booted_deployment_stands_on_the_kernels_command_line(tmp_path: Path, cmdline: str, found: str) -> None:
    boot(tmp_path, cmdline)
    assert deployment.booted(tmp_path) == found


def test_a_deployment_keeps_its_name_when_ostree_gives_it_another_place(tmp_path: Path) -> None:
    places = {"boot.1/edged/0f3a/0": "aaaa.0", "boot.0/edged/0f3a/0": "bbbb.0", "boot.0/edged/0f3a/1": "aaaa.0"}
    for place, name in places.items():
        link = tmp_path / "sysroot/ostree" / place
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../../deploy/edged/deploy/{name}")
        boot(tmp_path, f"root=/dev/vda ostree=/ostree/{place} rw\n")
        assert deployment.booted(tmp_path) == name


def test_without_a_command_line_there_is_no_deployment(tmp_path: Path) -> None:
    assert deployment.booted(tmp_path) == ""


def test_what_served_is_remembered_and_written_only_when_it_changes(tmp_path: Path) -> None:
    assert deployment.recall(tmp_path) is None
    served = Served("a", ("digits",))
    deployment.record(tmp_path, served)
    assert deployment.recall(tmp_path) == served
    written = (tmp_path / deployment.FOLDER / "served.json").stat().st_ino
    deployment.record(tmp_path, served)
    assert (tmp_path / deployment.FOLDER / "served.json").stat().st_ino == written


@pytest.mark.parametrize("content", [b"", b"{", b'{"deployment": 3, "models": []}', b"\xff"])
def test_a_damaged_record_is_none(tmp_path: Path, content: bytes) -> None:
    deployment.record(tmp_path, Served("a", ()))
    (tmp_path / deployment.FOLDER / "served.json").write_bytes(content)
    assert deployment.recall(tmp_path) is None


LAST = Served("a", ("defects", "digits"))


@pytest.mark.parametrize(
    ("last", "booted", "models", "wrong"),
    [
        (None, "b", {}, 0),
        (LAST, "a", {"digits": False}, 0),  # a bad model on an unchanged system is not the system's fault
        (LAST, "b", {"digits": True, "defects": True}, 0),
        (LAST, "b", {"digits": True, "defects": False}, 1),
        (LAST, "b", {"digits": False, "defects": False}, 2),
        (LAST, "b", {"digits": True}, 0),  # taken away by a plan
        (LAST, "b", {}, 1),
        (LAST, "b", {"digits": True, "defects": True, "new": False}, 0),
        (Served("a", ()), "b", {}, 0),
    ],
)
def test_when_a_boot_is_amiss(last: Served | None, booted: str, models: dict[str, bool], wrong: int) -> None:
    assert len(amiss(last, booted, models)) == wrong


def test_evidence_of_the_newest_red_boots_is_kept_and_no_more(tmp_path: Path) -> None:
    for name in "abcde":
        deployment.leave_evidence(tmp_path, name, name.encode())
    assert [path.read_text() for path in deployment.evidence(tmp_path)] == ["c", "d", "e"]


def test_evidence_is_bounded(tmp_path: Path) -> None:
    path = deployment.leave_evidence(tmp_path, "a", bytes(10 * 2**20))
    assert path.stat().st_size < 2**20
