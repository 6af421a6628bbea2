"""docs/bundle.md: its examples are bundles, and its tables are the schema."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edged import schema
from edged.bundle.folder import check, read_description
from edged.bundle.manifest import Description
from edged.bundle.rules import named_files

DOCUMENT = (Path(__file__).parents[3] / "docs" / "bundle.md").read_text(encoding="utf-8")


def bare(kind: Any) -> Any:
    return bare(typing.get_args(kind)[0]) if typing.get_origin(kind) is typing.Annotated else kind


def is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def rows(table: type[msgspec.Struct], above: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, what is allowed and default of everything below a table of the schema."""
    for field in msgspec.structs.fields(table):
        key, kind = above + field.encode_name, bare(field.type)
        origin, arguments = typing.get_origin(kind), [bare(argument) for argument in typing.get_args(kind)]
        if is_table(kind):
            yield from rows(kind, f"{key}.")
        elif origin is tuple and is_table(arguments[0]):
            yield from rows(arguments[0], f"{key}[].")
        elif origin is dict and is_table(arguments[1]):
            yield from rows(arguments[1], f"{key}.LEVEL.")
        else:
            shown = "none" if field.default is None else f"`{schema.show(field.default)}`"
            yield f"`{key}`", schema.describe(field.type), "required" if field.required else shown


def test_the_tables_list_every_key_with_what_is_allowed_and_its_default():
    lines = [line for line in DOCUMENT.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert sorted(tuple(row[:3]) for row in cells) == sorted(rows(Description))
    assert all(len(row) == 4 and row[3].endswith(".") for row in cells)


def examples() -> list[str]:
    blocks = re.findall(r"^( *)```toml\n(.*?)^\1```", DOCUMENT, re.DOTALL | re.MULTILINE)
    texts = [re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, text in blocks]
    least, golden, complete = texts
    return [least, least + "\n" + golden, complete]


@pytest.mark.parametrize("index", range(3), ids=["least", "with a golden", "complete"])
def test_the_examples_are_bundles(author, index):
    text = examples()[index]
    paths = set(re.findall(r'^file = "(.*)"', text, re.MULTILINE))
    folder = author.write(text, files=dict.fromkeys(paths, b""))
    described = read_description(folder)
    assert paths == {path for _, path in named_files(described)}
    assert [problem.key for problem in check(folder)] == (["acceptance.goldens"] if index == 0 else [])


def test_the_complete_example_uses_every_table():
    complete = msgspec.toml.decode(examples()[2], type=dict)
    assert set(complete) == set(Description.__struct_fields__) - {"schema"}
