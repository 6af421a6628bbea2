"""Windows as random as they come, and the bytes that telemetry sends, read back."""

from __future__ import annotations

from hypothesis import strategies as st

from edged.facts import (
    Executed,
    Fact,
    LevelEntered,
    OutputCounts,
    Reading,
    Unanswered,
    UpdatePhase,
    WorkerRestarted,
)
from edged.telemetry.aggregate import Aggregate
from edged.telemetry.window import Window
from edged.types import Level

WINDOW_S = 300.0

_words = st.sampled_from(["digits", "defects", "faces"])
_durations = st.floats(0, 1e6, allow_nan=False)
_few = st.integers(1, 2)
_whole = st.integers(-(2**40), 2**40)

FACTS = st.one_of(
    st.builds(
        Executed,
        model=_words,
        revision=_few,
        variant=_words,
        rows=st.integers(1, 100),
        queue_s=st.lists(_durations, min_size=1, max_size=4).map(tuple),
        compute_s=_durations,
        at_ms=st.integers(0, 2**41),
    ),
    st.builds(
        Unanswered, model=_words, revision=_few, variant=_words, code=st.sampled_from(["overloaded", "cancelled"])
    ),
    st.builds(Reading, name=st.sampled_from(["temperature_c", "memory_available_mib"]), value=_whole),
    st.builds(LevelEntered, level=st.sampled_from(Level), at_s=st.floats(0, WINDOW_S)),
    st.builds(WorkerRestarted, model=_words),
    st.builds(UpdatePhase, model=_words, revision=_few, phase=st.sampled_from(["soaking", "committed"])),
    st.builds(
        OutputCounts,
        model=_words,
        revision=_few,
        variant=_words,
        output=st.just("scores"),
        kind=st.just("classes"),
        expected=st.just((0.5, 0.5)),
        counts=st.tuples(st.integers(0, 9), st.integers(0, 9)),
        flagged=st.integers(0, 3),
    ),
)


def window_of(found: list[Fact]) -> Window:
    """The window of 300 s in which all that happened."""
    aggregate = Aggregate(0.0, 0)
    for fact in found:
        aggregate.add(fact)
    return aggregate.close(WINDOW_S, 300_000, clock_synchronized=True)


WINDOWS = st.lists(FACTS, max_size=12).map(window_of)
