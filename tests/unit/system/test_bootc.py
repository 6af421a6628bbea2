"""bootc's status in the forms of its versions, and what it is asked."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bootc import Bootc, composefs_slot, digest, host, slot

from edged.errors import Code, EdgedError
from edged.system import bootc
from edged.system.bootc import Entry, parse

# In the forms that the versions of bootc print, after the fixtures beside its own sources (lib/src/fixtures and later
# crates/lib/src/fixtures of github.com/bootc-dev/bootc); names, numbers and digests are ours.
REFERENCE = {"image": "registry.example/edge-os:stable", "transport": "registry", "signature": "insecure"}


def alpha_slot(number: int, **others: object) -> dict[str, object]:
    """v1alpha1, bootc 0.1: no store, no cached update."""
    image = {
        "image": REFERENCE,
        "version": "nightly",
        "timestamp": f"2026-10-{number:02}T19:22:15.42Z",
        "imageDigest": digest(number),
    }
    return {
        "image": image,
        "incompatible": False,
        "pinned": False,
        "ostree": {"checksum": f"{number:064x}", "deploySerial": 0},
        **others,
    }


def newer_alpha_slot(number: int, **others: object) -> dict[str, object]:
    """As in `spec-staged-locked.yaml`: with the architecture and the state root."""
    found = alpha_slot(number, **others)
    image, ostree = found["image"], found["ostree"]
    assert isinstance(image, dict)
    assert isinstance(ostree, dict)
    return {**found, "image": {**image, "architecture": "arm64"}, "ostree": {**ostree, "stateroot": "default"}}


def alpha(**slots: object) -> dict[str, object]:
    return {
        "apiVersion": "org.containers.bootc/v1alpha1",
        "kind": "BootcHost",
        "metadata": {"name": "host"},
        "spec": {"image": REFERENCE},
        "status": {"staged": None, "booted": None, "rollback": None, "isContainer": False} | slots,
    }


OF_OSTREE = {
    "image": None,
    "cachedUpdate": None,
    "incompatible": True,
    "pinned": False,
    "store": None,
    "ostree": {"checksum": "c" * 64, "deploySerial": 0},
}

KNOWN = {
    "v1alpha1, booted and staged": (alpha(booted=alpha_slot(1), staged=alpha_slot(2)), (1, 2, 0), False),
    "v1alpha1, nothing booted": (alpha(staged=alpha_slot(2), rollback=alpha_slot(3)), (0, 2, 3), False),
    "v1alpha1, staged and locked": (
        alpha(booted=newer_alpha_slot(1), staged=newer_alpha_slot(2, finalizationLocked=True)),
        (1, 2, 0),
        False,
    ),
    "v1alpha1, verified by an OSTree remote, some slots left out": (
        {
            "apiVersion": "org.containers.bootc/v1alpha1",
            "kind": "BootcHost",
            "metadata": {"name": "host"},
            "spec": {"image": {**REFERENCE, "signature": {"ostreeRemote": "fleet"}}},
            "status": {"booted": alpha_slot(1), "rollback": None, "isContainer": False},
        },
        (1, 0, 0),
        False,
    ),
    "v1": (host(booted=slot(1), rollback=slot(3)), (1, 0, 3), False),
    "v1, going back": (host(booted=slot(1), rollback=slot(3), rollbackQueued=True), (1, 0, 3), True),
    "composefs": (host(booted=composefs_slot(1), staged=composefs_slot(2)), (1, 2, 0), False),
    "other deployments, and what no version has yet": (
        {**host(booted=slot(1, tomorrow={"a": [1]}), otherDeployments=[slot(9)]), "next": 1},
        (1, 0, 0),
        False,
    ),
}


@pytest.mark.parametrize(("document", "numbers", "queued"), KNOWN.values(), ids=KNOWN)
def test_each_version_is_read(document: dict[str, object], numbers: tuple[int, int, int], queued: bool) -> None:
    found = parse(json.dumps(document).encode())
    for entry, number in zip((found.booted, found.staged, found.rollback), numbers, strict=True):
        assert (entry is None) is (number == 0)
        if entry is not None:
            assert (entry.digest, entry.deployment) == (digest(number), f"{number:064x}")
            assert entry.image == found.image == "registry.example/edge-os:stable"
            assert entry.timestamp.startswith("2026-1")
    assert found.rollback_queued is queued


def test_a_deployment_that_was_not_made_from_an_image_has_a_checksum_alone() -> None:
    found = parse(json.dumps(host(booted=OF_OSTREE)).encode())
    assert found.booted == Entry(deployment="c" * 64, incompatible=True)


def test_on_the_way_from_packages_to_an_image_the_staged_one_alone_has_a_digest() -> None:
    """As in `spec-ostree-to-bootc.yaml`; there, and in `spec-via-local-oci.yaml`, nobody says when it was built."""
    staged = slot(2)
    image = staged["image"]
    assert isinstance(image, dict)
    reference = {"image": "/var/mnt/edge-os", "transport": "oci"}
    staged["image"] = {**image, "image": reference, "timestamp": None}
    found = parse(json.dumps(host(staged=staged, booted=OF_OSTREE, type=None)).encode())
    assert found.booted is not None
    assert (found.booted.digest, found.booted.image) == ("", "")
    assert found.coming == Entry("/var/mnt/edge-os", digest(2), "42.2", "", f"{2:064x}")
    told = bootc.images(found, 7, "b1").staged
    assert told is not None
    assert told.built_ms == 0


@pytest.mark.parametrize(
    ("document", "number"),
    [
        (host(booted=slot(1)), 0),
        (host(booted=slot(1), staged=slot(2), rollback=slot(3)), 2),
        (host(booted=slot(1), staged=slot(2), rollback=slot(3), rollbackQueued=True), 2),
        (host(booted=slot(1), rollback=slot(3), rollbackQueued=True), 0),
        (host(booted=slot(1), staged=slot(2, downloadOnly=True)), 0),
        (alpha(booted=alpha_slot(1), staged=alpha_slot(2, finalizationLocked=True)), 0),
        (host(booted=slot(1), staged=OF_OSTREE), -1),
    ],
)
def test_what_an_upgrade_leads_to_has_a_name(document: dict[str, object], number: int) -> None:
    found = parse(json.dumps(document).encode()).coming
    assert (found.name if found else "") == {0: "", -1: "c" * 64}.get(number, digest(number))


@pytest.mark.parametrize(
    ("document", "number"),
    [
        (host(booted=slot(1), rollback=slot(3)), 0),
        (host(booted=slot(1), staged=slot(2)), 0),
        (host(booted=slot(1), staged=slot(2), rollback=slot(3), rollbackQueued=True), 3),
        (host(booted=slot(1), rollback=OF_OSTREE, rollbackQueued=True), -1),
        (host(booted=slot(1), rollbackQueued=True), 0),
        (host(booted=composefs_slot(1), rollback=composefs_slot(3)), 3),
        (host(booted=composefs_slot(1), rollback=composefs_slot(3), rollbackQueued=True), 3),
        (host(booted=composefs_slot(1)), 0),
    ],
)
def test_what_a_rollback_leads_to_has_a_name(document: dict[str, object], number: int) -> None:
    found = parse(json.dumps(document).encode()).going_back
    assert (found.name if found else "") == {0: "", -1: "c" * 64}.get(number, digest(number))


@pytest.mark.parametrize(
    "document",
    [
        host(),
        {**host(type=None), "spec": {"image": None, "bootOrder": "default"}},
        {"kind": "BootcHost"},
        {"kind": "BootcHost", "spec": None, "status": None},
    ],
)
def test_a_host_that_is_none_of_bootcs_has_nothing(document: dict[str, object]) -> None:
    found = parse(json.dumps(document).encode())
    assert (found.booted, found.staged, found.rollback) == (None, None, None)


@pytest.mark.parametrize(
    "printed",
    [b"", b"{", b"\xff", b"[]", b"{}", b'{"kind": "Pod"}', b'{"kind": "BootcHost", "status": 3}', b"[" * 100_000],
)
def test_what_is_no_status_is_refused_by_a_stable_word(printed: bytes) -> None:
    with pytest.raises(EdgedError) as caught:
        parse(printed)
    assert caught.value.code is Code.OS_FAILED
    assert len(str(caught.value)) < 1000


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda one: st.dictionaries(st.text(), one)
)


@given(ANYTHING)
def test_no_section_makes_another_error(section: object) -> None:
    for part in ({"status": section}, {"spec": section}, {"status": {"booted": section}}):
        with contextlib.suppress(EdgedError):
            parse(json.dumps({"kind": "BootcHost", **part}).encode())


def test_what_an_operator_is_told_has_the_images_own_time() -> None:
    told = bootc.images(parse(json.dumps(host(booted=slot(1), rollback=OF_OSTREE)).encode()), 7, "b1")
    assert told.booted is not None
    assert told.booted.built_ms == datetime(2026, 11, 1, 4, 5, 6, tzinfo=UTC).timestamp() * 1000
    assert (told.at_ms, told.boot, told.booted.digest, told.booted.version) == (7, "b1", digest(1), "42.1")
    assert told.rollback is not None
    assert told.rollback.built_ms == 0
    assert told.staged is None


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bootc:
    made = Bootc(tmp_path / "os")
    monkeypatch.setenv("PATH", str(made.bin), prepend=":")
    return made


def test_it_is_asked_in_fixed_words(tool: Bootc) -> None:
    assert bootc.status().booted is not None
    bootc.upgrade()
    bootc.switch("registry.example/other@" + digest(4))
    bootc.roll_back()
    assert tool.asked == [
        "bootc status --format=json",
        "bootc upgrade --quiet",
        f"bootc switch --quiet registry.example/other@{digest(4)}",
        "bootc status --format=json",
        "bootc rollback",
    ]


def test_what_goes_back_already_is_not_asked_to_again(tool: Bootc) -> None:
    tool.says(host(booted=slot(1), rollback=slot(2), rollbackQueued=True))
    bootc.roll_back()
    assert tool.changes == []


@pytest.mark.parametrize("queued", [False, True])
def test_with_composefs_what_goes_back_is_asked_to_always(tool: Bootc, queued: bool) -> None:
    """It cannot be told whether it goes back already."""
    tool.says(host(booted=composefs_slot(1), rollback=composefs_slot(2), rollbackQueued=queued))
    bootc.roll_back()
    assert tool.changes == ["bootc rollback"]


def test_its_failure_is_told_in_its_own_words(tool: Bootc) -> None:
    tool.fails("upgrade", "error: Pulling: no route to host\n")
    with pytest.raises(EdgedError, match="no route to host") as caught:
        bootc.upgrade()
    assert caught.value.code is Code.OS_FAILED


def test_a_system_without_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EdgedError, match="has no bootc") as caught:
        bootc.status()
    assert caught.value.code is Code.UNSUPPORTED
