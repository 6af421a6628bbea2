"""What goes out and comes in over MQTT: the messages of protos/edged/v1/telemetry.proto, as JSON."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edged.telemetry.window import SCHEMA, Totals, Window


class Lost(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the spool could not keep since it was made. Totals hold all that entered a window, if it met no defect."""

    windows: int = 0
    events: int = 0


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """One window: on `…/telemetry`. Two messages with the same epoch, first and last are the same message."""

    schema: int = SCHEMA
    epoch: int
    first: int
    last: int
    window: Window
    totals: Totals
    """Everything up to and with this window."""
    lost: Lost = Lost()


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the daemon decided or noticed."""

    at_ms: int
    severity: str
    code: str
    subject: str
    message: str
    details: dict[str, str] = {}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """On `…/event`."""

    schema: int = SCHEMA
    epoch: int
    first: int
    last: int
    event: Happening


class Online(msgspec.Struct, frozen=True, kw_only=True):
    """On `…/online`, retained: birth and will. A will whose session is not that of the latest birth came late."""

    schema: int = SCHEMA
    online: bool
    session: str


class ServedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model on this device."""

    name: str
    revision: int
    digest: str
    variant: str = ""
    state: str
    reason: str = ""
    previous_revision: int = 0
    phase: str = ""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """On `…/state`, retained: all that a dashboard shows of a device before the first window has come."""

    schema: int = SCHEMA
    device: str
    fleet: str
    hardware_class: str
    memory_mib: int = 0
    accelerators: list[str] = []
    version: str
    engines: dict[str, str] = {}
    os: str = ""
    mode: str
    reasons: list[str] = []
    level: str = "nominal"
    models: list[ServedModel] = []
    epoch: int = 0
    sequence: int = 0
    architecture: str = ""
    processors: int = 0
    kernel: str = ""
    os_digest: str = ""
    os_staged: str = ""
    clock_synchronized: bool = False


class Command(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator signs. `device` and `hardware_class` say whom it is for; neither: the whole fleet."""

    schema: int
    command: Annotated[str, Meta(min_length=1, max_length=64)]
    arguments: Annotated[dict[str, Annotated[str, Meta(max_length=256)]], Meta(max_length=16)] = {}
    fleet: Annotated[str, Meta(min_length=1, max_length=64)]
    device: Annotated[str, Meta(max_length=128)] = ""
    hardware_class: Annotated[str, Meta(max_length=64)] = ""
    issued_ms: Annotated[int, Meta(ge=0, le=2**53)]
    expires_ms: Annotated[int, Meta(ge=0, le=2**53)]
    nonce: Annotated[str, Meta(min_length=16, max_length=64, pattern=r"^[0-9A-Za-z_-]+\Z")]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """On `…/result`, and on the response topic where the command named one."""

    schema: int = SCHEMA
    device: str
    nonce: str = ""
    command: str = ""
    operator: str = ""
    status: str
    """accepted, rejected or done."""
    code: str = ""
    text: str = ""
    details: dict[str, Any] = {}
