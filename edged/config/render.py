"""Settings as people read them: the merged ones with their origins, and the reference of all keys."""

from __future__ import annotations

import json

import msgspec

from edged.config.fragments import SOURCES
from edged.config.load import Loaded
from edged.config.settings import FIELDS, Field, Settings


def as_toml(loaded: Loaded) -> str:
    """What `--print-config` shows: valid TOML that gives the same settings, each value with its meaning and origin."""
    lines = ["# Merged from, later over earlier:"]
    lines += [f"#   {_printable(file)}" for file in loaded.files] or ["#   no file; all values are defaults"]
    table = ""
    for field in FIELDS:
        if field.table != table:
            table = field.table
            lines += ["", f"[{table}]"]
        origin = loaded.origins.get(field.key)
        unit = f" Unit: {field.unit}." if field.unit else ""
        lines += [
            f"# {field.meaning}{unit}",
            f"{field.name} = {toml_value(field.of(loaded.settings))}  # {_printable(str(origin or 'default'))}",
        ]
    return "\n".join(lines) + "\n"


def toml_value(value: bool | int | float | str) -> str:
    """A scalar as TOML writes it."""
    if isinstance(value, str):
        # JSON's escapes are TOML's too; it leaves only DEL as it is, which TOML forbids.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def reference() -> str:
    """The text of docs/settings.md."""
    lines = [_HEAD]
    for table in msgspec.structs.fields(Settings):
        fields = [field for field in FIELDS if field.table == table.name]
        lines += [f"## [{table.name}]", "", table.type.__doc__ or "", ""]
        lines += ["| key | default | unit | allowed | reload | meaning |", "|---|---|---|---|---|---|"]
        lines += [_row(field) for field in fields]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _row(field: Field) -> str:
    cells = (
        f"`{field.name}`",
        f"`{toml_value(field.default)}`",
        field.unit,
        field.allowed,
        "yes" if field.reload else "",
        field.meaning,
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


_HEAD = f"""\
# Settings

<!-- Written by tools/generate_settings_doc.py from edged/config/settings.py; change it there. -->

edged runs without any settings file: every key has a default. Files are TOML and are read in this order, later over
earlier; each may give any part, tables are merged key by key, and a key given again is replaced.

{
    chr(10).join(
        f"{number}. {text}"
        for number, text in enumerate(
            (text for source in SOURCES for text in (f"`{source}`", f"`{source}.d/*.toml`, sorted by name")), 1
        )
    )
}

Hidden files and files that do not end in `.toml` are ignored. `edged --config FILE`, given once or several times,
reads only those files. Each must be a regular file, or `/dev/null`, which stands for an empty one; pipes are refused,
since files are read again. `edged --root DIR` puts `DIR` before the paths above and before every path in the settings.
Paths must be UTF-8.

- `edged --check-config` names everything that is wrong, each with its file, line and key, and what is allowed.
- `edged --print-config` prints the merged settings, each with the file and line that it came from.
- `systemctl reload edged` reads the files again and applies the keys marked *reload*; the others wait for a restart.

A daemon that starts with settings that are wrong runs on the last ones that were right, and says so. They are kept in
`/var/lib/edged`, whatever `paths.state` says, for each list of files given with `--config` apart. Only what edged's own
user or root owns, and nobody else may write, is believed.
"""
