"""The plan: which revision each hardware class runs, and how far a rollout has come. Pure.

One signed document, the target `plans/<fleet>.json`, serves a whole fleet: each device finds its own place in it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edged import schema
from edged.bundle.manifest import Revision
from edged.config.kinds import HardwareClass
from edged.errors import Code, EdgedError
from edged.types import ModelName

BUCKETS = 10_000
"""Into so many places a rollout divides the devices; a percent is a hundred of them."""

MAX_PLAN_BYTES = 8 * 1024 * 1024

MOST_MODELS = 1000
"""A device decides on each of them again and again, and keeps something of each that it is to have."""

DeviceName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.:-]{0,126}[A-Za-z0-9])?\Z",
        extra={
            "allowed": "1 to 128 of A-Z, a-z, 0-9, '-', '_', '.' and ':', beginning and ending with letter or digit"
        },
    ),
]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_TERMS = {"unit": "s"}


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A table of the plan."""


class Wave(_Table, frozen=True, kw_only=True):
    """How many devices take part once this wave is open, those of the waves before it included."""

    percent: Annotated[float, Meta(gt=0, le=100)] | None = None
    devices: Annotated[int, Meta(ge=1, le=10**9)] | None = None
    """A count, of the rollout's `population`: about so many."""
    min_soak_s: Annotated[float, Meta(ge=0, le=365 * 86_400, extra=_TERMS)] = 0
    """How long it is to be open before the next one opens, which the operator's side keeps to.

    So long a device of this wave also watches the revision before it commits it.
    """
    opens_at: Annotated[datetime, Meta(tz=True)] | None = None
    """Devices do not act on it before this time, even when it is the wave now open."""


class AbortRule(_Table, frozen=True, kw_only=True):
    """When the operator's side ends a rollout by itself."""

    failed_percent: Annotated[float, Meta(gt=0, le=100)] = 5
    min_devices: Annotated[int, Meta(ge=1, le=10**9)] = 10
    """It is not judged before so many devices have told how it went."""


class Rollout(_Table, frozen=True, kw_only=True):
    """The way from one revision to the next."""

    id: ModelName
    """Another id deals the devices anew into buckets."""
    revision: Revision
    waves: Annotated[tuple[Wave, ...], Meta(min_length=1, max_length=64)]
    open_wave: Annotated[int, Meta(ge=0, le=63)] = 0
    """The wave now open, counted from 0."""
    status: Literal["active", "paused", "aborted"] = "active"
    """Paused: who serves the revision keeps it, nobody else takes it. Aborted: all go back."""
    population: Annotated[int, Meta(ge=0, le=10**9)] = 0
    """How many devices the class has; a count of devices is a share of these."""
    abort: AbortRule = AbortRule()


class Window(_Table, frozen=True, kw_only=True):
    """When a device may change what it serves. It may begin on one day and end on the next."""

    days: Annotated[tuple[Day, ...], Meta(max_length=7)] = ()
    """The days on which it begins; none named: each."""
    start: Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z", extra={"allowed": "a time, as 02:30"})]
    duration_s: Annotated[int, Meta(ge=60, le=86_400, extra=_TERMS)]
    zone: Literal["utc", "local"] = "local"
    """Whose time: UTC, or what the device takes for local."""


class ClassPlan(_Table, frozen=True, kw_only=True):
    """What the devices of one hardware class run of one model."""

    revision: Revision
    rollout: Rollout | None = None
    pins: dict[DeviceName, Revision] = {}
    """Devices that run another revision, whatever else is said."""
    windows: Annotated[tuple[Window, ...], Meta(max_length=32)] = ()
    """None: at any time."""
    download_jitter_s: Annotated[int, Meta(ge=0, le=30 * 86_400, extra=_TERMS)] = 0
    """Devices spread the beginning of their downloads over so long a time in which they are on."""
    allow_unproven: bool = True
    """Whether a soak that saw too few requests may commit at its longest time."""


class Plan(_Table, frozen=True, kw_only=True):
    """The signed document."""

    schema: Literal[1] = 1
    fleet: ModelName
    models: dict[ModelName, dict[HardwareClass, ClassPlan]] = {}
    """`MOST_MODELS` at most."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the plan wants of one device for one model, and why."""

    model: str
    revision: int
    why: Literal["plan", "rollout", "pin"]
    rollout: str = ""
    """The id of the rollout under way for the class, whether the device takes part yet or not."""
    bucket: int = -1
    """The device's place in it, from 0 to 9999."""
    wave: int = -1
    """The wave by which the device takes part; -1: by none."""
    opens_at: datetime | None = None
    """When that wave opens, where it is open but for the time."""
    jitter_s: float = 0.0
    """How long after it first saw this plan the device begins to download; while it is off nothing of it passes."""
    windows: tuple[Window, ...] = ()
    allow_unproven: bool = True
    min_soak_s: float = 0.0
    """How long the device watches the revision at least."""


def bucket(rollout: str, device: str) -> int:
    """A device's place in a rollout: first 8 bytes, big-endian, of SHA-256(rollout ‖ 0x00 ‖ device) mod 10,000."""
    return int.from_bytes(_hash(rollout, device)[:8], "big") % BUCKETS


def jitter(plan: str, device: str, longest_s: float) -> float:
    """A device's share of a jitter, the same each time: bytes 8 to 15 of the same hash as a fraction of it."""
    return int.from_bytes(_hash(plan, device)[8:16], "big") / 2**64 * longest_s


def _hash(name: str, device: str) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + device.encode()).digest()


