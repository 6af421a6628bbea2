"""Plain data checked against msgspec types: every misfit at once, in words for the person who wrote it.

msgspec stops at the first error. Here each leaf is converted by msgspec on its own, under the constraints of its
type, and all that fails is told.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

Key = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]{1,64}")

# The bound of one answer: a hostile or machine-made file may hold millions of misfits.
MAX_MISFITS = 200


class Misfit(msgspec.Struct, frozen=True):
    """One thing that does not fit: under which key, what came, and what is allowed."""

    key: Key
    found: str
    remedy: str


def dotted(key: Key) -> str:
    """A key as people write it: `variants[1].file`; parts that TOML would quote are quoted, and cut short."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE.fullmatch(part) else show(part)
            text += f".{name}" if text else name
    return text


def misfits(data: object, wanted: Any) -> Iterator[Misfit]:
    """Everything in `data` that does not fit the type `wanted`; nothing exactly when msgspec converts it."""
    for count, misfit in enumerate(_misfits(data, wanted, ())):
        if count == MAX_MISFITS:
            yield Misfit((), f"more than {MAX_MISFITS} things do not fit", "mend those named first")
            return
        yield misfit


def _misfits(data: object, wanted: Any, key: Key) -> Iterator[Misfit]:
    kind = _bare(wanted, data)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    inner: Iterator[Misfit] = iter(())
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(data, dict):
        yield from _table_misfits(data, kind, key)
        return
    if isinstance(data, list | tuple) and (origin is list or (origin is tuple and arguments[1:] == (...,))):
        inner = (found for index, part in enumerate(data) for found in _misfits(part, arguments[0], (*key, index)))
    elif origin is dict and isinstance(data, dict):
        inner = (found for name, part in data.items() for found in _entry_misfits(name, part, arguments, key))
    none_inside = True
    for found in inner:
        none_inside = False
        yield found
    if none_inside:
        yield from _own_misfits(data, wanted, key)


def _bare(wanted: Any, data: object) -> Any:
    """The type under its annotations; of a union, the member that `data` may have been meant for."""
    if typing.get_origin(wanted) is typing.Annotated:
        return _bare(typing.get_args(wanted)[0], data)
    if typing.get_origin(wanted) in (typing.Union, types.UnionType) and data is not None:
        return _bare(next(part for part in typing.get_args(wanted) if part is not types.NoneType), data)
    return wanted


def _table_misfits(data: dict[str, object], kind: type[msgspec.Struct], key: Key) -> Iterator[Misfit]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    fits = True
    for name, part in data.items():
        if name not in fields:
            if not kind.__struct_config__.forbid_unknown_fields:
                continue
            near = difflib.get_close_matches(name, fields, n=1)
            remedy = f"did you mean {near[0]}? " if near else ""
            yield Misfit((*key, name), "is no key known here", f"{remedy}allowed: {', '.join(sorted(fields))}")
            fits = False
            continue
        for found in _misfits(part, fields[name].type, (*key, name)):
            yield found
            fits = False
    for name, field in fields.items():
        if field.required and name not in data:
            yield Misfit((*key, name), "is missing", f"give {describe(field.type)}")
            fits = False
    if fits:  # then the parts are right, and only the struct's own __post_init__ can still object
        try:
            msgspec.convert(data, kind)
        except msgspec.ValidationError as error:
            objection, _, remedy = str(error).partition(" - at `$")[0].partition("; ")
            yield Misfit(key, objection, remedy or "see its documentation")


def _entry_misfits(name: str, part: object, arguments: tuple[Any, ...], key: Key) -> Iterator[Misfit]:
    try:
        msgspec.convert(name, arguments[0])
    except msgspec.ValidationError:
        yield Misfit((*key, name), "is no name that fits here", f"allowed: {describe(arguments[0])}")
        return
    yield from _misfits(part, arguments[1], (*key, name))


def _own_misfits(data: object, wanted: Any, key: Key) -> Iterator[Misfit]:
    try:
        msgspec.convert(data, wanted)
    except msgspec.ValidationError:
        yield Misfit(key, f"{show(data)} does not fit", f"allowed: {describe(wanted)}")


def show(data: object, limit: int = 60) -> str:
    """A value as it would stand in TOML, cut short and safe to print."""
    if isinstance(data, bool):
        text = "true" if data else "false"
    elif isinstance(data, str):
        text = f'"{data}"'
    elif isinstance(data, dict):
        text = "a table"
    elif isinstance(data, list | tuple):
        text = f"[{', '.join(show(item) for item in data[:8])}{', …' if len(data) > 8 else ''}]"
    elif isinstance(data, int) and data.bit_length() > 4 * limit:  # Python refuses to write very long integers
        text = f"an integer of {data.bit_length()} bits"
    else:
        text = str(data)
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[: 2 * limit])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def describe(wanted: Any) -> str:
    """What a type allows, in a few words: `an integer from 1 to 4096 (MiB)`."""
    return _describe(inspect.type_info(wanted))


def _describe(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata():
            extra = kind.extra or {}
            unit = f" ({extra['unit']})" if "unit" in extra else ""
            return str(extra.get("allowed", _describe(kind.type))) + unit
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "an integer" + _range(kind.ge, kind.gt, kind.le, kind.lt)
        case inspect.FloatType():
            return "a number" + _range(kind.ge, kind.gt, kind.le, kind.lt)
        case inspect.StrType():
            return "a string" + _lengths(kind.min_length, kind.max_length, "letters")
        case inspect.EnumType():
            return "one of " + ", ".join(f'"{member.value}"' for member in kind.cls)
        case inspect.LiteralType():
            return "one of " + ", ".join(show(value) for value in kind.values)
        case inspect.VarTupleType() | inspect.ListType():
            lengths = _lengths(kind.min_length, kind.max_length, "items")
            return f"an array{lengths}, each {_describe(kind.item_type)}"
        case inspect.DictType():
            return f"a table, each value {_describe(kind.value_type)}"
        case inspect.StructType():
            return "a table with " + ", ".join(field.encode_name for field in kind.fields)
        case inspect.UnionType():
            parts = [part for part in kind.types if not isinstance(part, inspect.NoneType)]
            return " or ".join(_describe(part) for part in parts)
    return type(kind).__name__.removesuffix("Type").lower()


def _range(ge: float | None, gt: float | None, le: float | None, lt: float | None) -> str:
    low = ge if ge is not None else gt
    high = le if le is not None else lt
    above = "above" if gt is not None else "from"
    below = "below" if lt is not None else "to"
    if low is not None and high is not None:
        return f" {above} {low} {below} {high}"
    if low is not None:
        return f" above {low}" if gt is not None else f", at least {low}"
    if high is not None:
        return f" below {high}" if lt is not None else f", at most {high}"
    return ""


def _lengths(low: int | None, high: int | None, what: str) -> str:
    if low and high is not None:
        return f" of {low} to {high} {what}"
    if low:
        return f" of at least {low} {what}"
    return f" of at most {high} {what}" if high is not None else ""
