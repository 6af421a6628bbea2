"""Numbers, times and foreign text in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.ctl import words


@given(st.text())
def test_safe_text_is_one_printable_line(text: str):
    assert words.safe(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("défauts 机 42", "défauts 机 42"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("first\r\n\tsecond", "first; second"),
        ("what is wrong:\n  this\n  that\n\n", "what is wrong: this; that"),
        ("  indented\tby two", "  indented by two"),
        ("\n\n", ""),
        ("left\u202eright", "left\\u202eright"),
        ("\x9b2J", "\\x9b2J"),
        ("\udc80", "\\udc80"),
    ],
)
def test_what_steers_a_terminal_is_shown_escaped(text: str, shown: str):
    assert words.safe(text) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-3, "0.00 s"),
        (0.078, "0.08 s"),
        (7.46, "7.5 s"),
        (42.4, "42 s"),
        (59.9, "1 min 0 s"),
        (192, "3 min 12 s"),
        (7500, "2 h 5 min"),
        (3 * 86_400 + 4 * 3600 + 59, "3 d 4 h"),
    ],
)
def test_durations(seconds: float, shown: str):
    assert words.duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-100, "just now"), (0.9, "just now"), (5, "5 s ago"), (119, "1 min ago"), (7300, "2 h ago"), (1e6, "11 d ago")],
)
def test_how_long_ago(seconds: float, shown: str):
    now = datetime(2026, 11, 21, tzinfo=UTC)
    assert words.ago(now - timedelta(seconds=seconds), now) == shown


def test_sizes_and_counts():
    assert [words.size(count) for count in (0, 1023, 1536, 5 * 2**20, 3 * 2**30)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 GiB",
    ]
    assert [words.mib(count) for count in (0, 61 * 2**20)] == ["-", "61"]
    assert [words.count(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert words.count(2, "copy", "copies") == "2 copies"
    assert words.cut("abcdef", 4) == "abc…"
    assert words.cut("abcd", 4) == "abcd"
    assert words.listed([]) == "none"
    assert words.short_digest("") == "-"
