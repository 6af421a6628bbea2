"""What is told of a boot: once, with its image, and with the reason where the system went back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from support.polling import until_async

from edged.events import Event, EventLog
from edged.system import deployment, outcome
from edged.system.deployment import Boot
from edged.system.os_requests import STATUS, OsImage, OsRequests, OsStatus
from edged.system.outcome import Told

ONE, TWO = "/ostree/boot.1/default/aaaa/0", "/ostree/boot.0/default/bbbb/0"
THREE = "/ostree/boot.1/default/cccc/0"
IMAGE = OsImage(image="registry.example/edge-os:stable", version="42.1", digest="sha256:1")
RED = Boot(
    "b2", TWO, good=False, wrong=("model 'digits' served under the last deployment and does not under this one",)
)


@pytest.mark.parametrize(
    ("now", "before", "boots", "code", "part"),
    [
        (Told("b1", ONE), Told(), [Boot("b1", ONE, good=True)], None, ""),
        (Told("b2", ONE), Told("b1", ONE), [Boot("b2", ONE, good=True)], None, ""),
        (Told("b2", TWO), Told("b1", ONE), [Boot("b2", TWO, good=True)], "os_changed", "passed its boot check"),
        (Told("b2", TWO), Told("b1", ONE), [], "os_changed", "nothing checks boots here"),
        (Told("b2", TWO), Told("b1", ONE), [RED], "os_boot_red", "model 'digits' served"),
        (
            Told("b3", ONE),
            Told("b2", TWO),
            [Boot("b1", ONE, good=True), RED, Boot("b3", ONE, good=True)],
            "os_rolled_back",
            "model 'digits' served",
        ),
        (Told("b3", ONE), Told("b1", ONE), [Boot("b1", ONE, good=True), RED], "os_rolled_back", TWO),
        (
            Told("b3", ONE),
            Told("b2", TWO),
            [Boot("b2", TWO, good=False)],
            "os_rolled_back",
            "a reason that is not edged's",
        ),
        (Told("b3", TWO), Told("b2", TWO), [RED, Boot("b3", TWO, good=True)], "os_changed", "passed its boot check"),
        (Told("b3", TWO), Told("b2", TWO), [RED], None, ""),
        (
            Told("b3", THREE),
            Told("b2", TWO),
            [Boot("b1", ONE, good=True), RED, Boot("b3", THREE, good=True)],
            "os_changed",
            "passed its boot check",
        ),
        (
            Told("b3", ONE),
            Told("b2", ONE),
            [Boot("b2", "", good=False), Boot("b3", ONE, good=True)],
            "os_changed",
            "passed its boot check",
        ),
        (Told("b4", ONE), Told("b3", ONE), [RED, Boot("b3", ONE, good=True)], None, ""),
    ],
)
def test_each_course_is_told(now: Told, before: Told, boots: list[Boot], code: str | None, part: str) -> None:
    found = outcome.outcome(now, before, boots, IMAGE)
    assert (found.code if found else None) == code
    if found is not None:
        assert part in found.text
        assert IMAGE.digest in found.text


def test_without_bootc_the_deployment_is_named() -> None:
    found = outcome.outcome(Told("b2", TWO), Told("b1", ONE), [], None)
    assert found is not None
    assert TWO in found.text


def boot(root: Path, name: str, where: str, keeper: str = "ostree") -> None:
    folder = root / "proc/sys/kernel/random"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "boot_id").write_text(f"{name}\n")
    (root / "proc/cmdline").write_text(f"{keeper}={where} rw\n")
    says(root, name, IMAGE)


def says(root: Path, boot: str, image: OsImage) -> None:
    """What the helper says of the images."""
    path = root / "var/lib/edged" / STATUS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(OsStatus(boot=boot, booted=image)))


async def told(root: Path) -> list[str]:
    return [event.code for event in await events_of(root)]


async def events_of(root: Path) -> list[Event]:
    events = EventLog(10)
    await outcome.report(root, root / "var/lib/edged", events)
    return list(events.after(0))


@pytest.mark.parametrize("keeper", ["ostree", "composefs"])
async def test_over_three_boots_each_is_told_once(tmp_path: Path, keeper: str) -> None:
    boot(tmp_path, "b1", ONE, keeper)
    deployment.note(tmp_path, Boot("b1", ONE, good=True))
    assert await told(tmp_path) == []
    boot(tmp_path, "b2", TWO, keeper)
    deployment.note(tmp_path, RED)
    assert await told(tmp_path) == ["os_boot_red"]
    assert await told(tmp_path) == [], "a restart of the daemon tells nothing again"
    boot(tmp_path, "b3", ONE, keeper)
    deployment.note(tmp_path, Boot("b3", ONE, good=True))
    assert await told(tmp_path) == ["os_rolled_back"]
    assert await told(tmp_path) == []


@pytest.fixture
async def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device that has just changed its deployment, and does not wait for what is said of that."""
    monkeypatch.setattr(outcome, "_LONGEST_S", 0.0)
    boot(tmp_path, "b1", ONE)
    assert await told(tmp_path) == []
    boot(tmp_path, "b2", TWO)
    return tmp_path


async def test_a_verdict_that_does_not_come_is_not_waited_for_for_ever(impatient: Path) -> None:
    assert await told(impatient) == ["os_changed"]


async def test_where_there_are_no_deployments_nothing_is_kept(tmp_path: Path) -> None:
    assert await told(tmp_path) == []
    assert not (tmp_path / "var").exists()


async def test_the_image_is_this_boots_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "_LOOK_S", 0.01)
    boot(tmp_path, "b1", ONE)
    deployment.note(tmp_path, Boot("b1", ONE, good=True))
    assert await told(tmp_path) == []
    boot(tmp_path, "b2", TWO)
    says(tmp_path, "b1", IMAGE)
    deployment.note(tmp_path, Boot("b2", TWO, good=True))
    looked, status = [], OsRequests.status
    monkeypatch.setattr(OsRequests, "status", lambda requests: looked.append(1) or status(requests))
    telling = asyncio.create_task(events_of(tmp_path))
    await until_async(lambda: len(looked) > 2, "it has looked again")
    assert not telling.done()
    says(tmp_path, "b2", OsImage(image="registry.example/edge-os:stable", version="42.2", digest="sha256:2"))
    (event,) = await asyncio.wait_for(telling, 60)
    assert (event.code, "sha256:2" in event.message) == ("os_changed", True)


async def test_an_image_that_nobody_tells_is_not_waited_for_for_ever(impatient: Path) -> None:
    says(impatient, "b1", IMAGE)
    (event,) = await events_of(impatient)
    assert f"deployment {TWO}" in event.message
    assert IMAGE.digest not in event.message


def test_verdicts_are_few_and_one_over_the_same_boot_replaces_the_other(tmp_path: Path) -> None:
    for number in range(20):
        deployment.note(tmp_path, Boot(f"b{number}", ONE, good=False))
        deployment.note(tmp_path, Boot(f"b{number}", ONE, good=True))
    kept = deployment.boots(tmp_path)
    assert [each.boot for each in kept] == [f"b{number}" for number in range(12, 20)]
    assert all(each.good for each in kept)


@pytest.mark.parametrize("content", [b"", b"{", json.dumps([{"boot": 3}]).encode(), b"\xff"])
def test_damaged_verdicts_are_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / deployment.FOLDER / "boots.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert deployment.boots(tmp_path) == []
