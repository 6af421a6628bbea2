"""TOML that is written reads as what it was made of."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from edged.bundle.toml import emit

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.text('"\\\n\t\0\x7f#=[]é', max_size=10)
scalars = text | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
values = scalars | st.lists(scalars, max_size=30) | st.lists(st.lists(scalars, max_size=3), max_size=3)
tables = st.dictionaries(text, values, max_size=4)
documents = st.dictionaries(
    text,
    values
    | st.recursive(tables, lambda inner: st.dictionaries(text, inner, max_size=3), max_leaves=5)
    | st.lists(tables, min_size=1, max_size=3),
    max_size=5,
)


@given(documents)
def test_what_was_written_is_read_again(data):
    assert tomllib.loads(emit(data)) == data


def test_it_is_pleasant_to_read():
    data = {"name": "a", "counts": list(range(100, 130)), "inputs": [{"shape": [-1, 3]}, {}]}
    assert emit(data) == (
        'name = "a"\n'
        "counts = [\n"
        "  100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 112, 113, 114, 115, 116, 117, 118, 119,\n"
        "  120, 121, 122, 123, 124, 125, 126, 127, 128, 129,\n"
        "]\n"
        "\n[[inputs]]\nshape = [-1, 3]\n"
        "\n[[inputs]]\n"
    )


def test_what_cannot_be_seen_is_escaped():
    assert emit({"a": 'x"\\\n\x00\u202e\U000e0001é'}) == 'a = "x\\"\\\\\\u000A\\u0000\\u202E\\U000E0001é"\n'
