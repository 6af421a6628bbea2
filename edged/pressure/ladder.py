"""What each level costs each model: what its manifest declares, and a default where that is silent. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from edged.bundle.manifest import Degradation
from edged.pressure.levels import ORDER, severity
from edged.types import Level, Limits, ModelLimits

Ladders = Mapping[str, Mapping[Level, Degradation]]
"""By model, what its manifest declares."""

# The least important first: background work (all models), idle models, the length of batches, then all but the first
# priority. Which variant may stand in for another only a manifest can know.
_DEFAULT = {
    Level.ELEVATED: ModelLimits(),
    Level.CRITICAL: ModelLimits(max_batch_size=4),
    Level.EMERGENCY: ModelLimits(max_batch_size=1, min_priority=1),
}


def limits(
    level: Level, duty: float, ladders: Ladders, *, background_paused: bool, storage: Level = Level.NOMINAL
) -> Limits:
    """What may be taken at `level`.

    `storage` is the level of the state folder's disk alone; `background_paused`: another resource asks for that.
    """
    return Limits(
        level=level,
        duty=duty,
        max_concurrency=1 if severity(level) >= severity(Level.CRITICAL) else 0,
        background_paused=background_paused or level is not Level.NOMINAL,
        save_space=storage is not Level.NOMINAL,
        journal_only=severity(storage) >= severity(Level.CRITICAL),
        unload_idle=severity(level) >= severity(Level.CRITICAL),
        models={model: _declared(level, ladder) for model, ladder in ladders.items() if ladder},
        default=_DEFAULT.get(level, ModelLimits()),
    )


def _declared(level: Level, ladder: Mapping[Level, Degradation]) -> ModelLimits:
    """The entry of the hardest level up to this one: a manifest need not say again what holds on.

    Where it declares nothing for this level or a milder one, the default holds.
    """
    for each in reversed(ORDER[: severity(level) + 1]):
        if each in ladder:
            found = ladder[each]
            return ModelLimits(
                variant=found.variant,
                max_batch_size=found.max_batch_size,
                max_rate=found.max_rate,
                min_priority=found.min_priority,
            )
    return _DEFAULT.get(level, ModelLimits())
