"""Writes plain data as TOML that is pleasant to read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_WIDTH = 100


def emit(data: Mapping[str, Any], above: str = "") -> str:
    """`data`, made of strings, integers, floats, booleans, lists and tables, as a document; tables come last.

    `above` is the dotted name of the table that `data` is.
    """
    tables = {name: value for name, value in data.items() if _is_table(value) or _is_table_list(value)}
    text = "".join(_entry(_key(name), value) for name, value in data.items() if name not in tables)
    for name, value in tables.items():
        key = f"{above}{_key(name)}"
        if _is_table(value):
            text += f"\n[{key}]\n{emit(value, f'{key}.')}"
        else:
            text += "".join(f"\n[[{key}]]\n{emit(part, f'{key}.')}" for part in value)
    return text


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_table_list(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(part, Mapping) for part in value)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)


def _entry(key: str, value: object) -> str:
    line = f"{key} = {_value(value)}"
    if len(line) <= _WIDTH or not isinstance(value, list):
        return line + "\n"
    rows = [""]
    for part in (f" {_value(part)}," for part in value):
        if len(rows[-1]) + len(part) > _WIDTH and rows[-1]:
            rows.append("")
        rows[-1] += part
    return f"{key} = [\n" + "".join(f" {row}\n" for row in rows) + "]\n"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return str(value)


def _string(text: str) -> str:
    """As a basic string; what could not be seen is escaped."""
    return '"' + "".join(_letter(letter) for letter in text) + '"'


def _letter(letter: str) -> str:
    if letter in '"\\':
        return "\\" + letter
    if letter.isprintable():
        return letter
    return f"\\u{ord(letter):04X}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08X}"
