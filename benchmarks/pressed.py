"""Measures what watching the device costs while nothing happens, and how soon edged acts on real memory pressure.

The pressure is real: processes in a small control group read a file that does not fit (tests/sim/hog.py), and the
kernel's own trigger, armed here as edged arms it, says when it began. It makes a control group of version 1 for that;
where it cannot, only the idle watch is measured.
It fails for no number; the budgets stand beside what was measured.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edged import log
from edged._pb.inference import grpc_service_pb2 as pb
from edged.events import EventLog
from edged.pressure import stall
from edged.pressure.governor import Governor
from edged.pressure.monitor import Monitor
from edged.pressure.policy import Policy
from edged.pressure.stall import Triggers
from edged.types import Level, Limits

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from sim import sysfs
from sim.hog import Hog
from support.daemon import DIGITS, Daemon

DWELL_S = 5.0
_PATIENCE_S = 120.0


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="how long the idle watch is looked at")
    chosen = parser.parse_args()
    log.configure("error", "console")
    table = Table(title="Watching, and real memory pressure", title_justify="left")
    for head in ("", "measured", "budget"):
        table.add_column(head)
    with tempfile.TemporaryDirectory(prefix="edged-pressed-") as folder:
        core, wakes = asyncio.run(idle(Path(folder), chosen.seconds))
        table.add_row("idle watch of a gateway's sensors, of a core", f"{core:.3%}", "< 0.1 %")
        table.add_row("its wake-ups a second, both threads", f"{wakes:.2f}", "≤ 1")
        if Hog.possible():
            pressed(Path(folder), table)
    Console(width=110).print(table)


async def idle(folder: Path, seconds: float) -> tuple[float, float]:
    """The share of a core that a monitor takes on a cool and idle gateway, and how often a second its threads wake."""
    tree = sysfs.gateway(folder / "gateway")
    monitor = Monitor(tree.root, folder, Governor(Policy()), EventLog(100), lambda _: None, lambda: 0.0)
    task = asyncio.create_task(monitor.run({}))
    await asyncio.sleep(6)  # found, and looked at once
    before, began = _used(), time.monotonic()
    await asyncio.sleep(seconds)
    used, passed_s = _used(), time.monotonic() - began
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return (used[0] - before[0]) / passed_s, (used[1] - before[1]) / passed_s


def _used() -> tuple[float, int]:
    found = resource.getrusage(resource.RUSAGE_SELF)
    return found.ru_utime + found.ru_stime, found.ru_nvcsw


def pressed(folder: Path, table: Table) -> None:
    """A real daemon whose important model is asked all the while."""
    settings = f"[pressure]\ndwell_s = {DWELL_S:g}\n"
    hog = Hog(folder)
    with Daemon(folder / "root", [DIGITS], settings).start() as daemon:
        callers = _Callers(daemon)
        try:
            reaction_s, back_s = asyncio.run(_press(hog, folder))
        finally:
            hog.relieve()
            callers.end()
    table.add_row("from the kernel's trigger to limits that hold", f"{reaction_s * 1000:.0f} ms", "≤ 1 s")
    table.add_row("from the last trigger to nominal", f"{back_s:.1f} s", f"about the dwell time, {DWELL_S:g} s")
    table.add_row("requests of the important model, answered", f"{callers.answered} of {callers.asked}", "all")
    table.add_row("its longest answer", f"{callers.longest_s * 1000:.0f} ms", "")


async def _press(hog: Hog, folder: Path) -> tuple[float, float]:
    """How soon a monitor acts after the first trigger, and is back after the last."""
    fired: list[float] = []
    taken: asyncio.Queue[tuple[float, Limits]] = asyncio.Queue()
    triggers = Triggers(lambda _: fired.append(time.monotonic()))
    for wanted in stall.wanted(Path("/"), [], {}):
        if wanted.name == "memory.some":
            triggers.arm(wanted)
    root = Path("/")
    monitor = Monitor(
        root,
        folder,
        Governor(Policy(dwell_s=DWELL_S)),
        EventLog(100),
        lambda limits: taken.put_nowait((time.monotonic(), limits)),
        lambda: 0.0,
    )
    task = asyncio.create_task(monitor.run({}))
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.to_thread(hog.press)
            while (found := await taken.get())[1].level is Level.NOMINAL:
                pass
            reaction_s = found[0] - (fired[0] if fired else found[0])
            await asyncio.to_thread(hog.relieve)
            while (found := await taken.get())[1].level is not Level.NOMINAL:
                pass
            return reaction_s, found[0] - fired[-1]
    finally:
        triggers.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Callers:
    """One who asks digits, the first priority, again and again."""

    def __init__(self, daemon: Daemon) -> None:
        self.asked = self.answered = 0
        self.longest_s = 0.0
        self._daemon = daemon
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        given = pb.ModelInferRequest.InferInputTensor(name="image", datatype="FP32", shape=[1, 1, 8, 8])
        image = pb.ModelInferRequest(model_name="digits", inputs=[given], raw_input_contents=[bytes(256)])
        image.parameters["priority"].int64_param = 1
        while not self._end.is_set():
            began = time.monotonic()
            self.asked += 1
            self._daemon.infer(image)
            self.answered += 1
            self.longest_s = max(self.longest_s, time.monotonic() - began)

    def end(self) -> None:
        """Waits for the last answer."""
        self._end.set()
        self._thread.join()


if __name__ == "__main__":
    main()
