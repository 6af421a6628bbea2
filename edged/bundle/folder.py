"""A bundle on disk: its description checked, packed into a manifest, and the manifest read again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from edged import document, durable, schema
from edged.bundle import paths, rules
from edged.bundle.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    Description,
    File,
    Manifest,
    as_data,
    encode,
)
from edged.document import Document, DocumentError, Place, Problem
from edged.errors import Code, EdgedError
from edged.schema import MAX_MISFITS, Key, Misfit

_READ_BYTES = 1024 * 1024


def read_description(folder: Path) -> Description:
    """What `bundle.toml` in `folder` says, once all of it holds and every file it names is there.

    Raises DocumentError with every problem at its place, or EdgedError when the file cannot be read at all.
    """
    return _read_description(folder)[1]


def _read_description(folder: Path) -> tuple[Document, Description]:
    read = _read_toml(folder)
    found = list(schema.misfits(read.data, Description))
    described = _converted(read.data, found)
    if described is not None:
        found += islice(rules.misfits(described), MAX_MISFITS)
    found += islice(_file_misfits(folder, dict(_named_in(read.data))), MAX_MISFITS)
    if found or described is None:
        problems = [read.problem(misfit) for misfit in found]
        raise DocumentError(Code.BUNDLE_INVALID, sorted(problems, key=lambda problem: problem.place.line))
    return read, described


def _read_toml(folder: Path) -> Document:
    if not _holds(folder, paths.DESCRIPTION_NAME):
        hint = "write one there (docs/bundle.md), or name a folder that has one"
        raise EdgedError(Code.BUNDLE_INVALID, f"{folder}: has no {paths.DESCRIPTION_NAME}", hint)
    raw = _read(folder, paths.DESCRIPTION_NAME, document.MAX_BYTES)
    return document.parse(raw, str(folder / paths.DESCRIPTION_NAME), Code.BUNDLE_INVALID)


def _holds(folder: Path, name: str) -> bool:
    """Whether anything stands under `name`; raises EdgedError when that cannot be seen."""
    try:
        os.lstat(folder / name)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        hint = "check who may read it"
        raise EdgedError(Code.BUNDLE_INVALID, f"{folder}: cannot be read: {error.strerror}", hint) from error
    return True


def _read(folder: Path, name: str, limit: int) -> bytes:
    """The content of a file, and one byte more than `limit` of one that is longer."""
    try:
        with open(paths.open_regular(folder, name), "rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        hint = "check the disk"
        raise EdgedError(Code.BUNDLE_INVALID, f"{folder / name}: cannot be read: {error.strerror}", hint) from error


def _converted(data: dict[str, Any], misfits: list[Misfit]) -> Description | None:
    """The description without the keys that do not fit, so that the rules can speak of the rest.

    None when too little is left.
    """
    fitting: Any = data
    for misfit in misfits:
        fitting = _without(fitting, misfit.key)
    try:
        return msgspec.convert(fitting, Description)
    except msgspec.ValidationError:
        return None


def _without(data: Any, key: Key) -> Any:
    """A copy of `data` that lacks `key`; the entries of an array keep their places."""
    if not key:
        return data
    first, rest = key[0], key[1:]
    if isinstance(data, dict) and first in data:
        if not rest:
            return {name: part for name, part in data.items() if name != first}
        return {**data, first: _without(data[first], rest)}
    if isinstance(data, list) and isinstance(first, int) and first < len(data) and rest:
        return [*data[:first], _without(data[first], rest), *data[first + 1 :]]
    return data


def _named_in(data: dict[str, Any]) -> Iterator[tuple[str, Key]]:
    """The safe paths that a description names, whatever else is wrong with it, each with the key that names it."""
    acceptance = data.get("acceptance")
    goldens = acceptance.get("goldens") if isinstance(acceptance, dict) else None
    lists = (
        (("variants",), data.get("variants")),
        (("warmup",), data.get("warmup")),
        (("acceptance", "goldens"), goldens),
    )
    for key, entries in lists:
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            path = entry.get("file") if isinstance(entry, dict) else None
            if isinstance(path, str) and not paths.fault(path):
                yield path, (*key, index, "file")


def _file_misfits(folder: Path, keys: dict[str, Key], sizes: dict[str, int] | None = None) -> Iterator[Misfit]:
    """Files that are not there, are no regular files or, where `sizes` says how long each is, have another size."""
    for path, key in keys.items():
        try:
            descriptor = paths.open_inside(folder, path)
        except EdgedError as error:
            yield Misfit(key, error.message, error.hint)
            continue
        size = os.fstat(descriptor).st_size
        os.close(descriptor)
        if sizes is not None and size != sizes[path]:
            found = f"{folder / path} has {size} bytes, and the manifest says {sizes[path]}"
            yield Misfit(key, found, "bring the file that was packed, or pack the bundle again")


def describe(folder: Path) -> Manifest:
    """The manifest that packing would write now. Raises as `pack` does, and writes nothing."""
    return _packed(folder, read_description(folder))


def pack(folder: Path) -> Manifest:
    """Hashes every file that `bundle.toml` names and writes `manifest.json`; nothing else is part of the bundle.

    Raises DocumentError with every problem of the description, or EdgedError when a file cannot be read or written.
    """
    manifest = describe(folder)
    path = folder / MANIFEST_NAME
    content = encode(manifest)
    if len(content) > MAX_MANIFEST_BYTES:
        hint = "name fewer files or labels"
        raise EdgedError(Code.BUNDLE_INVALID, f"{path}: would have {len(content)} bytes, too many", hint)
    try:
        durable.write(path, content, mode=0o644)
    except OSError as error:
        hint = "check the folder's owner and the space left"
        raise EdgedError(Code.BUNDLE_INVALID, f"{path}: cannot be written: {error.strerror}", hint) from error
    return manifest


def _packed(folder: Path, description: Description) -> Manifest:
    """The manifest of the files as they are now."""
    names = sorted({path for _, path in rules.named_files(description)})
    files = [msgspec.to_builtins(_hashed(folder, path)) for path in names]
    manifest = msgspec.convert({**as_data(description), "files": files}, Manifest)
    problems = [_problem(folder / MANIFEST_NAME, misfit) for misfit in islice(rules.misfits(manifest), MAX_MISFITS)]
    if problems:
        raise DocumentError(Code.BUNDLE_INVALID, problems)
    return manifest


def _hashed(folder: Path, path: str) -> File:
    """Raises EdgedError when the file is not one of the folder's own or cannot be read."""
    digest, size = hashlib.sha256(), 0
    try:
        with open(paths.open_inside(folder, path), "rb", buffering=0) as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
                size += len(block)
    except OSError as error:
        hint = "check the disk"
        raise EdgedError(Code.BUNDLE_INVALID, f"{folder / path}: cannot be read: {error.strerror}", hint) from error
    return File(path=path, size=size, sha256=digest.hexdigest())


