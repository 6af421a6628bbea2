"""Deployments: which is booted, what served under the last one, when that is amiss."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.system import deployment
from edged.system.deployment import Boot, Evidence, Known, Served, amiss, held


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
        # As bootc's composefs backend writes it: bare, without fs-verity, and the newer form before the older.
        ("root=UUID=1 rw composefs=8b7df1 console=ttyS0\n", "8b7df1"),
        ("root=UUID=1 composefs=?8b7df1 rw\n", "8b7df1"),
        ("composefs.digest=v1-sha512-12:c0ffee composefs=8b7df1 rw\n", "c0ffee"),
        ("composefs.digest=?v1-sha512-12:c0ffee composefs=?8b7df1 rw\n", "c0ffee"),
        # OSTree has its own use of composefs, and its place is the name then.
        ("ostree.prepare-root.composefs=1 rw\n", ""),
        ("composefs=8b7df1 ostree=/ostree/boot.1/default/0f3a/0\n", "/ostree/boot.1/default/0f3a/0"),
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


def test_a_red_verdict_is_this_boots(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/kernel/random").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("b2\n")
    assert deployment.red(tmp_path) is None
    deployment.note(tmp_path, Boot("b1", "one", good=False))
    assert deployment.red(tmp_path) is None
    deployment.note(tmp_path, Boot("b2", "two", good=False))
    assert deployment.red(tmp_path) == Boot("b2", "two", good=False)
    deployment.note(tmp_path, Boot("b2", "two", good=True))
    assert deployment.red(tmp_path) is None


@pytest.mark.parametrize("content", [b"", b"{", b'{"deployment": 3, "models": []}', b"\xff"])
def test_a_damaged_record_is_none(tmp_path: Path, content: bytes) -> None:
    deployment.record(tmp_path, Served("a", ()))
    (tmp_path / deployment.FOLDER / "served.json").write_bytes(content)
    assert deployment.recall(tmp_path) is None


LAST = Served("a", ("defects", "digits"))
OF_IMAGE = Served("a", ("defects", "digits"), ("defects",))


@pytest.mark.parametrize(
    ("last", "booted", "ready", "wrong"),
    [
        (None, "b", {}, 0),
        (LAST, "a", {"digits": False}, 0),  # a bad model on an unchanged system is not the system's fault
        (LAST, "b", {"digits": True, "defects": True}, 0),
        (LAST, "b", {"digits": True, "defects": False}, 1),
        (LAST, "b", {"digits": False, "defects": False}, 2),
        (LAST, "b", {"digits": True}, 1),  # nobody took it away
        (OF_IMAGE, "b", {"digits": True}, 0),  # this image left out what the last one had brought
        (OF_IMAGE, "b", {"digits": True, "defects": False}, 1),
        (OF_IMAGE, "b", {"defects": True}, 1),
        (LAST, "b", {}, 1),
        (LAST, "b", {"digits": True, "defects": True, "new": False}, 0),
        (Served("a", ()), "b", {}, 0),
    ],
)
def test_when_a_boot_is_amiss(last: Served | None, booted: str, ready: dict[str, bool], wrong: int) -> None:
    assert len(amiss(last, booted, ready, left_out=["defects"])) == wrong


def test_what_an_image_had_brought_and_this_one_has_is_missed() -> None:
    (wrong,) = amiss(OF_IMAGE, "b", {"digits": True})
    assert "'defects' served under the last deployment and is not known" in wrong


@pytest.mark.parametrize(
    ("known", "models"),
    [
        (None, ("defects", "digits")),
        (Known({}, settled=False), ("defects", "digits")),  # for administrators only, or just started
        (Known({"digits": True, "defects": False}, coming=frozenset({"defects"})), ("defects", "digits")),
        (Known({"digits": True, "defects": False}), ("digits",)),  # it failed under this system
        (Known({"digits": True}), ("digits",)),
        (Known({"digits": True, "new": True}), ("digits", "new")),  # committed since
        (Known({"digits": True, "new": False}, coming=frozenset({"new"})), ("digits",)),  # which never served
        (Known({"new": True}, settled=False), ("defects", "digits", "new")),
    ],
)
def test_what_the_next_deployment_is_held_against(known: Known | None, models: tuple[str, ...]) -> None:
    assert held(LAST, "b", known) == Served("b", models)


def test_what_the_image_alone_brought_is_remembered_as_such_while_it_serves_or_is_on_its_way() -> None:
    both = frozenset({"defects", "digits"})
    known = Known({"defects": True, "digits": True}, of_image=both)
    assert held(LAST, "b", known).of_image == ("defects", "digits")
    assert held(OF_IMAGE, "b", None).of_image == ("defects",)
    assert held(OF_IMAGE, "b", Known({"defects": True, "digits": True})).of_image == ()  # by now another has


def test_the_first_good_boot_remembers_what_serves() -> None:
    assert held(None, "a", Known({"digits": True})) == Served("a", ("digits",))
    assert held(None, "a", None) == Served("a", ())


def left(deployment: str = "a", **more: object) -> Evidence:
    return Evidence(**{"at": "2026-11-21T04:53:01+00:00", "deployment": deployment, "wrong": ["it is so"], **more})  # type: ignore[arg-type]


def test_evidence_of_the_newest_red_boots_is_kept_and_no_more_whatever_the_clock_says(tmp_path: Path) -> None:
    for day, name in zip((20, 21, 22, 1, 2), "abcde", strict=True):
        deployment.leave_evidence(tmp_path, left(name, at=f"2026-11-{day:02d}T00:00:00+00:00"))
    assert [each.deployment for each in deployment.evidence(tmp_path)] == ["c", "d", "e"]


@pytest.mark.parametrize(
    "more",
    [
        {"log": ["x" * 100_000] * 200},
        {"log": [f"line {number} \0\0\0" + "\0" * 2_000 for number in range(200)]},
        {"status": {"models": ["y" * 1_000] * 1_000}},
        {"wrong": ["z" * 10_000] * 1_000},
    ],
    ids=["log", "escaped", "status", "wrong"],
)
def test_evidence_is_bounded_and_can_be_read(tmp_path: Path, more: dict[str, object]) -> None:
    path = deployment.leave_evidence(tmp_path, left(**{"log": ["the beginning", "the end"], **more}))
    assert path.stat().st_size <= 256 * 1024
    (found,) = deployment.evidence(tmp_path)
    assert found.deployment == "a"
    assert found.wrong
    assert found.log


def test_of_a_long_log_the_end_is_kept(tmp_path: Path) -> None:
    deployment.leave_evidence(tmp_path, left(log=[f"{number:1000d}" for number in range(1_000)]))
    (found,) = deployment.evidence(tmp_path)
    assert [int(line) for line in found.log] == list(range(1_000 - len(found.log), 1_000))
    assert len(found.log) > 200


def test_evidence_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    deployment.leave_evidence(tmp_path, left("a"))
    (tmp_path / deployment.FOLDER / "red-00000002.json").write_bytes(b'{"at": "2026')
    (tmp_path / deployment.FOLDER / "red-20261121T045301.json").write_bytes(b"\xff")  # as it was once named
    deployment.leave_evidence(tmp_path, left("b"))
    assert [each.deployment for each in deployment.evidence(tmp_path)] == ["a", "b"]
