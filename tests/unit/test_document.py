"""TOML documents: read within limits, and every key found at its line."""

import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged import document
from edged.document import MAX_BYTES, MAX_DEPTH, Document, DocumentError, Place, Problem
from edged.errors import Code, EdgedError

TEXT = '''\
# a comment
title = "t"
numbers = [
  1,  # [not a table]
  [2, 3],
]

[a]   # "
x.y = 1
x.z = 2
text = """
[b]
y = "no key" \\
"""""
[[a.list]]
name = 'first'
[a.list.inner]
deep = { at = { last = [ { here = 1 } ] } }
[[a.list]]
name = 'second'
[a.list.inner]
deep = QQQ
]QQQ
["quoted.key".sub]
'''.replace("QQQ", "'''")

LINES = {
    "title": 2,
    "numbers": 3,
    "numbers[1]": 3,
    "numbers[1][0]": 3,
    "a": 8,
    "a.x": 9,
    "a.x.y": 9,
    "a.x.z": 10,
    "a.text": 11,
    "a.list": 15,
    "a.list[0]": 15,
    "a.list[0].name": 16,
    "a.list[0].inner": 17,
    "a.list[0].inner.deep": 18,
    "a.list[0].inner.deep.at.last[0].here": 18,
    "a.list[1]": 19,
    "a.list[1].name": 20,
    "a.list[1].inner": 21,
    "a.list[1].inner.deep": 22,
    '"quoted.key"': 24,
    '"quoted.key".sub': 24,
}


def parse(text: str | bytes) -> Document:
    return document.parse(text.encode() if isinstance(text, str) else text, "f.toml", Code.BUNDLE_INVALID)


def refusal(text: str | bytes) -> Problem:
    with pytest.raises(DocumentError) as caught:
        parse(text)
    assert caught.value.code is Code.BUNDLE_INVALID
    (problem,) = caught.value.problems
    return problem


class TestPlaces:
    def test_every_key_stands_where_it_is_given_first(self):
        found = {document.schema.dotted(key): line for key, line in parse(TEXT).lines.items()}
        assert {key: found.get(key) for key in LINES} == LINES

    def test_a_key_that_is_not_there_has_the_line_of_its_nearest_parent(self):
        assert parse(TEXT).place(("a", "list", 1, "missing", "below")) == Place("f.toml", 19)

    def test_a_key_without_any_parent_has_the_file(self):
        assert parse(TEXT).place(("missing",)) == Place("f.toml")
        assert parse(TEXT).place(()) == Place("f.toml")

    def test_a_place_reads_as_file_and_line(self):
        assert str(Place("f.toml", 3)) == "f.toml:3"
        assert str(Place("f.toml")) == "f.toml"

    def test_lines_are_those_of_an_editor(self):
        text = "# \u2028 \x85\na = '\u2028'\r\nb = '''\r\n'''\r\nc = 1\n"
        assert parse(text).lines == {("a",): 2, ("b",): 3, ("c",): 5}

    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_strings_may_end_in_quotes_of_their_own(self, count):
        text = f"a = [\"\"\"x{count * chr(34)}\"\"\", '''x{count * chr(39)}''']\nb = 1\n"
        assert parse(text).lines[("b",)] == 2

    def test_time_grows_with_the_file_and_not_with_its_square(self):
        """Reading the file again for each line would take hours here; this takes a second."""
        text = "a = '''\n" + "\n" * 100_000 + "'''\n" + "".join(f"k{number} = 1\n" for number in range(10_000))
        assert parse(text).place(("k9999",)).line == 110_002


names = st.text(st.sampled_from("ab.#\"' [="), min_size=1, max_size=3)
scalars = st.integers() | st.booleans() | st.text(st.sampled_from("a\"'#[]{}=,.\\\n"), max_size=6)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=5)


@settings(deadline=None)
@given(
    st.lists(st.tuples(names, values, st.sampled_from(["", '# ] \' """\n', "\n"])), unique_by=lambda entry: entry[0])
)
def test_a_key_stands_at_its_line_whatever_the_values_before_it_look_like(entries):
    text, expected = "", {}
    for name, value, before in entries:
        text += before
        expected[name] = text.count("\n") + 1
        text += f"{toml(name)} = {toml(value)}\n"
    read = parse(text)
    assert read.data == {name: value for name, value, _ in entries}
    assert {name: read.place((name,)).line for name in expected} == expected


