"""Plain data against types: everything that does not fit, in words for the person who wrote it."""

import datetime
import math
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from edged import schema
from edged.config.settings import Settings

Name = Annotated[str, Meta(pattern=r"^[a-z]+\Z", extra={"allowed": "small letters"})]


class Level(StrEnum):
    LOW = "low"
    HIGH = "high"


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Name
    size_mib: Annotated[int, Meta(ge=1, le=9, extra={"unit": "MiB"})] = 1
    weights: Annotated[tuple[float, ...], Meta(max_length=3)] = ()


class Thing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: Literal["a", "b"]
    on: bool = False
    share: Annotated[float, Meta(ge=0, le=1)] | None = None
    delay_s: Annotated[float, Meta(gt=0, lt=5)] = 1.0
    level: Level = Level.LOW
    parts: tuple[Part, ...] = ()
    pairs: list[tuple[int, str]] = []
    by_level: dict[Level, Part] = {}
    by_name: dict[Name, int] = {}
    whole: Part | None = None
    low: int = 0
    high: int = 9

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low is {self.low}, above high; lower it")


class Open(msgspec.Struct):
    """A type that takes keys it does not know."""

    part: Part | None = None


def told(data: object, wanted: Any = Thing) -> list[str]:
    return [f"{schema.dotted(m.key)}: {m.found}; {m.remedy}" for m in schema.misfits(data, wanted)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"kind": "a"}, []),
        ({}, ['kind: is missing; give one of "a", "b"']),
        ({"kind": "c"}, ['kind: "c" does not fit; allowed: one of "a", "b"']),
        ({"kind": "a", "on": 1}, ["on: 1 does not fit; allowed: true or false"]),
        ({"kind": "a", "share": 2}, ["share: 2 does not fit; allowed: a number from 0 to 1"]),
        ({"kind": "a", "delay_s": 0}, ["delay_s: 0 does not fit; allowed: a number above 0 below 5"]),
        ({"kind": "a", "level": "mid"}, ['level: "mid" does not fit; allowed: one of "low", "high"']),
        (
            {"kind": "a", "levle": "low"},
            ["levle: is no key known here; did you mean level? allowed: by_level, by_name"],
        ),
        (
            {"kind": "a", "by_level": {"mid": {"name": "a"}}},
            ["by_level.mid: is no name that fits here; allowed: one of"],
        ),
        ({"kind": "a", "by_name": {"A B": 1}}, ['by_name."A B": is no name that fits here; allowed: small letters']),
        ({"kind": "a", "by_name": {"a": "x"}}, ['by_name.a: "x" does not fit; allowed: an integer']),
        (
            {"kind": "a", "parts": {}},
            ["parts: a table does not fit; allowed: an array, each a table with name, size_mib"],
        ),
        (
            {"kind": "a", "parts": [{"name": "a", "weights": [1, 2, 3, 4]}]},
            ["parts[0].weights: [1, 2, 3, 4] does not fit"],
        ),
        ({"kind": "a", "pairs": [[1, "a"], [1, 2]]}, ["pairs[1]: [1, 2] does not fit"]),
        (
            {"kind": "a", "parts": ({"name": "a"}, {"name": "a", "size_mib": 10})},
            ["parts[1].size_mib: 10 does not fit; allowed: an integer from 1 to 9 (MiB)"],
        ),
        ({"kind": "a", "whole": {"name": "A"}}, ['whole.name: "A" does not fit; allowed: small letters']),
        ({"kind": "a", "low": 10}, [": low is 10, above high; lower it"]),
        (
            {"kind": 1, "parts": [{"name": "a"}, {"name": "", "size_mib": 10}, 5], "x": 1},
            [
                'kind: 1 does not fit; allowed: one of "a", "b"',
                'parts[1].name: "" does not fit; allowed: small letters',
                "parts[1].size_mib: 10 does not fit; allowed: an integer from 1 to 9 (MiB)",
                "parts[2]: 5 does not fit; allowed: a table with name, size_mib, weights",
                "x: is no key known here; allowed:",
            ],
        ),
        ([], ["[] does not fit; allowed: a table with kind, on"]),
    ],
)
def test_each_misfit_says_where_what_came_and_what_is_allowed(data, expected):
    found = told(data)
    assert len(found) == len(expected)
    for came, wanted in zip(found, expected, strict=True):
        assert came.removeprefix(": ").startswith(wanted.removeprefix(": "))


def test_a_type_that_takes_unknown_keys_takes_them():
    assert told({"other": 1, "part": {"name": "a"}}, Open) == []
    assert told({"other": 1, "part": {"name": "a", "x": 1}}, Open) == [
        "part.x: is no key known here; allowed: name, size_mib, weights"
    ]


@pytest.mark.parametrize("bound", [Meta(ge=0), Meta(gt=0), Meta(le=0), Meta(lt=0), Meta(ge=0, le=9)], ids=repr)
def test_not_a_number_lies_within_no_bounds(bound):
    found = told({"f": math.nan}, dict[str, Annotated[float, bound]])
    assert [line.partition(";")[0] for line in found] == ["f: nan does not fit"]


