"""When a worker that died is started again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Code, EdgedError
from edged.models.restarts import LOOP_DEATHS, delay_s, is_at_fault, is_loop


@pytest.mark.parametrize(("deaths", "expected"), [(0, 0), (1, 0), (2, 0.5), (3, 1), (4, 2), (5, 4), (8, 32), (9, 60)])
def test_the_first_death_costs_no_time_and_each_further_one_twice_as_much(deaths, expected):
    assert delay_s(deaths, 0.5, 60) == expected


@given(st.integers(0, 10**9), st.floats(0.001, 3600), st.floats(0, 86_400))
def test_it_never_shrinks_and_never_passes_its_longest(deaths, least, more):
    longest = least + more
    assert 0 <= delay_s(deaths, least, longest) <= delay_s(deaths + 1, least, longest) <= longest


def test_so_many_in_a_row_are_no_accident():
    assert [is_loop(deaths) for deaths in range(LOOP_DEATHS + 2)] == [False] * LOOP_DEATHS + [True, True]


def test_a_variant_is_at_fault_unless_that_may_pass_or_is_built_again():
    passing = [
        Code.WORKER_CRASHED,
        Code.WORKER_HANG,
        Code.MEMORY_SHORT,
        Code.STORAGE_FULL,
        Code.DEVICE_UNAVAILABLE,
        Code.DERIVED_UNUSABLE,
    ]
    assert {code for code in Code if not is_at_fault(EdgedError(code, "it does not load"))} == set(passing)
    assert not is_at_fault(OSError("no process"))
