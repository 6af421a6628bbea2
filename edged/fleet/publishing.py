"""A bundle made public: cut into chunks, its manifest signed. Doing it again changes nothing."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import fastcdc
import msgspec

from edged import durable
from edged.bundle import folder as bundles
from edged.bundle import paths
from edged.bundle.manifest import Chunk, File, Manifest, encode
from edged.errors import Code, EdgedError
from edged.fleet.home import Home
from edged.fleet.listing import Listing
from edged.fleet.signing import Signing, Waiting
from edged.update import chunks
from edged.update.repository import Floor

# Sizes of chunks: another choice would have nothing in common with what is published. 128 KiB on the average keep the
# manifest of a model below a thousandth of it, and what a changed byte costs below a second on a slow line.
MIN_BYTES, AVERAGE_BYTES, MAX_BYTES = 32 * 1024, 128 * 1024, 512 * 1024


class Published(msgspec.Struct):
    """What publishing did."""

    manifest: Manifest
    chunks: int = 0
    """How many chunks the bundle has."""
    new_chunks: int = 0
    new_bytes: int = 0
    """What they take as packed."""
    changed: bool = False
    """False: it was published before, just so."""
    waiting: tuple[Waiting, ...] = ()


def publish(
    home: Home, signing: Signing, folder: Path, told: Callable[[int, int], None] = lambda _done, _total: None
) -> Published:
    """Publishes the packed or described bundle in `folder`. `told` is called with bytes done and bytes in all.

    Raises EdgedError: bundle_invalid; revision numbers that were used for something else, or lie below the floor.
    """
    described = (folder / paths.DESCRIPTION_NAME).exists()
    plain = bundles.describe(folder) if described else bundles.read_manifest(folder)
    listing = Listing(signing)
    floor = listing.floor(plain.name)
    if plain.revision < floor:
        found = f"{plain.name} revision {plain.revision} lies below the floor, {floor}"
        raise EdgedError(Code.BUNDLE_INVALID, found, "give it a higher revision")
    known = listing.manifest(plain.name, plain.revision)
    if known is not None and _without_chunks(known) != _without_chunks(plain):
        found = f"{plain.name} revision {plain.revision} is published with another content"
        raise EdgedError(Code.BUNDLE_INVALID, found, "a revision never changes: give the bundle the next number")
    published = Published(plain)
    published.manifest = msgspec.structs.replace(plain, files=tuple(_cut_all(home, folder, plain, published, told)))
    if known is not None:
        published.manifest = known  # however another release of the chunker would cut it
    raw = encode(published.manifest)
    published.changed = listing.put(f"models/{plain.name}/{plain.revision}.json", raw)
    if plain.min_revision > floor:
        lowest = Floor(plain.name, plain.min_revision)
        listing.put(f"models/{plain.name}/floor.json", msgspec.json.encode(lowest))
    published.waiting = tuple(signing.commit(listing.changed) if listing.changed else signing.install())
    return published


def _without_chunks(manifest: Manifest) -> Manifest:
    files = tuple(msgspec.structs.replace(file, chunks=()) for file in manifest.files)
    return msgspec.structs.replace(manifest, files=files)


def _cut_all(
    home: Home, folder: Path, manifest: Manifest, published: Published, told: Callable[[int, int], None]
) -> Iterator[File]:
    total, done = sum(file.size for file in manifest.files), 0
    for file in manifest.files:
        found: list[Chunk] = []
        whole = hashlib.sha256()
        for offset, content in _cut(folder, file):
            whole.update(content)
            chunk = Chunk(offset=offset, length=len(content), sha256=hashlib.sha256(content).hexdigest())
            _keep(home, chunk, content, published)
            found.append(chunk)
            done += chunk.length
            told(done, total)
        if whole.hexdigest() != file.sha256:
            found_text = f"{folder / file.path}: is not what the manifest says"
            raise EdgedError(Code.DIGEST_MISMATCH, found_text, f"run `edgectl bundle pack {folder}`, and again")
        yield msgspec.structs.replace(file, chunks=tuple(found))


def _cut(folder: Path, file: File) -> Iterator[tuple[int, bytes]]:
    """The chunks of a file by FastCDC (Xia et al., USENIX ATC 2016), which cuts the same content the same anywhere."""
    descriptor = paths.open_inside(folder, file.path)
    try:
        if os.fstat(descriptor).st_size == 0:
            return
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            for chunk in fastcdc.fastcdc(view, MIN_BYTES, AVERAGE_BYTES, MAX_BYTES):
                yield chunk.offset, bytes(view[chunk.offset : chunk.offset + chunk.length])
    finally:
        os.close(descriptor)


def _keep(home: Home, chunk: Chunk, content: bytes, published: Published) -> None:
    published.chunks += 1
    at = home.repository / chunks.place(chunk.sha256)
    if _is_whole(at, chunk):
        return
    packed = chunks.pack(content)
    at.parent.mkdir(parents=True, exist_ok=True)
    durable.write(at, packed, mode=0o644)
    published.new_chunks += 1
    published.new_bytes += len(packed)


def _is_whole(at: Path, chunk: Chunk) -> bool:
    """Whether a chunk was published before, and is still what it was."""
    try:
        chunks.unpack(at.read_bytes(), chunk.sha256, chunk.length)
    except (FileNotFoundError, chunks.DamagedChunkError):
        return False
    return True
