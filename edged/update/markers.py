"""Small files beside the journal that say what must not be forgotten with it: committed, quarantined, pinned.

They are written after the journal's transaction and read only when the journal is damaged; at every start they are
made to say what the journal does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from edged import durable
from edged.update import records

# One model has a name of at most 64 letters and a quarantine key one of 32, so that no file is larger.
_MAX_BYTES = 64 * 1024


class Markers:
    """`<folder>/<kind>/<name>`: the seal of the record in a line, then the record."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, kind: str, name: str, document: bytes) -> None:
        """Writes a marker that survives a power cut. Raises OSError."""
        path = self._folder / kind / _file_name(name)
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.sync_folder(self._folder)
            durable.sync_folder(self._folder.parent)
        durable.write(path, _content(kind, name, document))

    def remove(self, kind: str, name: str) -> None:
        """Removes a marker, where there is one. Raises OSError."""
        path = self._folder / kind / _file_name(name)
        if path.exists():
            path.unlink()
            durable.sync_folder(path.parent)

    def put_all(self, kind: str, documents: Mapping[str, bytes]) -> None:
        """Makes the markers of a kind those of `documents`; touches only what differs. Raises OSError."""
        there = dict(self._contents(kind))
        wanted = {_file_name(name): (name, document) for name, document in documents.items()}
        for file_name in there.keys() - wanted.keys():
            (self._folder / kind / file_name).unlink(missing_ok=True)
        for file_name, (name, document) in wanted.items():
            if there.get(file_name) != _content(kind, name, document):
                self.put(kind, name, document)

    def read(self, kind: str) -> Iterator[tuple[str, bytes]]:
        """The names and documents of a kind; a marker that was damaged too, or cannot be read, is passed over."""
        for _, content in self._contents(kind):
            head, _, document = content.partition(b"\n")
            seal, _, name = head.partition(b" ")
            told = name.decode(errors="replace")
            if records.seal(kind, told, document).encode() == seal:
                yield told, document

    def _contents(self, kind: str) -> Iterator[tuple[str, bytes]]:
        folder = self._folder / kind
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not path.is_file() or path.is_symlink():
                continue
            try:
                with path.open("rb") as file:
                    content = file.read(_MAX_BYTES)
            except OSError:
                continue
            yield path.name, content


def _content(kind: str, name: str, document: bytes) -> bytes:
    return records.seal(kind, name, document).encode() + b" " + name.encode() + b"\n" + document


def _file_name(name: str) -> str:
    """A model's name as it is: a bundle's rules keep it to letters that a file may have; anything else by digest."""
    plain = name.replace("-", "").replace("_", "").replace(".", "").isalnum() and not name.startswith(".")
    return name if plain and len(name) <= 64 else hashlib.sha256(name.encode()).hexdigest()


def encode(record: msgspec.Struct) -> bytes:
    """A record as journal and markers hold it."""
    return msgspec.json.encode(record)
