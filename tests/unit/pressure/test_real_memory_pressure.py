"""Real memory pressure, the kernel's real trigger, the real monitor."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sim.hog import Hog
from support.polling import PATIENCE_S

from edged.events import EventLog
from edged.pressure.governor import Governor
from edged.pressure.monitor import Monitor
from edged.pressure.policy import Policy
from edged.types import Level, Limits


@pytest.mark.skipif(not Hog.possible(), reason="no memory control group of version 1 can be made here")
@pytest.mark.skipif(not Path("/proc/pressure/memory").exists(), reason="this kernel keeps no stall information")
async def test_the_daemon_degrades_while_memory_is_short_and_is_back_the_dwell_time_after(tmp_path: Path):
    taken: asyncio.Queue[Limits] = asyncio.Queue()
    events = EventLog(100)
    governor = Governor(Policy(dwell_s=3.0))
    monitor = Monitor(Path("/"), tmp_path, governor, events, taken.put_nowait, lambda: 0.0)
    task = asyncio.create_task(monitor.run({}))
    hog = Hog(tmp_path)
    try:
        await asyncio.to_thread(hog.press)

        async with asyncio.timeout(PATIENCE_S):
            while (await taken.get()).level is Level.NOMINAL:
                pass
        await asyncio.to_thread(hog.relieve)

        async with asyncio.timeout(PATIENCE_S):
            while (await taken.get()).level is not Level.NOMINAL:
                pass
        assert any("memory.some" in event.message for event in events.after(0))
    finally:
        await asyncio.to_thread(hog.relieve)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
