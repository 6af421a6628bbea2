"""The update machine of one model: a table of what follows what, and a pure step.

The shell journals the new state first and performs the effects after; each of them may be performed again after a
power cut. docs/update-machine.md is made from the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from edged.update.reasons import Reason


class Phase(StrEnum):
    """Where an update stands."""

    IDLE = "idle"
    FETCHING = "fetching"
    STAGED = "staged"
    TRIAL = "trial"
    SHADOW = "shadow"
    SOAKING = "soaking"
    COMMITTED = "committed"


class Event(StrEnum):
    """What the machine is told."""

    WANTED = "wanted"
    """A revision other than the serving one is to serve."""
    FETCHED = "fetched"
    TAKEN_IN = "taken_in"
    SWAPS = "swaps"
    """Memory holds one of the two: they are to change places, and the event says why."""
    SWAPPED = "swapped"
    """They have, and the new one has passed its trial."""
    PASSED = "passed"
    SKIPPED = "skipped"
    """No live request could be copied; the evidence says why."""
    UNPROVEN = "unproven"
    """The longest time is over, with too few requests."""
    RETRY = "retry"
    """What failed may succeed: again."""
    FAILED = "failed"
    SUPERSEDED = "superseded"
    """What is under way is not wanted any more."""
    CRASHED = "crashed"
    DEFERRED = "deferred"
    RESUMED = "resumed"
    SETTLED = "settled"
    STARTED = "started"
    """The daemon began and found the machine so."""
    LASTED = "lasted"
    """The phase has gone on for a while in this life of the daemon."""
    STOPPED = "stopped"
    """The daemon ends as it should."""


class Effect(StrEnum):
    """What the shell does, in the order given."""

    FETCH = "fetch"
    TAKE_IN = "take_in"
    TRY = "try"
    SWAP = "swap"
    SHADOW = "shadow"
    FLIP = "flip"
    SOAK = "soak"
    FLIP_BACK = "flip_back"
    END_TRIAL = "end_trial"
    DISCARD = "discard"
    SETTLE = "settle"
    PAUSE = "pause"


class Rule(msgspec.Struct, frozen=True):
    """Where an event leads, and what is then done."""

    phase: Phase
    effects: tuple[Effect, ...] = ()


# What an update does in a phase, and does again when it goes on after a pause.
WORK: Mapping[Phase, Effect] = {
    Phase.FETCHING: Effect.FETCH,
    Phase.STAGED: Effect.TAKE_IN,
    Phase.TRIAL: Effect.TRY,
    Phase.SHADOW: Effect.SHADOW,
    Phase.SOAKING: Effect.SOAK,
}

# The revision that is to serve runs in these, and may take the daemon, or the device, down with it.
RUNS = (Phase.TRIAL, Phase.SHADOW, Phase.SOAKING)

# These change nothing of what is under way.
ASIDE = (Event.CRASHED, Event.LASTED, Event.STOPPED)

_F, _E = Phase, Effect

TABLE: Mapping[tuple[Phase, Event], Rule] = {
    (_F.IDLE, Event.WANTED): Rule(_F.FETCHING, (_E.FETCH,)),
    (_F.IDLE, Event.SUPERSEDED): Rule(_F.IDLE),
    (_F.IDLE, Event.STARTED): Rule(_F.IDLE),
    (_F.FETCHING, Event.FETCHED): Rule(_F.STAGED, (_E.TAKE_IN,)),
    (_F.FETCHING, Event.RETRY): Rule(_F.FETCHING, (_E.FETCH,)),
    (_F.FETCHING, Event.FAILED): Rule(_F.IDLE, (_E.DISCARD,)),
    (_F.FETCHING, Event.SUPERSEDED): Rule(_F.IDLE, (_E.DISCARD,)),
    (_F.FETCHING, Event.STARTED): Rule(_F.FETCHING, (_E.FETCH,)),
    (_F.STAGED, Event.TAKEN_IN): Rule(_F.TRIAL, (_E.TRY,)),
    (_F.STAGED, Event.RETRY): Rule(_F.FETCHING, (_E.DISCARD, _E.FETCH)),
    (_F.STAGED, Event.FAILED): Rule(_F.IDLE, (_E.DISCARD,)),
    (_F.STAGED, Event.SUPERSEDED): Rule(_F.IDLE, (_E.DISCARD,)),
    (_F.STAGED, Event.STARTED): Rule(_F.STAGED, (_E.TAKE_IN,)),
    (_F.TRIAL, Event.PASSED): Rule(_F.SHADOW, (_E.SHADOW,)),
    (_F.TRIAL, Event.SWAPS): Rule(_F.TRIAL, (_E.SWAP,)),
    (_F.TRIAL, Event.SWAPPED): Rule(_F.SOAKING, (_E.FLIP, _E.SOAK)),
    (_F.TRIAL, Event.FAILED): Rule(_F.IDLE, (_E.END_TRIAL, _E.DISCARD)),
    (_F.TRIAL, Event.SUPERSEDED): Rule(_F.IDLE, (_E.END_TRIAL, _E.DISCARD)),
    (_F.TRIAL, Event.STARTED): Rule(_F.TRIAL, (_E.TRY,)),
    (_F.SHADOW, Event.PASSED): Rule(_F.SOAKING, (_E.FLIP, _E.SOAK)),
    (_F.SHADOW, Event.SKIPPED): Rule(_F.SOAKING, (_E.FLIP, _E.SOAK)),
    (_F.SHADOW, Event.RETRY): Rule(_F.TRIAL, (_E.END_TRIAL, _E.TRY)),
    (_F.SHADOW, Event.FAILED): Rule(_F.IDLE, (_E.END_TRIAL, _E.DISCARD)),
    (_F.SHADOW, Event.SUPERSEDED): Rule(_F.IDLE, (_E.END_TRIAL, _E.DISCARD)),
    (_F.SHADOW, Event.STARTED): Rule(_F.TRIAL, (_E.TRY,)),
    (_F.SOAKING, Event.PASSED): Rule(_F.COMMITTED, (_E.SETTLE,)),
    (_F.SOAKING, Event.UNPROVEN): Rule(_F.COMMITTED, (_E.SETTLE,)),
    (_F.SOAKING, Event.CRASHED): Rule(_F.SOAKING),
    (_F.SOAKING, Event.FAILED): Rule(_F.IDLE, (_E.FLIP_BACK, _E.END_TRIAL, _E.DISCARD)),
    (_F.SOAKING, Event.SUPERSEDED): Rule(_F.IDLE, (_E.FLIP_BACK, _E.END_TRIAL, _E.DISCARD)),
    (_F.SOAKING, Event.STARTED): Rule(_F.SOAKING, (_E.SOAK,)),
    (_F.COMMITTED, Event.SETTLED): Rule(_F.IDLE),
    (_F.COMMITTED, Event.STARTED): Rule(_F.COMMITTED, (_E.SETTLE,)),
    (_F.COMMITTED, Event.DEFERRED): Rule(_F.COMMITTED, (_E.PAUSE,)),
    (_F.COMMITTED, Event.RESUMED): Rule(_F.COMMITTED, (_E.SETTLE,)),
    **{(phase, Event.DEFERRED): Rule(phase, (_E.PAUSE,)) for phase in WORK},
    **{(phase, Event.RESUMED): Rule(phase, (work,)) for phase, work in WORK.items()},
    **{(phase, event): Rule(phase) for phase in RUNS for event in (Event.LASTED, Event.STOPPED)},
}

# The reasons for which each phase may end in nothing.
REASONS: Mapping[Phase, frozenset[Reason]] = {
    Phase.FETCHING: frozenset(
        {
            Reason.SIGNATURE_INVALID,
            Reason.METADATA_EXPIRED,
            Reason.ROLLBACK_ATTACK,
            Reason.INCOMPATIBLE_HARDWARE,
            Reason.INCOMPATIBLE_RUNTIME,
            Reason.INCOMPATIBLE_SIGNATURE,
            Reason.STORAGE_FULL,
            Reason.DOWNLOAD_FAILED,
            Reason.DIGEST_MISMATCH,
        }
    ),
    Phase.STAGED: frozenset({Reason.DIGEST_MISMATCH, Reason.STORAGE_FULL, Reason.DOWNLOAD_FAILED}),
    Phase.TRIAL: frozenset(
        {
            Reason.INCOMPATIBLE_HARDWARE,
            Reason.INCOMPATIBLE_RUNTIME,
            Reason.INCOMPATIBLE_SIGNATURE,
            Reason.DIGEST_MISMATCH,
            Reason.LOAD_FAILED,
            Reason.GOLDEN_MISMATCH,
            Reason.LATENCY_BUDGET,
            Reason.MEMORY_BUDGET,
            Reason.CRASH_LOOP,
            Reason.WORKER_HANG,
        }
    ),
    Phase.SHADOW: frozenset({Reason.SHADOW_DISAGREEMENT, Reason.CRASH_LOOP, Reason.WORKER_HANG}),
    Phase.SOAKING: frozenset(
        {
            Reason.ERROR_RATE,
            Reason.LATENCY_BUDGET,
            Reason.CRASH_LOOP,
            Reason.WORKER_HANG,
            Reason.LOAD_FAILED,
            Reason.DIGEST_MISMATCH,
            Reason.INCOMPATIBLE_HARDWARE,
            Reason.OPERATOR,
        }
    ),
}


# What has come of a revision stays when its update ends for one of these: they may pass, and it goes on where it was.
MAY_PASS = (Reason.STORAGE_FULL, Reason.DOWNLOAD_FAILED, Reason.METADATA_EXPIRED)


class Ref(msgspec.Struct, frozen=True):
    """One bundle, exactly: its revision and the digest of its manifest."""

    revision: int
    digest: str


# So long a device has to go on with a soak for that to be left after a power cut.
OUTLIVED_S = 3600.0


class Soaked(msgspec.Struct, frozen=True):
    """What a soak has seen so far, in all lives of the daemon that count."""

    lasted_s: float = 0.0
    requests: int = 0
    errors: float = 0.0
    """The logarithm that the test of its errors has come to, as is `slowness` of that of its windows."""
    slowness: float = 0.0


class Record(msgspec.Struct, frozen=True):
    """How a revision has done so far."""

    ok: int = 0
    failed: int = 0
    median_s: float = 0.0
    p99_s: float = 0.0
    """0: not known, as with the median."""

    @property
    def requests(self) -> int:
        """Answered and failed."""
        return self.ok + self.failed


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All that is persisted of one model's update; fields are only ever added."""

    model: str
    phase: Phase = Phase.IDLE
    serving: Ref | None = None
    intended: Ref | None = None
    """What served until a start had to choose `serving`, since it did not run there; empty where that is what it is."""
    previous: Ref | None = None
    older: Ref | None = None
    """What `previous` was before the flip, and is again when that is taken back."""
    target: Ref | None = None
    kept: Ref | None = None
    """Of what has come something stays, though its update ended: for what may pass, and it is wanted still."""
    cause: str = ""
    """Who wants the target: plan, pin, rollback."""
    attempts: int = 0
    """How often this phase was begun again: the comparison with its trial, which a start begins with."""
    refetches: int = 0
    """How often what was fetched was not what was signed."""
    stopped: bool = False
    """The daemon ended as it should since this was under way: the next start is no sign of anything."""
    crashes: int = 0
    """Of the revision that soaks, across restarts of the daemon."""
    allow_unproven: bool = True
    """Whether the soak may commit having seen too few requests."""
    least_soak_s: float = 0.0
    """How long it lasts at least."""
    soaked: Soaked = Soaked()
    """As far as the journal was told."""
    outlived: Soaked = Soaked()
    """What of it an end that is no stop leaves: how it stood when the device had gone on for long, or was stopped."""
    held_against: Record = Record()
    """How the revision before had done by the flip, which a later life of the daemon does not know of."""
    swaps: str = ""
    """Why the two revisions change places, or have, with none of them warm beside the other; empty: they do not."""
    deferred: str = ""
    """Why nothing goes on now; empty when it does."""


