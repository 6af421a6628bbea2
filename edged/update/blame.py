"""What an update that came to nothing is held against, and until when."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime

from edged.bundle.manifest import Manifest, digest
from edged.errors import Code, EdgedError
from edged.models import restarts
from edged.models.library import Library
from edged.models.resident import Resident
from edged.update.environment import Environment
from edged.update.machine import REASONS, Event, Phase, State
from edged.update.reasons import QUARANTINES, Reason
from edged.update.records import Quarantined
from edged.update.said import Awaits, Said, deferred, said

# Nothing else can go on here without the repository, which another one may replace: what it does not give ends it.
_NEEDS_THE_REPOSITORY = (Phase.FETCHING, Phase.STAGED)

_WITH_THE_NEXT_LOOK = "what failed may pass, and is tried again with the next look for updates"
_AFTER_THE_NEXT_START = "this device has not the hardware for it, which is looked at again with the next start"


def judge(phase: Phase, error: EdgedError | OSError) -> Said:
    """What becomes of an update that met an error. Pure."""
    word = error.code.value if isinstance(error, EdgedError) else ""
    for reason in REASONS.get(phase, frozenset()):
        if reason.value == word:
            return said(Event.FAILED, str(error), reason)
    if word and phase in _NEEDS_THE_REPOSITORY:  # as a revision that nobody publishes, or that this release cannot read
        return said(Event.FAILED, f"{word}: {error}", Reason.DOWNLOAD_FAILED)
    return deferred(f"it is tried again: {error}", Awaits.TIME)


def of_the_device(
    resident: Resident, failed: Mapping[str, str], reason: Reason | None = None
) -> tuple[Reason, str] | None:
    """What of this device is to blame for the end of a revision that served here, and in words; None: nothing is.

    It passed its trial, so its files were whole, and what it ran on was there. `failed`: why, by kind of accelerator;
    `reason`: what speaks against the revision, where something does. Ends of its worker still do where none can be
    started again for want of memory or of a device; requests that find no worker for that do not.
    """
    short = resident.trouble if resident.loading else None
    if reason is Reason.ERROR_RATE and short is not None and restarts.is_want(short):
        return Reason.INCOMPATIBLE_HARDWARE, short.message
    passed_over = resident.choice.passed_over
    unfit = [passed for passed in passed_over if passed.code == Code.INCOMPATIBLE_HARDWARE]
    if len(unfit) == len(resident.manifest.variants):
        return Reason.INCOMPATIBLE_HARDWARE, f"{unfit[0].variant}: {unfit[0].reason}"
    never = {passed.variant for passed in unfit}
    for variant in resident.manifest.variants:
        if variant.name not in never and (why := failed.get(variant.requires.accelerator)):
            return Reason.INCOMPATIBLE_HARDWARE, why
    for passed in passed_over:
        if passed.code == Code.DIGEST_MISMATCH:
            return Reason.DIGEST_MISMATCH, f"{passed.variant}: {passed.reason}"
    return None


class PutOff:
    """Revisions of one model that are not wanted for now, though nothing is held against them."""

    def __init__(self) -> None:
        self.until_looked = 0
        """The revision that waits for the next look; 0: none."""
        self._until_started = 0

    def add(self, old: State, found: Said) -> None:
        """Takes what just happened to the update that stood so."""
        happened = found.happened
        if happened.event is not Event.FAILED or old.target is None or happened.reason in QUARANTINES:
            return
        if happened.reason is Reason.INCOMPATIBLE_HARDWARE and old.phase is not Phase.SOAKING:
            self._until_started = old.target.revision
        else:
            self.until_looked = old.target.revision

    def looked(self) -> None:
        """The time of a look has come, and where it needs the repository, that has been looked at."""
        self.until_looked = 0

    def why(self, revision: int) -> str:
        """Why a revision is not to be tried now; empty where it may be."""
        if not revision or revision not in (self._until_started, self.until_looked):
            return ""
        return _AFTER_THE_NEXT_START if revision == self._until_started else _WITH_THE_NEXT_LOOK


async def quarantined(
    old: State,
    found: Said,
    library: Library,
    environment: Environment,
    fetched: Manifest | None,
    at: datetime,
) -> list[Quarantined]:
    """What is not tried again: the variant that failed, or where it was none of them the one that would serve.

    `fetched`: the manifest that came last, for a revision that is not in the library.
    """
    happened = found.happened
    if happened.event is not Event.FAILED or happened.reason not in QUARANTINES or old.target is None:
        return []
    if old.phase is Phase.SOAKING and old.previous is None:
        return []  # it goes on serving, since there is nothing else
    source = await asyncio.to_thread(library.find, old.model, old.target.revision)
    manifest = source.manifest if source else fetched
    if manifest is None or manifest.revision != old.target.revision:
        return []
    named = [each for each in manifest.variants if each.name == found.variant] or list(manifest.variants[:1])
    return [
        Quarantined(
            key=environment.key(old.target.digest or digest(manifest), variant),
            model=old.model,
            revision=old.target.revision,
            reason=happened.reason,
            text=happened.text,
            at=at,
        )
        for variant in named
    ]
