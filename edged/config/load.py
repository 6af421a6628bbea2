"""From fragments to settings: each is checked, the sound parts are merged, and all that is wrong is told at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import msgspec

from edged import schema
from edged.config import fragments, names
from edged.config.fragments import Fragment
from edged.config.rules import objections
from edged.config.settings import FIELDS, Settings
from edged.document import Document, DocumentError, Place, Problem
from edged.errors import Code

DEFAULTS = Place("defaults")
"""The place of a value that no file gives."""

_KEYS = frozenset(field.key for field in FIELDS)


class Loaded(msgspec.Struct, frozen=True):
    """Settings, and where they came from."""

    settings: Settings
    origins: dict[str, Place]
    """For each key that a file gives (`serving.drain_s`), the place that decided; the others have their default."""
    files: tuple[str, ...]
    """The files read, later over earlier."""


def load(root: Path = Path("/"), files: Sequence[Path] = ()) -> Loaded:
    """The settings from `files` or, where none are given, from those found below `root`.

    Raises DocumentError with SETTINGS_INVALID and every problem of every file, and another EdgedError when `root` or
    one of `files` has a name that cannot be used at all. The paths in the settings are as written:
    `loaded.settings.under(root)` has those to open.
    """
    names.check(root, *files)
    return merge(fragments.read(root, files), root)


def merge(read: Iterable[Fragment], root: PurePath = Path("/")) -> Loaded:
    """The settings that `read` makes, later fragments over earlier, tables merged key by key. Raises DocumentError."""
    problems: list[Problem] = []
    files: list[str] = []
    data: dict[str, dict[str, Any]] = {}
    origins: dict[str, Place] = {}
    rank: dict[str, tuple[int, int]] = {}  # of the origins, so that the last of several is known
    doubtful: set[str] = set()  # keys whose value is not known, since what gave it is wrong

    for number, fragment in enumerate(read):
        if isinstance(fragment, DocumentError):
            problems += fragment.problems
            doubtful |= _KEYS
            continue
        files.append(fragment.file)
        misfits = list(schema.misfits(fragment.data, Settings))
        sound = _sound(fragment.data, misfits)
        wrong = [fragment.problem(misfit) for misfit in misfits] + list(_wrong_alone(fragment, sound, root))
        problems += sorted(wrong, key=lambda problem: problem.place.line)
        for misfit in misfits:
            doubtful |= {key for key in _KEYS if _covers(misfit.key, key)}
        for table, entries in sound.items():
            data.setdefault(table, {}).update(entries)
            for name in entries:
                key = f"{table}.{name}"
                origins[key] = fragment.place((table, name))
                rank[key] = (number, origins[key].line)
                doubtful.discard(key)

    settings = msgspec.convert(data, Settings)
    for objection in objections(settings, root):
        given = [key for key in objection.keys if key in origins]
        if not doubtful.isdisjoint((*objection.keys, *objection.with_keys)) or (objection.alone and given):
            continue  # the first would be a guess, the second was told with its fragment
        key = max(given, key=lambda key: rank[key]) if given else objection.keys[-1]
        problems.append(Problem(origins.get(key, DEFAULTS), key, objection.found, objection.remedy))
    if problems:
        raise DocumentError(Code.SETTINGS_INVALID, problems)
    return Loaded(settings, origins, tuple(files))


def _sound(data: dict[str, Any], misfits: Iterable[schema.Misfit]) -> dict[str, dict[str, Any]]:
    """What is left of a fragment without the values that do not fit."""
    wrong = {misfit.key[:2] for misfit in misfits}
    if () in wrong:  # too many to name
        return {}
    return {
        table: {name: value for name, value in entries.items() if (table, name) not in wrong}
        for table, entries in data.items()
        if (table,) not in wrong
    }


def _wrong_alone(fragment: Document, sound: dict[str, dict[str, Any]], root: PurePath) -> Iterator[Problem]:
    """What types cannot say about the values of one fragment, even of those that a later one replaces."""
    for objection in objections(msgspec.convert(sound, Settings), root):
        table, _, name = objection.keys[0].partition(".")
        if objection.alone and name in sound.get(table, {}):
            yield Problem(fragment.place((table, name)), objection.keys[0], objection.found, objection.remedy)


def _covers(key: schema.Key, of: str) -> bool:
    """Whether `key` stands for the setting `of` or for a table that holds it."""
    return key[:2] == tuple(of.split("."))[: len(key)]