def toml(value: object) -> str:
    """A value on as many lines as TOML allows."""
    if isinstance(value, list):
        return "[\n" + "".join(f"{toml(item)} , # '''\n" for item in value) + "]"
    if isinstance(value, str) and "\n" in value and "'''" not in value and not value.endswith("'"):
        return f"'''\n{value}'''"
    return msgspec.json.encode(value).decode()


class TestReading:
    def test_a_file(self, tmp_path):
        path = tmp_path / "f.toml"
        path.write_bytes(b"\xef\xbb\xbfa = 1\r\n")
        read = document.read(path, Code.BUNDLE_INVALID)
        assert (read.file, read.data) == (str(path), {"a": 1})

    def test_an_empty_file_is_a_document(self):
        assert parse("").data == {}

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(EdgedError, match=r"/no\.toml: cannot be read: No such file or directory; check that"):
            document.read(tmp_path / "no.toml", Code.BUNDLE_INVALID)

    def test_an_endless_file(self):
        with pytest.raises(DocumentError, match="larger than 256 KiB"):
            document.read(Path("/dev/zero"), Code.BUNDLE_INVALID)

    def test_the_largest_file(self):
        assert parse("#" * MAX_BYTES).data == {}
        assert "larger than" in refusal("#" * (MAX_BYTES + 1)).found

    def test_the_deepest_array(self):
        assert parse(f"a = {'[' * MAX_DEPTH}{']' * MAX_DEPTH}").data
        assert refusal(f"\na = {'[' * (MAX_DEPTH + 1)}{']' * (MAX_DEPTH + 1)}").place.line == 2

    def test_depth_is_not_length(self):
        assert len(parse(f"a = [{'1.5, ' * 1000}]").data["a"]) == 1000
        assert len(parse(f"a = [{'[1.5, {b.c = 2.5}], ' * 1000}]").data["a"]) == 1000

    @pytest.mark.parametrize("text", ["a.b = 1\na.b.c = 2\n", "[a]\n[a.b]\n[a]\n", "a = 1\na = 2\n"])
    def test_what_is_given_twice_is_refused_with_a_hint(self, text):
        assert refusal(text).remedy == "a key or table stands in a file once"

    def test_the_problem_says_the_column_too(self):
        problem = refusal("a = 1\nb = x\n")
        assert str(problem) == "f.toml:2: is not TOML: Invalid value at column 5; mend this line"

    @pytest.mark.parametrize("digits", [4300, 4301])
    def test_numbers_up_to_the_length_that_python_reads(self, digits):
        text = f"\n\na = {'9' * digits}"
        if digits == 4300:
            assert parse(text).data
        else:
            assert refusal(text).place.line == 3

    @settings(deadline=None)
    @given(
        st.text(st.sampled_from("a1.=[]{},\"'\\# \n\t\r\0é") | st.characters(), max_size=40) | st.binary(max_size=40)
    )
    def test_anything_is_either_read_or_refused_at_a_line_of_the_file(self, content):
        raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        lines = range(1, raw.count(b"\n") + 2)
        try:
            read = parse(raw)
        except DocumentError as error:
            told = [problem.place.line in lines for problem in error.problems]
        else:
            told = [line in lines for line in read.lines.values()]
            assert read.data == tomllib.loads(raw.decode("utf-8-sig").replace("\r\n", "\n"))
            assert set(read.lines) >= {(name,) for name in read.data}
        assert all(told)


def test_problems_of_a_document_stand_at_their_lines():
    class Wanted(msgspec.Struct, forbid_unknown_fields=True):
        size: int

    found = [str(problem) for problem in parse("\nsiz = 1\n").problems(Wanted)]
    assert found == [
        "f.toml:2: siz: is no key known here; did you mean size? allowed: size",
        "f.toml: size: is missing; give an integer",
    ]
