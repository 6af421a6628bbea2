"""The tables `[telemetry]` and `[mqtt]` of the settings."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from edged.config.kinds import AbsolutePath, Table


class Telemetry(Table, frozen=True, kw_only=True):
    """What is summed up of this device, and how much of it is kept while nobody takes it."""

    window_s: Annotated[
        int,
        Meta(
            ge=1,
            le=3600,
            description="How long a window is; each is one write to the disk.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 300
    spool_mib: Annotated[
        int,
        Meta(
            ge=1,
            le=1024,
            description="The most that telemetry takes on the disk; beyond it, the oldest neighbours are merged.",
            extra={"unit": "MiB"},
        ),
    ] = 8
    daily_write_mib: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="The most that telemetry writes to the disk in a day; beyond it, windows last an hour.",
            extra={"unit": "MiB", "reload": True},
        ),
    ] = 64
    send: Annotated[
        Literal["hours", "windows"],
        Meta(
            description="Whether windows go out merged to an hour, or as they are.",
            extra={"allowed": 'one of "hours", "windows"', "reload": True},
        ),
    ] = "hours"


class Mqtt(Table, frozen=True, kw_only=True):
    """The broker that telemetry goes to and commands come from."""

    broker: Annotated[
        str,
        Meta(
            pattern=r"^(mqtts?://[0-9A-Za-z.:%\[\]_-]{1,255})?\Z",
            description="The broker; without one, telemetry stays on this device.",
            extra={"allowed": '"" for none, or a URL such as "mqtts://broker.example:8883"'},
        ),
    ] = ""
    username: Annotated[
        str,
        Meta(
            max_length=128,
            description="The name to log in with, where the broker wants one; the password is a credential.",
            extra={"allowed": '"" for none, or at most 128 letters'},
        ),
    ] = ""
    certificate: Annotated[
        AbsolutePath,
        Meta(description="The certificate chain that the broker is shown, as PEM; read again when it changes."),
    ] = "/var/lib/edged/identity/certificate.pem"
    key: Annotated[
        AbsolutePath,
        Meta(description="The private key of the certificate, as PEM."),
    ] = "/var/lib/edged/identity/key.pem"
    ca: Annotated[
        AbsolutePath,
        Meta(
            description="The authorities that may vouch for the broker, as PEM; without the file, those of the system."
        ),
    ] = "/var/lib/edged/identity/ca.pem"
    keep_alive_s: Annotated[
        int,
        Meta(
            ge=5,
            le=65_535,
            description="How long the connection may be silent before both sides make sure of each other.",
            extra={"unit": "s"},
        ),
    ] = 900
    rows_per_minute: Annotated[
        int,
        Meta(
            ge=1,
            le=60_000,
            description="How fast what was kept goes out when the connection is back.",
            extra={"unit": "rows/min", "reload": True},
        ),
    ] = 120
    jitter_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How long a device that is back waits at most, by chance, before it sends what was kept.",
            extra={"unit": "s", "reload": True},
        ),
    ] = 10.0
    unsigned_commands: Annotated[
        bool,
        Meta(
            description="Whether `refresh` and `report` are obeyed without a signature.",
            extra={"reload": True},
        ),
    ] = False
