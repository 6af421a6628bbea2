"""Variants that the device builds for itself, by OpenVINO: built once, taken from the cache, built again when stale."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.daemon import Daemon
from support.deriving import BEST, PORTABLE, answer, cached, events, runs, twice_bundle

from edged.runtimes.base import ENGINES

pytestmark = pytest.mark.skipif(ENGINES["openvino"].version() is None, reason="openvino is not installed")


def test_it_is_built_once_and_taken_from_the_cache_at_the_next_start(tmp_path: Path) -> None:
    with Daemon(tmp_path / "root", [twice_bundle(tmp_path)]) as daemon:
        daemon.start()
        daemon.wait_for(lambda status: runs(status, BEST))
        assert answer(daemon) == [2.0, 4.0]
        (built,) = events(daemon, "variant_built")
        assert built.details["variant"] == BEST
        (changed,) = events(daemon, "variant_changed")
        assert f"instead of {PORTABLE}" in changed.message
        (file,) = cached(daemon.root)
        daemon.stop()
        daemon.told.clear()

        daemon.start()
        assert runs(daemon.status(), BEST)
        assert answer(daemon) == [2.0, 4.0]
        assert not events(daemon, "variant_built", "variant_changed")
        (ready,) = events(daemon, "model_ready")
        assert "with what was built on this device" in ready.details["made"]
        assert cached(daemon.root) == [file]
