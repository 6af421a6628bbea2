"""What time it is at least."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from edged import clock

NOW = datetime(2026, 7, 1, tzinfo=UTC)


@given(st.lists(st.none() | st.timedeltas(timedelta(-9999), timedelta(9999)), max_size=4))
def test_it_is_the_latest_of_what_is_known(others):
    candidates = [NOW if each is None else NOW + each for each in others]
    given = [None if each is None else NOW + each for each in others]
    assert clock.trusted(NOW, *given) == max([NOW, *candidates])