class Happened(msgspec.Struct, frozen=True):
    """An event with what belongs to it.

    `target`, `cause` and what the soak is held to come with WANTED, the whole `target` with TAKEN_IN, what was meant
    with SUPERSEDED, `reason` with FAILED, `soaked` with all that a soak goes on after, and `record`, of what serves,
    with what it begins after.
    """

    event: Event
    text: str = ""
    reason: Reason | None = None
    target: Ref | None = None
    cause: str = ""
    allow_unproven: bool = True
    least_soak_s: float = 0.0
    soaked: Soaked | None = None
    record: Record | None = None


def step(state: State, happened: Happened) -> tuple[State, tuple[Effect, ...]]:
    """What follows. An event that the phase has no rule for came too late, and changes nothing."""
    rule = TABLE.get((state.phase, happened.event))
    if rule is None or _is_late(state, happened):
        return state, ()
    effects, aside = rule.effects, happened.event in ASIDE
    if happened.event is Event.FAILED and happened.reason in MAY_PASS:
        effects = tuple(effect for effect in effects if effect is not Effect.DISCARD)
        state = msgspec.structs.replace(state, kept=state.target)
    soaks = rule.phase is state.phase is Phase.SOAKING
    fell = happened.event is Event.STARTED and not state.stopped
    soaked, outlived = _soaked(state, happened, fell=fell) if soaks else (Soaked(), Soaked())
    new = msgspec.structs.replace(
        state,
        phase=rule.phase,
        deferred=state.deferred if aside else "",  # what is under way goes on when it did before
        stopped=happened.event is Event.STOPPED,
        soaked=soaked,
        outlived=outlived,
    )
    tried = {state.phase, rule.phase} == {Phase.TRIAL, Phase.SHADOW}
    if rule.phase is not state.phase and not tried:
        new = msgspec.structs.replace(new, attempts=0)
    match happened.event:
        case Event.WANTED:
            new = msgspec.structs.replace(
                new,
                target=happened.target,
                kept=None,
                cause=happened.cause,
                allow_unproven=happened.allow_unproven,
                least_soak_s=happened.least_soak_s,
                crashes=0,
                refetches=0,
            )
        case Event.SUPERSEDED:
            new = msgspec.structs.replace(new, kept=None)
        case Event.TAKEN_IN:
            new = msgspec.structs.replace(new, target=happened.target or state.target)
        case Event.SWAPS:
            new = msgspec.structs.replace(new, swaps=happened.text)
        case Event.DEFERRED:
            new = msgspec.structs.replace(new, deferred=happened.text)
        case Event.CRASHED:
            new = msgspec.structs.replace(new, crashes=state.crashes + 1)
        case Event.RETRY if not tried:
            again = state.phase is Phase.STAGED
            new = msgspec.structs.replace(new, attempts=state.attempts + 1, refetches=state.refetches + again)
        case Event.STARTED if rule.phase in WORK and fell:
            new = msgspec.structs.replace(new, attempts=state.attempts + 1)
        case Event.LASTED:
            new = msgspec.structs.replace(new, attempts=0)
    if rule.phase is not Phase.SOAKING and happened.event is not Event.SWAPS and not aside:
        new = msgspec.structs.replace(new, swaps="")
    if Effect.FLIP in effects:
        new = msgspec.structs.replace(
            new,
            serving=state.target,
            previous=state.serving,
            older=state.previous,
            held_against=happened.record or Record(),
        )
    if Effect.FLIP_BACK in effects:
        new, effects = _back(state, new, effects)
    if rule.phase is Phase.COMMITTED is not state.phase:
        new = msgspec.structs.replace(new, intended=None)
    if rule.phase in (Phase.IDLE, Phase.COMMITTED):
        new = msgspec.structs.replace(
            new, target=None, cause="", older=None, crashes=0, refetches=0, held_against=Record()
        )
    return new, effects