def read_manifest(folder: Path) -> Manifest:
    """The bundle's manifest, once it is canonical, holds together, and each file is there with the size it gives.

    The files are not hashed: a worker hashes what it loads, as it loads it. Raises DocumentError with every problem,
    or EdgedError when there is no manifest that can be read.
    """
    path = folder / MANIFEST_NAME
    raw = _read_raw(folder)
    manifest = _decoded(path, raw)
    found = _manifest_misfits(raw, manifest, _pack_hint(folder))
    sizes = {file.path: file.size for file in manifest.files if not paths.fault(file.path)}
    keys: dict[str, Key] = {
        file.path: ("files", index, "path") for index, file in enumerate(manifest.files) if file.path in sizes
    }
    found += islice(_file_misfits(folder, keys, sizes), MAX_MISFITS)
    if found:
        raise DocumentError(Code.BUNDLE_INVALID, [_problem(path, misfit) for misfit in found])
    return manifest


def parse_manifest(raw: bytes, path: Path) -> Manifest:
    """The manifest that `raw` holds, once it is canonical and holds together; `path` is what messages call it.

    Raises DocumentError with every problem, or EdgedError when it cannot be read.
    """
    if len(raw) > MAX_MANIFEST_BYTES:
        found = f"{path}: is larger than {MAX_MANIFEST_BYTES} bytes"
        raise EdgedError(Code.BUNDLE_INVALID, found, "no manifest is this long; is it the right file?")
    manifest = _decoded(path, raw)
    misfits = _manifest_misfits(raw, manifest, "publish the bundle anew")
    if misfits:
        raise DocumentError(Code.BUNDLE_INVALID, [_problem(path, misfit) for misfit in misfits])
    return manifest


