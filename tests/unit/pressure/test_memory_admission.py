"""Whether a model may be loaded, and who makes room for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edged.pressure.admission import Headroom, Loaded, admit, headroom
from edged.pressure.readings import Memory

MIB = 2**20
ROOM = Headroom(100 * MIB, "100 MiB are left")


def loaded(model: str, mib: int, priority: int, idle_s: float = 0.0) -> Loaded:
    return Loaded(model, mib * MIB, priority, idle_s)


def test_what_fits_is_loaded():
    assert admit("m", 100 * MIB, 5, ROOM, []).admitted
    assert admit("m", 100 * MIB, 5, ROOM, [loaded("other", 500, 9)]).evict == ()


def test_what_does_not_fit_is_refused_with_the_numbers():
    verdict = admit("m", 150 * MIB, 5, ROOM, [])
    assert not verdict.admitted
    assert verdict.text == (
        "model 'm' takes 150 MiB at its peak; 100 MiB are left; 50 MiB are missing, and nothing matters less"
    )


def test_the_least_important_makes_room_and_of_those_the_longest_idle():
    others = [loaded("key", 500, 1), loaded("busy", 60, 8), loaded("idle", 60, 8, 30.0), loaded("middle", 60, 6)]
    assert admit("m", 150 * MIB, 5, ROOM, others).evict == ("idle",)
    assert admit("m", 200 * MIB, 5, ROOM, others).evict == ("idle", "busy")


def test_what_matters_as_much_goes_only_while_nobody_asks_it():
    assert not admit("m", 150 * MIB, 5, ROOM, [loaded("busy", 60, 5)]).admitted
    assert admit("m", 150 * MIB, 5, ROOM, [loaded("idle", 60, 5, 1.0)]).evict == ("idle",)


def test_what_matters_more_never_goes():
    verdict = admit("m", 150 * MIB, 5, ROOM, [loaded("key", 500, 4, 9999.0)])
    assert not verdict.admitted
    assert verdict.evict == ()


def test_where_all_would_not_do_none_goes():
    verdict = admit("m", 1000 * MIB, 5, ROOM, [loaded("a", 60, 8), loaded("b", 60, 8)])
    assert verdict.evict == ()
    assert "would free 120 MiB" in verdict.text


def test_nobody_goes_in_vain():
    assert admit("m", 190 * MIB, 1, ROOM, [loaded("small", 10, 9), loaded("large", 500, 8)]).evict == ("large",)


entries = st.builds(
    Loaded,
    st.uuids().map(str),
    st.integers(0, 500 * MIB),
    st.integers(1, 9),
    st.floats(0, 1000),
)


@given(st.integers(0, 1000 * MIB), st.integers(1, 9), st.lists(entries, max_size=8))
def test_whatever_is_admitted_fits_and_needs_each_that_goes(peak: int, priority: int, others: list[Loaded]):
    verdict = admit("m", peak, priority, ROOM, others)
    gone = [each for each in others if each.model in verdict.evict]
    freed = sum(each.size_bytes for each in gone)
    assert all(each.priority >= priority for each in gone)
    if verdict.admitted:
        assert peak <= ROOM.left_bytes + freed
        assert all(peak > ROOM.left_bytes + freed - each.size_bytes for each in gone)
    else:
        assert gone == []


def test_the_tightest_limit_counts_and_the_reserve_is_kept():
    machine = Memory(8000 * MIB, 1000 * MIB)
    assert headroom(machine, 300 * MIB, 0, 128 * MIB).left_bytes == 872 * MIB
    assert headroom(machine, 300 * MIB, 500 * MIB, 128 * MIB).left_bytes == 72 * MIB
    assert "settings" in headroom(machine, 300 * MIB, 500 * MIB, 128 * MIB).text
    assert headroom(machine, 300 * MIB, 4000 * MIB, 128 * MIB).left_bytes == 872 * MIB
    assert headroom(None, 300 * MIB, 0, 128 * MIB).left_bytes > 2**60
