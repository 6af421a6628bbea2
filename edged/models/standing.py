"""What can be told of a resident from how it stands now."""

from __future__ import annotations

from edged.bundle.manifest import Manifest, Variant
from edged.models.deaths import Deaths
from edged.models.resting import Rest
from edged.models.states import State
from edged.models.want import Want
from edged.worker import process

# Requests wait for a worker that is back within this time; for a longer delay they are refused at once.
_WORTH_WAITING_S = 2.0


class Standing:
    """Of one model revision; what it is told from is set by `Resident`."""

    manifest: Manifest
    state: State
    variant: Variant | None
    worker: process.Worker | None
    begun: bool
    leaving: bool
    deaths: Deaths
    _changing: bool
    _served: bool
    _delay_s: float
    _rests: Rest
    _want: Want

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def revision(self) -> int:
        """The bundle's revision."""
        return self.manifest.revision

    @property
    def ready(self) -> bool:
        """Whether a worker answers now."""
        return self.state is State.READY and self.working

    @property
    def working(self) -> bool:
        """Whether there is a worker, if only for what waits while it is unloaded."""
        up = self.state is State.READY or self.leaving
        return up and self.worker is not None and not self.worker.ended.done()

    @property
    def expected(self) -> bool:
        """Whether it answers now or shortly: its worker is on its way back, or will be when it is asked."""
        just_ended = self.state is State.READY  # what follows from that is not decided yet
        returns = self.loading and self._served and self._delay_s <= _WORTH_WAITING_S
        return just_ended or self.resting or returns

    @property
    def loading(self) -> bool:
        """Whether its first worker, or the next after one that ended, is still on its way."""
        return self.state is State.LOADING

    @property
    def settled(self) -> bool:
        """Whether its first load has come to an end, good or bad."""
        return not self.loading or self.deaths.in_a_row > 0 or self._want.refusals > 0

    @property
    def resting(self) -> bool:
        """Whether it has no worker for now, and requests are taken all the same."""
        return bool(self._rests) and not self.leaving

    @property
    def steady(self) -> bool:
        """Whether it answers, and is not about to do so from another worker: only then can it be told to rest."""
        return self.ready and not self._changing and not self.leaving and not self._rests

    @property
    def degraded(self) -> bool:
        """Whether something else than the bundle's best variant answers."""
        return self.ready and self.variant is not self.manifest.variants[0]

    @property
    def loaded(self) -> bool:
        """Whether it is loaded, or on its way to be."""
        return self.begun and not self.leaving
