"""The settings of the table [pressure]: their types, bounds, defaults, units and meanings."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Pressure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When edged gives things up, before the kernel throttles or kills."""

    margin_c: Annotated[
        float,
        Meta(
            ge=1,
            le=30,
            description="How far below the temperature at which the kernel throttles the device is held.",
            extra={"unit": "°C", "reload": True},
        ),
    ] = 3.0
    throttle_c: Annotated[
        float,
        Meta(
            ge=40,
            le=120,
            description="That temperature, for sensors whose trip points do not name it.",
            extra={"unit": "°C", "reload": True},
        ),
    ] = 85.0
    hysteresis_c: Annotated[
        float,
        Meta(
            ge=0.5,
            le=20,
            description="How much cooler than where a level began it must be for the level to end.",
            extra={"unit": "°C", "reload": True},
        ),
    ] = 3.0
    horizon_s: Annotated[
        float,
        Meta(
            ge=5,
            le=600,
            description="edged acts on the temperature that it expects in this time.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 30.0
    dwell_s: Annotated[
        float,
        Meta(
            ge=1,
            le=3600,
            description="How long it must have been better before a level falls; only new danger changes it sooner.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 60.0
    memory_reserve_mib: Annotated[
        int,
        Meta(
            ge=0,
            le=1048576,
            description="The memory that is kept free; models are not loaded into it.",
            extra={"unit": "MiB", "reload": True},
        ),
    ] = 128
    memory_limit_mib: Annotated[
        int,
        Meta(
            ge=0,
            le=16777216,
            description="The memory that edged and its workers may take together; 0: whatever there is.",
            extra={"unit": "MiB", "reload": True},
        ),
    ] = 0
    idle_s: Annotated[
        float,
        Meta(
            ge=1,
            le=86400,
            description="A model that nobody asked for so long may be unloaded under pressure, until somebody asks.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 60.0
    storage_reserve_mib: Annotated[
        int,
        Meta(
            ge=1,
            le=1048576,
            description="The space that is kept free for the journal in the file system of paths.state.",
            extra={"unit": "MiB", "reload": True},
        ),
    ] = 256
    write_budget_mib: Annotated[
        int,
        Meta(
            ge=0,
            le=16777216,
            description="What edged may write to disks in a day before background work waits; 0: no bound.",
            extra={"unit": "MiB", "reload": True},
        ),
    ] = 0
    battery_low_percent: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="A battery below this, without mains, is elevated pressure; below half of it critical.",
            extra={"unit": "%", "reload": True},
        ),
    ] = 20.0
    stall_percent: Annotated[
        float,
        Meta(
            ge=1,
            le=100,
            description="Tasks waiting so much of the time for a resource are pressure; used where triggers cannot be.",
            extra={"unit": "%", "reload": True},
        ),
    ] = 40.0
    trace_mib: Annotated[
        int,
        Meta(
            ge=0,
            le=1024,
            description="Space for a trace of all readings and decisions in paths.state; 0: none is kept.",
            extra={"unit": "MiB"},
        ),
    ] = 0
