"""A worker that is replaced where one process at a time can have its device."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.edgetpus import build_library, bundle_of_one_variant
from support.polling import PATIENCE_S, until_changed

from edged.bundle.folder import read_manifest
from edged.changes import Changes
from edged.config.settings import Workers
from edged.events import EventLog
from edged.models.renewing import renew
from edged.models.resident import Resident
from edged.models.states import Source
from edged.runtimes.base import ENGINES
from edged.system.hardware import Hardware
from edged.worker.templates import spawned


@pytest.mark.skipif(ENGINES["edgetpu"].version() is None, reason="ai-edge-litert is not installed")
async def test_the_next_worker_loads_once_the_one_before_has_let_go_of_the_edge_tpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(build_library(tmp_path / "library")))
    made = bundle_of_one_variant(tmp_path)
    source, runtimes = Source(made, read_manifest(made), "factory"), {"edgetpu": ENGINES["edgetpu"].version()}
    changes = Changes()
    resident = Resident(source, Hardware("coral"), runtimes, Workers(), changes, EventLog(100), spawned)
    resident.start()
    try:
        await until_changed(changes, lambda: not resident.loading)
        async with asyncio.timeout(PATIENCE_S):
            before = resident.worker
            assert before is not None, resident.reason
            told = await renew(resident, "a test says so")
        assert told == "one process at a time can have its device, so requests waited until the new one was loaded"
        assert resident.ready
        assert resident.worker is not before
        assert resident.choice.passed_over == []
        assert before.gone.done()
    finally:
        await resident.stop()
