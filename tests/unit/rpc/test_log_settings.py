"""Triton's log settings as levels, and back."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged import log
from edged.errors import Code, EdgedError
from edged.log import Level, Levels
from edged.rpc.log_settings import changed, shown

LEVELS = get_args(Level)
PARTS = ["models", "rpc"]
levels = st.builds(Levels, st.sampled_from(LEVELS), st.dictionaries(st.sampled_from(PARTS), st.sampled_from(LEVELS)))


@given(levels)
def test_what_is_shown_can_be_set_and_changes_nothing(now: Levels) -> None:
    assert changed(now, shown(now), PARTS) == now


@given(levels, levels)
def test_what_is_shown_of_another_can_be_set(now: Levels, other: Levels) -> None:
    cleared = {f"log_level.{part}": "" for part in PARTS}
    assert changed(now, {**cleared, **shown(other)}, PARTS) == other


@pytest.mark.parametrize(
    ("now", "asked", "then"),
    [
        ("info", {"log_verbose_level": 3}, "debug"),
        ("debug", {"log_verbose_level": 0}, "info"),
        ("error", {"log_verbose_level": 0}, "error"),
        ("debug", {"log_info": False}, "warning"),
        ("warning", {"log_info": True}, "info"),
        ("info", {"log_warning": False}, "error"),
        ("error", {"log_warning": True}, "warning"),
        ("info", {"log_warning": True}, "info"),
        ("info", {"log_level": "error", "log_warning": True}, "warning"),
        ("debug", {"log_info": False, "log_warning": True, "log_error": True, "log_verbose_level": 0}, "warning"),
    ],
)
def test_a_switch_of_tritons_is_a_level(now: Level, asked: dict[str, Any], then: Level) -> None:
    assert changed(Levels(now), asked, PARTS) == Levels(then)


@pytest.mark.parametrize("name", ["log_info", "log_warning", "log_verbose_level", "log_level", "log_level.rpc"])
def test_a_value_of_another_type_is_refused(name: str) -> None:
    with pytest.raises(EdgedError, match=f"setting '{name}'") as raised:
        changed(Levels(), {name: "2"}, PARTS)
    assert raised.value.code is Code.INVALID_ARGUMENT


def test_the_daemons_parts_are_known_by_their_names() -> None:
    assert {"rpc"} <= set(log.parts())