def threshold(wave: Wave, population: int) -> int:
    """Devices whose bucket lies under this take part in the wave; a count is rounded up to the next bucket."""
    if wave.percent is not None:
        return max(1, round(wave.percent * BUCKETS / 100))
    return min(BUCKETS, math.ceil((wave.devices or 0) * BUCKETS / max(population, 1)))


def evaluate(
    plan: Plan, device: str, hardware_class: str, now: datetime, serving: dict[str, int] | None = None
) -> tuple[Wanted, ...]:
    """What `plan` wants of this device, a model at a time, in order of their names.

    `now` is a trusted time (aware); `serving` says which revision of each model serves on the device: only a
    paused rollout asks. A model that the plan does not name for this class is not among the answers.
    """
    return tuple(
        _wanted(model, classes[hardware_class], device, now, (serving or {}).get(model, 0))
        for model, classes in sorted(plan.models.items())
        if hardware_class in classes
    )


def _wanted(model: str, terms: ClassPlan, device: str, now: datetime, serving: int) -> Wanted:
    rollout = terms.rollout
    found = Wanted(
        model=model,
        revision=terms.revision,
        why="plan",
        jitter_s=jitter(rollout.id if rollout else f"{model}/{terms.revision}", device, terms.download_jitter_s),
        windows=terms.windows,
        allow_unproven=terms.allow_unproven,
    )
    if rollout is not None:
        found = _in_rollout(found, rollout, device, now, serving)
    if device in terms.pins:
        found = msgspec.structs.replace(found, revision=terms.pins[device], why="pin")
    return found


def _in_rollout(found: Wanted, rollout: Rollout, device: str, now: datetime, serving: int) -> Wanted:
    place = bucket(rollout.id, device)
    mine = next(
        (at for at, wave in enumerate(rollout.waves) if place < threshold(wave, rollout.population)),
        -1,
    )
    # A wave may open earlier than one before it that waits for its time; whoever is under it takes part.
    open_now = [
        threshold(wave, rollout.population)
        for wave in rollout.waves[: rollout.open_wave + 1]
        if wave.opens_at is None or wave.opens_at <= now
    ]
    takes_part = {
        "active": bool(open_now) and place < max(open_now),
        "paused": serving == rollout.revision,
        "aborted": False,
    }[rollout.status]
    waits = rollout.status == "active" and not takes_part and 0 <= mine <= rollout.open_wave
    return msgspec.structs.replace(
        found,
        revision=rollout.revision if takes_part else found.revision,
        why="rollout" if takes_part else "plan",
        rollout=rollout.id,
        bucket=place,
        wave=mine,
        min_soak_s=rollout.waves[mine].min_soak_s if takes_part and mine >= 0 else 0.0,
        opens_at=rollout.waves[mine].opens_at if waits else None,
    )


def within(windows: tuple[Window, ...], now: datetime) -> bool:
    """Whether a device may change what it serves at `now` (aware, in the device's local zone); no windows: always."""
    return not windows or any(_within(window, now) for window in windows)


def _within(window: Window, now: datetime) -> bool:
    at = now.astimezone(UTC) if window.zone == "utc" else now
    hour, minute = map(int, window.start.split(":"))
    for begun in (at, at - timedelta(days=1)):
        start = begun.replace(hour=hour, minute=minute, second=0, microsecond=0)
        named = not window.days or DAYS[start.weekday()] in window.days
        if named and start <= at < start + timedelta(seconds=window.duration_s):
            return True
    return False


def encode(plan: Plan) -> bytes:
    """The form in which a plan is signed: equal plans give equal bytes."""
    return msgspec.json.encode(plan, order="sorted")


def decode(raw: bytes, name: str = "the plan") -> Plan:
    """The plan that `raw` holds. Raises EdgedError (plan_invalid) that says what does not fit, in the file `name`."""
    hint = "publish the plan anew with `edgectl fleet plan set`"
    if len(raw) > MAX_PLAN_BYTES:
        raise EdgedError(Code.PLAN_INVALID, f"{name}: is larger than {MAX_PLAN_BYTES} bytes", hint)
    try:
        plan = msgspec.json.decode(raw, type=Plan)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EdgedError(Code.PLAN_INVALID, f"{name}: {error or 'is nested too deeply'}", hint) from error
    for misfit in faults(plan):
        raise EdgedError(Code.PLAN_INVALID, f"{name}: {schema.dotted(misfit.key)} {misfit.found}", misfit.remedy)
    return plan


def faults(plan: Plan) -> Iterator[schema.Misfit]:
    """What is wrong in a plan beyond its types."""
    if len(plan.models) > MOST_MODELS:
        found = f"names {len(plan.models)} models, {MOST_MODELS} are allowed"
        yield schema.Misfit(("models",), found, "make several fleets of it")
    for model, classes in plan.models.items():
        for name, terms in classes.items():
            if terms.rollout is not None:
                yield from _rollout_faults(terms.rollout, ("models", model, name, "rollout"))


def _rollout_faults(rollout: Rollout, key: schema.Key) -> Iterator[schema.Misfit]:
    if rollout.open_wave >= len(rollout.waves):
        found = f"is {rollout.open_wave}, and there are {len(rollout.waves)} waves"
        yield schema.Misfit((*key, "open_wave"), found, "name a wave, counted from 0")
    below = 0
    for index, wave in enumerate(rollout.waves):
        at: schema.Key = (*key, "waves", index)
        if (wave.percent is None) == (wave.devices is None):
            yield schema.Misfit(at, "gives not one of percent and devices", "give one of the two")
            continue
        if wave.devices is not None and not rollout.population:
            yield schema.Misfit(at, "counts devices of a class whose size is not given", "give population")
        reached = threshold(wave, rollout.population)
        if reached < below:
            yield schema.Misfit(at, "holds fewer devices than the wave before it", "let waves grow")
        below = reached
