"""`edgectl sensors`: what can be read on this device; no daemon is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from edged.ctl import output
from edged.ctl.asked import Asked, common
from edged.ctl.words import size
from edged.pressure import stall, trust
from edged.pressure.policy import Thresholds, doubts, policy_of, thresholds
from edged.pressure.probe import Probe, Value
from edged.pressure.readings import Readings, Trip
from edged.pressure.sensors import Sensors


class Shown(msgspec.Struct, frozen=True):
    """One sensor, as it is shown."""

    name: str
    value: Value
    unit: str
    acts: bool
    source: str
    doubts: tuple[str, ...] = ()
    limits: Thresholds | None = None
    trips: tuple[Trip, ...] = ()


@click.command
@common
@click.pass_obj
def sensors(asked: Asked) -> None:
    """What this device tells of its heat, memory, power and storage.

    ACTS says whether edged acts on it, BELOW what it is held below. Needs no edged; a reading that is not believed is
    named beneath, as far as one look can tell.
    """
    settings = asked.settings
    found = Sensors(asked.root, Path(settings.under(asked.root).paths.state))
    policy = policy_of(settings.pressure)
    shown = []
    for probe in found.probes:
        trips = probe.trips() if probe.trips and probe.steers else ()
        value = probe.read()
        limits = thresholds(trips, policy) if probe.steers else None
        acts = probe.steers or probe.throttles
        said = (*_lies(probe, value), *doubts(trips))
        shown.append(Shown(probe.name, value, probe.unit, acts, probe.source, said, limits, trips))
    readings = found.read(stall.system(asked.root))
    if asked.as_json:
        output.document(_data(shown, readings))
        return
    columns = ("SENSOR", "VALUE", "UNIT", "ACTS", "BELOW", "SOURCE")
    rows = [
        (each.name, _value(each.value), each.unit, "yes" if each.acts else "", _below(each.limits), each.source)
        for each in shown
    ]
    right = ("VALUE", "BELOW")
    if rows:
        output.table(output.Table([output.Column(title, right=title in right) for title in columns], rows))
        output.line()
    output.table(output.fields(_rest(readings)))
    lies = [f"{each.name}: {doubt}" for each in shown for doubt in each.doubts]
    if lies:
        output.line()
    for line in lies:
        output.line(line)


def _lies(probe: Probe, value: Value) -> tuple[str, ...]:
    if not probe.steers or not isinstance(value, float):
        return ()
    doubt = trust.judge(None, value, 0.0, 0.0).doubt
    return (doubt,) if doubt else ()


def _value(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else value or "-"


def _below(limits: Thresholds | None) -> str:
    return f"{limits.set_c:g}" if limits else ""


def _rest(readings: Readings) -> list[tuple[str, str]]:
    """What is no single number."""
    rows = []
    if memory := readings.memory:
        rows.append(("memory", f"{size(memory.available_bytes)} of {size(memory.limit_bytes)} left"))
    if storage := readings.storage:
        inodes = f", {storage.free_inodes} of {storage.total_inodes} inodes" if storage.total_inodes else ""
        state = "" if storage.writable else ", read-only"
        rows.append(("storage", f"{size(storage.free_bytes)} of {size(storage.total_bytes)} free{inodes}{state}"))
    if power := readings.power:
        words = {True: "on mains", False: "not on mains", None: "mains unknown"}[power.mains]
        charge = "" if power.charge_percent is None else f", battery {power.charge_percent:g} %"
        rows.append(("power", words + charge + (", voltage too low" if power.undervoltage else "")))
    for resource, found in readings.stalls.items():
        rows.append((f"{resource} stalls", f"some {found.some_percent:g} %, all {found.full_percent:g} % of 10 s"))
    return rows or [("nothing", "this root has no /proc and no /sys")]


def _data(shown: list[Shown], readings: Readings) -> dict[str, Any]:
    return {
        "sensors": [msgspec.to_builtins(each) for each in shown],
        "memory": msgspec.to_builtins(readings.memory),
        "storage": msgspec.to_builtins(readings.storage),
        "power": msgspec.to_builtins(readings.power),
        "stalls": msgspec.to_builtins(readings.stalls),
    }
