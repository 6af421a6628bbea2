"""What nothing refers to any more in a repository, found and removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from edged.bundle.manifest import Manifest
from edged.errors import Code, EdgedError
from edged.fleet.home import Home
from edged.fleet.listing import place
from edged.fleet.signing import Signing, read, role_of
from edged.update import chunks

# A device may have the last snapshot and fetch what it names while a new one is published.
_VERSIONS_KEPT = 2


class Removed(msgspec.Struct):
    """What was taken away, or would be."""

    files: int = 0
    bytes: int = 0


def collect(home: Home, signing: Signing, *, dry: bool = False) -> Removed:
    """Removes metadata that no device asks for, and what no metadata names that is kept. Raises EdgedError."""
    kept, gone = _metadata(home, signing)
    named: set[Path] = set()
    for path in kept:
        role = role_of(path)
        if role in ("root", "snapshot", "timestamp"):
            continue
        for target, info in read(path).signed.targets.items():
            at = place(home, target, info.hashes["sha256"])
            named.add(at)
            named.update(home.repository / chunks.place(digest) for digest in _chunks_of(target, at))
    removed = Removed()
    for folder in ("targets", "chunks"):
        gone += [path for path in (home.repository / folder).rglob("*") if path.is_file() and path not in named]
    for path in gone:
        removed.files += 1
        removed.bytes += path.stat().st_size
        if not dry:
            path.unlink()
    return removed


def _metadata(home: Home, signing: Signing) -> tuple[list[Path], list[Path]]:
    """The metadata files that stay, edits that wait among them, and those that go."""
    kept = sorted(home.pending.glob("[0-9]*/*.json"))
    gone: list[Path] = []
    current: dict[str, int] = {}
    for path in sorted(home.metadata.glob("*.json")):
        role = role_of(path)
        if role not in current:
            current[role] = signing.version(role)
        number = path.name.partition(".")[0]
        old = number.isdecimal() and not current[role] - _VERSIONS_KEPT < int(number) <= current[role]
        (gone if old and role != "root" else kept).append(path)
    return kept, gone


def _chunks_of(target: str, at: Path) -> Iterator[str]:
    if not target.startswith("models/") or target.endswith("/floor.json"):
        return
    try:
        manifest = msgspec.json.decode(at.read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        hint = "see `edgectl fleet verify`; nothing is removed until all is whole"
        raise EdgedError(Code.REPOSITORY_INVALID, f"{at}: cannot be read", hint) from error
    yield from (chunk.sha256 for file in manifest.files for chunk in file.chunks)