def _manifest_misfits(raw: bytes, manifest: Manifest, hint: str) -> list[Misfit]:
    """What a manifest says that cannot be, and whether its bytes are the canonical ones."""
    found = list(islice(rules.misfits(manifest), MAX_MISFITS))
    if encode(manifest) != raw:
        found.append(Misfit((), "is not in canonical form", f"it is not written by hand; {hint}"))
    return found


def _read_raw(folder: Path) -> bytes:
    if not _holds(folder, MANIFEST_NAME):
        hint = _pack_hint(folder) if _holds(folder, paths.DESCRIPTION_NAME) else "name the folder of a bundle"
        raise EdgedError(Code.BUNDLE_INVALID, f"{folder}: has no {MANIFEST_NAME}", hint)
    raw = _read(folder, MANIFEST_NAME, MAX_MANIFEST_BYTES)
    if len(raw) > MAX_MANIFEST_BYTES:
        found = f"{folder / MANIFEST_NAME}: is larger than {MAX_MANIFEST_BYTES} bytes"
        raise EdgedError(Code.BUNDLE_INVALID, found, "no manifest is this long; is it the right file?")
    return raw


def _decoded(path: Path, raw: bytes) -> Manifest:
    """The typed manifest. What does not fit is looked for one by one only once msgspec has refused the whole."""
    try:
        return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        refusal = error
    try:
        problems = [_problem(path, misfit) for misfit in schema.misfits(msgspec.json.decode(raw), Manifest)]
    except RecursionError as error:
        raise EdgedError(Code.BUNDLE_INVALID, f"{path}: is nested too deeply", _pack_hint(path.parent)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EdgedError(Code.BUNDLE_INVALID, f"{path}: is not JSON: {error}", _pack_hint(path.parent)) from error
    raise DocumentError(
        Code.BUNDLE_INVALID, problems or [Problem(Place(str(path)), "", str(refusal), _pack_hint(path.parent))]
    )


def _problem(path: Path, misfit: Misfit) -> Problem:
    """A manifest has one line, so the key alone tells the place."""
    return Problem(Place(str(path)), schema.dotted(misfit.key), misfit.found, misfit.remedy)


def _pack_hint(folder: Path) -> str:
    return f"run `edgectl bundle pack {folder}`"


def check(folder: Path) -> list[Problem]:
    """What its author should know of a bundle that can be used: what is hardly meant, stale or stray.

    Raises what read_description raises; for a bundle that has only its manifest, what read_manifest raises.
    """
    if not _holds(folder, paths.DESCRIPTION_NAME) and _holds(folder, MANIFEST_NAME):
        path, manifest = folder / MANIFEST_NAME, read_manifest(folder)
        problems = [_problem(path, misfit) for misfit in rules.warnings(manifest)]
        return problems + _stray_problems(folder, manifest)
    read, description = _read_description(folder)
    problems = [read.problem(misfit) for misfit in rules.warnings(description)]
    if _stale(folder, description):
        found = "is not what packing the bundle would write now"
        problems.append(Problem(Place(str(folder / MANIFEST_NAME)), "", found, _pack_hint(folder)))
    return problems + _stray_problems(folder, description)


def _stale(folder: Path, description: Description) -> bool:
    """Whether there is a manifest that says something else than the description and the files; chunks may be added."""
    if not _holds(folder, MANIFEST_NAME):
        return False
    try:
        written = _decoded(folder / MANIFEST_NAME, _read_raw(folder))
    except EdgedError:
        return True
    files = tuple(msgspec.structs.replace(file, chunks=()) for file in written.files)
    return msgspec.structs.replace(written, files=files) != _packed(folder, description)


def _stray_problems(folder: Path, description: Description) -> list[Problem]:
    remedy = "name it in the bundle, or move it away"
    return [
        Problem(Place(str(folder / path)), "", "is not named by the bundle", remedy)
        for path in stray_files(folder, description)
    ]


def stray_files(folder: Path, description: Description) -> list[str]:
    """What lies in `folder` and is no part of the bundle, sorted; links are told, not followed."""
    known = {path for _, path in rules.named_files(description)} | {paths.DESCRIPTION_NAME, MANIFEST_NAME}
    found = []
    for at, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(at) / name).is_symlink()]
        found += [str((Path(at) / name).relative_to(folder)) for name in files + links]
    return sorted(set(found) - known)
