"""Runs the tour: `python -m tools.demo`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console

import tools.demo
from tools.demo import asking, reporting, updating
from tools.demo.device import Device, left_in, workers_of
from tools.demo.fleet import Fleet
from tools.demo.reporting import Broker
from tools.demo.saying import save, step


def main() -> None:
    """Runs the tour; exits 1 when any part of it is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=tools.demo.__doc__)
    parser.add_argument("--svg", type=Path, help="also save the tour as a picture")
    picture: Path | None = parser.parse_args().svg
    out = Console(record=picture is not None, width=110 if picture else None, highlight=False)
    with tempfile.TemporaryDirectory(prefix="edged-demo-") as folder:
        tour(out, Path(folder))
    if picture is not None:
        save(out, picture)


def tour(out: Console, folder: Path) -> None:
    """The tour, with everything below `folder`."""
    device = Device(folder / "device")
    fleet = Fleet(folder / "fleet")
    fleet.trusted_by(device.root)
    broker = Broker(folder / "broker")
    if broker.installed:
        broker.known_by(device.root)
        broker.start()
    try:
        took_s = device.start()
        step(out, "edged runs", f"ready after {took_s:.1f} s, process {device.pid}: edged --root {device.root}")
        asking.classify_all(out, device)
        asking.ask_wrongly(out, device)
        updating.update(out, device, fleet)
        updating.refuse(out, device, fleet)
        updating.roll_back(out, device, fleet)
        updating.cut_power(out, device, fleet)
        reporting.watch(out, device, broker)
    finally:
        status = device.end()
        broker.end()
    stopped(out, device, status)


def stopped(out: Console, device: Device, status: int) -> None:
    """Says that edged ended well. Exits when it did not, or left something behind."""
    if status != 0:
        sys.exit(f"edged ended with status {status}; its log:\n{device.log.read_text()}")
    if left := [*left_in(device.root / "run"), *workers_of(device.pid)]:
        sys.exit(f"edged left behind: {', '.join(left)}; its log:\n{device.log.read_text()}")
    step(out, "edged stopped", "SIGTERM, exit status 0, nothing left behind")


if __name__ == "__main__":
    main()