def test_no_more_than_a_bounded_number_is_told():
    found = list(schema.misfits({f"k{number}": 1 for number in range(1000)}, Thing))
    assert len(found) == schema.MAX_MISFITS + 1
    assert found[-1].found == f"more than {schema.MAX_MISFITS} things do not fit"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (True, "true"),
        (3, "3"),
        (1.5, "1.5"),
        ("a", '"a"'),
        ("a\nb\x1b", r'"a\nb\x1b"'),
        ("x" * 100, '"' + "x" * 58 + "…"),
        ({"a": 1}, "a table"),
        ([1, "b", [False]], '[1, "b", [false]]'),
        (list(range(10)), "[0, 1, 2, 3, 4, 5, 6, 7, …]"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (1 << 20_000, "an integer of 20001 bits"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_a_value_is_shown_as_toml_would_hold_it_short_and_printable(value, shown):
    assert schema.show(value) == shown


@pytest.mark.parametrize(
    ("key", "written"),
    [
        (("a", "b-c", 1, "d_2"), "a.b-c[1].d_2"),
        (("a b", "c.d"), '"a b"."c.d"'),
        (("a\n",), r'"a\n"'),
        (("k" * 300,), '"' + "k" * 58 + "…"),
        ((), ""),
    ],
)
def test_a_key_is_shown_as_people_write_it(key, written):
    assert schema.dotted(key) == written


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Annotated[int, Meta(ge=1)], "an integer, at least 1"),
        (Annotated[int, Meta(le=1)], "an integer, at most 1"),
        (Annotated[float, Meta(gt=1)], "a number above 1"),
        (Annotated[float, Meta(lt=1, extra={"unit": "s"})], "a number below 1 (s)"),
        (Annotated[str, Meta(min_length=1)], "a string of at least 1 letters"),
        (Annotated[str, Meta(max_length=9)], "a string of at most 9 letters"),
        (Annotated[str, Meta(min_length=1, max_length=9)], "a string of 1 to 9 letters"),
        (tuple[Name, ...], "an array, each small letters"),
        (dict[str, bool], "a table, each value true or false"),
        (int | str, "an integer or a string"),
        (Level, 'one of "low", "high"'),
    ],
)
def test_a_type_is_described_in_a_few_words(wanted, words):
    assert schema.describe(wanted) == words


# Data that is nearly right: each value is mostly what the type wants and sometimes anything.
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | st.floats()
    | st.sampled_from(["", "a", "low", "B", "info", "/a"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "name", "low", "X"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def nearly(strategy):
    return st.integers(0, 9).flatmap(lambda choice: strategy if choice else anything)


def table(required, optional):
    known = st.fixed_dictionaries(
        {name: nearly(strategy) for name, strategy in required.items()},
        optional={**{name: nearly(strategy) for name, strategy in optional.items()}},
    )
    return st.tuples(known, st.sampled_from([{}, {}, {}, {"odd": 1}])).map(lambda both: {**both[0], **both[1]})


part = table(
    {"name": st.just("a")},
    {"size_mib": st.integers(0, 10), "weights": st.lists(nearly(st.floats()), max_size=4)},
)
thing = table(
    {"kind": st.sampled_from("ab")},
    {
        "on": st.booleans(),
        "share": st.none() | st.floats(0, 1),
        "delay_s": st.floats(0, 5) | st.integers(0, 5),
        "level": st.sampled_from(["low", "high"]),
        "parts": st.lists(nearly(part), max_size=2),
        "pairs": st.lists(nearly(st.tuples(st.integers(), st.just("a")).map(list)), max_size=2),
        "by_level": st.dictionaries(st.sampled_from(["low", "high", "mid"]), nearly(part), max_size=2),
        "by_name": st.dictionaries(st.sampled_from(["a", "b", "C"]), nearly(st.integers()), max_size=2),
        "whole": st.none() | part,
        "low": st.integers(0, 12),
        "high": st.integers(0, 12),
    },
)
some_settings = table(
    {},
    {
        "log": table({}, {"level": st.just("info"), "events_kept": st.integers(15, 17)}),
        "serving": table({}, {"drain_s": st.floats(-1, 301), "queue_mib": st.integers(0, 2)}),
        "paths": table({}, {"state": st.sampled_from(["/a", "/a/..", "/a/...", "a", "/", "/a\n", "/a/"])}),
    },
)


def converts(data: object, wanted: Any) -> bool:
    try:
        msgspec.convert(data, wanted)
    except msgspec.ValidationError:
        return False
    return True


@settings(deadline=None)
@given(
    st.tuples(thing, st.just(Thing)) | st.tuples(some_settings, st.just(Settings)) | st.tuples(anything, st.just(Open))
)
def test_nothing_is_told_exactly_when_msgspec_converts(case):
    data, wanted = case
    assert (told(data, wanted) == []) == converts(data, wanted)