def _soaked(state: State, happened: Happened, *, fell: bool) -> tuple[Soaked, Soaked]:
    """What a soak that goes on has seen, and what of it an end that is no stop leaves.

    What takes the device down within the hour adds up no time until it commits; what loses power each night does.
    """
    soaked = state.outlived if fell else happened.soaked or state.soaked
    goes_on = happened.event is Event.LASTED and soaked.lasted_s - state.outlived.lasted_s >= OUTLIVED_S
    return soaked, soaked if goes_on or happened.event is Event.STOPPED else state.outlived


def _is_late(state: State, happened: Happened) -> bool:
    """Whether it was said of something that is so by now, or that is over."""
    match happened.event:
        case Event.WANTED:  # to try what serves would have it replaced by itself, and then ended
            serving, target = state.serving, happened.target
            return serving is not None and target is not None and serving.revision == target.revision
        case Event.SUPERSEDED:
            return happened.target not in (None, state.target or state.kept)
    return False


def _back(state: State, new: State, effects: tuple[Effect, ...]) -> tuple[State, tuple[Effect, ...]]:
    """The pointer as it was before the flip; where nothing served before, what there is goes on serving."""
    if state.previous is None:
        return new, ()
    return msgspec.structs.replace(new, serving=state.previous, previous=state.older), effects
