"""Variants that the device builds for itself, by OpenVINO: built once, taken from the cache, built again when stale."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.daemon import Daemon
from support.deriving import BEST, NAME, PORTABLE, Callers, answer, cached, runs, twice_bundle
from support.fleet import Fleet
from support.updating import Updating

from edged._pb.edged.v1 import admin_pb2
from edged.runtimes.base import ENGINES

pytestmark = pytest.mark.skipif(ENGINES["openvino"].version() is None, reason="openvino is not installed")


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a device that has built, and stopped."""
    folder = tmp_path_factory.mktemp("used")
    with Daemon(folder / "root", [twice_bundle(folder)]) as daemon:
        daemon.start()
        daemon.wait_for(lambda status: runs(status, BEST))
    return folder / "root"


def test_it_is_built_once_and_taken_from_the_cache_at_the_next_start(tmp_path: Path) -> None:
    with Daemon(tmp_path / "root", [twice_bundle(tmp_path)]) as daemon:
        daemon.start()
        daemon.wait_for(lambda status: runs(status, BEST))
        assert answer(daemon) == [2.0, 4.0]
        (built,) = daemon.events("variant_built")
        assert built.details["variant"] == BEST
        (changed,) = daemon.events("variant_changed")
        assert f"instead of {PORTABLE}" in changed.message
        (file,) = cached(daemon.root)
        daemon.stop()
        daemon.told.clear()

        daemon.start()
        assert runs(daemon.status(), BEST)
        assert answer(daemon) == [2.0, 4.0]
        assert not daemon.events("variant_built", "variant_changed")
        (ready,) = daemon.events("model_ready")
        assert "with what was built on this device" in ready.details["made"]
        assert cached(daemon.root) == [file]


def other_engine(folder: Path, version: str) -> dict[str, str]:
    """The environment of a daemon whose image has another OpenVINO: its version is what an image installs."""
    installed = folder / f"openvino-{version}.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: openvino\nVersion: {version}\n")
    return {"PYTHONPATH": str(folder)}


def test_another_engine_has_it_built_again_while_the_portable_one_serves(tmp_path: Path, used: Path) -> None:
    shutil.copytree(used, tmp_path / "root", ignore=shutil.ignore_patterns("run", "notify"))
    with Daemon(tmp_path / "root") as daemon:
        daemon.start(environment=other_engine(tmp_path / "other", "1.0.0"))

        with Callers(daemon) as callers:
            daemon.wait_for(lambda status: runs(status, BEST))
            callers.until(3)

        assert set(callers.variants) == {PORTABLE, BEST}, "and no request failed"
        (built,) = daemon.events("variant_built")
        assert built.details["variant"] == BEST
        assert len(cached(daemon.root)) == 2
        daemon.stop()
        daemon.told.clear()

        daemon.start()
        assert runs(daemon.status(), BEST), "what the engine before had built serves once that is back"
        assert not daemon.events("variant_built")


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    replace(file, bytes(content))


def replace(file: Path, content: bytes) -> None:
    file.chmod(0o600)
    file.write_bytes(content)
    file.chmod(0o400)


def foreign(file: Path) -> None:
    """What it says that it is, and nothing that the engine has built."""
    content = b"nothing that openvino knows"
    name = f"{file.name[:64]}.{hashlib.sha256(content).hexdigest()}"
    file.unlink()
    file.with_name(name).touch()
    replace(file.with_name(name), content)


@pytest.mark.parametrize("spoil", [truncate, flip, foreign], ids=lambda spoil: spoil.__name__)
def test_what_is_damaged_or_anothers_is_built_again(tmp_path: Path, used: Path, spoil: Callable[[Path], None]) -> None:
    shutil.copytree(used, tmp_path / "root", ignore=shutil.ignore_patterns("run", "notify"))
    with Daemon(tmp_path / "root") as daemon:
        (file,) = cached(daemon.root)
        spoil(file)
        daemon.start()
        daemon.wait_for(lambda status: runs(status, BEST))
        assert answer(daemon) == [2.0, 4.0]
        codes = [event.code for event in daemon.events("derived_unusable", "variant_built", "variant_changed")]
        assert codes == ["derived_unusable", "variant_built", "variant_changed"]
        assert daemon.status().state == admin_pb2.STATE_SERVING
        assert cached(daemon.root) == [file]


def test_where_nothing_else_can_run_the_load_waits_for_it(tmp_path: Path) -> None:
    with Daemon(tmp_path / "root", [twice_bundle(tmp_path, portable=False)]) as daemon:
        daemon.start()
        assert runs(daemon.status(), BEST)
        assert [event.code for event in daemon.events("variant_built", "model_ready")] == [
            "variant_built",
            "model_ready",
        ]
        assert answer(daemon) == [2.0, 4.0]


def test_on_trial_it_is_built_before_it_is_judged(tmp_path: Path) -> None:
    fleet, root = Fleet(tmp_path / "fleet"), tmp_path / "root"
    with Daemon(root, [twice_bundle(tmp_path / "factory", 1)], fleet.trusted_by(root)) as daemon:
        updating = Updating(daemon.start())
        fleet.publish(twice_bundle(tmp_path / "wrong", 2, golden_factor=3.0))
        fleet.plan(NAME, 2)
        updating.look()
        updating.wait(lambda _: updating.last_reason(NAME) == "golden_mismatch", NAME)
        (failed,) = [each for each in updating.history(NAME) if each.reason == "golden_mismatch"]
        assert failed.text.startswith(f"{BEST}: ")

        fleet.publish(twice_bundle(tmp_path / "right", 3))
        fleet.plan(NAME, 3)
        updating.look()
        updating.wait(lambda model: model.phase == "idle" and model.serving == 3, NAME)
        assert runs(daemon.status(), BEST)
        ready = [event for event in daemon.events("model_ready") if event.details["revision"] == "3"]
        assert [event.details["variant"] for event in ready] == [BEST], "it never ran as another"
