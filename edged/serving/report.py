"""What the daemon says of itself: its state, in a word, in reasons and in a line."""

from __future__ import annotations

from enum import StrEnum

from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.models.states import Lost, State
from edged.system.life import Life, Phase


class Mode(StrEnum):
    """The daemon as a whole."""

    STARTING = "starting"
    SERVING = "serving"
    DEGRADED = "degraded"
    DRAINING = "draining"


def degraded_reasons(life: Life, residency: Residency) -> list[str]:
    """Everything that is not as it should be, a line each."""
    first_loads = life.phase is Phase.STARTING
    reasons = (_reason(each, first_loads=first_loads) for each in residency.serving())
    lost = (_lost_reason(resident, lost) for resident in residency.all() for lost in resident.lost)
    return [*life.degraded_reasons, *filter(None, reasons), *lost]


def _lost_reason(resident: Resident, lost: Lost) -> str:
    held = f"{lost.worker.usage().charged_bytes // 2**20} MiB and its device"
    return (
        f"a worker of model {resident.name}, variant {lost.variant.name}, process {lost.worker.pid}, "
        f"does not end and holds {held}; a restart of this device frees them"
    )


def _reason(resident: Resident, *, first_loads: bool) -> str:
    if resident.degraded and resident.variant is not None:
        best = resident.manifest.variants[0].name
        why = f": {resident.choice.because}" if resident.choice.because else ""
        return f"model {resident.name} is served by variant {resident.variant.name} instead of {best}{why}"
    reason = resident.reason
    if resident.state is State.LOADING and not reason and not first_loads:
        reason = "its first worker is still on the way"
    if resident.ready or resident.state is State.UNLOADING or not reason:
        return ""
    return f"model {resident.name} is {resident.state}: {reason}"


def mode(life: Life, residency: Residency) -> Mode:
    """Starting until the first loads have come to an end, then serving, degraded when a reason is known."""
    if life.phase is Phase.DRAINING:
        return Mode.DRAINING
    if life.phase is Phase.STARTING:
        return Mode.STARTING
    return Mode.DEGRADED if degraded_reasons(life, residency) else Mode.SERVING


def summary(life: Life, residency: Residency) -> str:
    """The line that `systemctl status` shows."""
    residents = residency.serving()
    ready = sum(resident.ready for resident in residents)
    models = f"{ready} of {len(residents)} models ready" if residents else "no models"
    reasons = degraded_reasons(life, residency)
    trouble = f": {reasons[0]}" + (f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else "") if reasons else ""
    return f"{mode(life, residency)}, {models}{trouble}"
