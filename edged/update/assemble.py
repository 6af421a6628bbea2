"""A revision's files put together in staging: chunks that are here already first, then those that are fetched.

Each chunk is written to its place in `blobs/<sha256>.part` once its digest is right, and synced. What an interrupted
download left is found again by hashing it: there is no other record that could be wrong. Chunks are fetched side by
side, but never more bytes at a time than the largest chunk has, so that an interruption repeats no more than one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edged import durable, inside
from edged.bundle.manifest import Chunk, File, Manifest
from edged.errors import Code, EdgedError
from edged.models import files
from edged.update.transport import PARALLEL

MAX_CHUNK_BYTES = 4 * 1024 * 1024


class Progress(msgspec.Struct):
    """How far it is, in bytes of the revision's files."""

    total: int = 0
    kept: int = 0
    """Was in the store, or in staging from the time before."""
    copied: int = 0
    """Came out of other revisions."""
    fetched: int = 0

    @property
    def done(self) -> int:
        """All that is in its place."""
        return self.kept + self.copied + self.fetched


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """What may be written."""

    room: int = -1
    """Bytes that the store may still take, -1 for no bound."""
    reserve: int = 0
    """Bytes that stay free on the disk."""


class Source(msgspec.Struct, frozen=True):
    """Where a chunk is to be had on this device, if its bytes are still right."""

    path: Path
    offset: int


class _Piece(msgspec.Struct):
    """A chunk that is wanted, and every place where it belongs."""

    digest: str
    length: int
    places: list[tuple[Path, int]]


class Assembly:
    """The files of one revision on their way into `staging`."""

    def __init__(
        self,
        staging: Path,
        manifest: Manifest,
        installed: Callable[[str], Path],
        fetch: Callable[[str, int], bytes],
        space: Space,
        told: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        """`installed` says where the store has the file of a digest, if it has; `fetch` gives a chunk by its digest and
        length, verified. `told` is called as it goes on.
        """
        self.progress = Progress(total=sum(file.size for file in _distinct(manifest)))
        self._blobs = staging / "blobs"
        self._manifest = manifest
        self._installed = installed
        self._fetch = fetch
        self._space = space
        self._told = told
        self._pieces: dict[str, _Piece] = {}
        self._here: dict[str, Source] = {}

    def run(self, haves: Iterable[tuple[Path, Manifest]]) -> Progress:
        """Leaves every file that the store lacks in `staging/blobs/<sha256>`; `haves` are bundles to take chunks from.

        Raises EdgedError: bundle_invalid for a manifest without usable chunks; storage_full; digest_mismatch for a file
        whose chunks are right and which is not; and what `fetch` raises.
        """
        check_chunks(self._manifest)
        with _full_disk_told(self._blobs):
            files.make_folder(self._blobs)
            missing = [file for file in _distinct(self._manifest) if not self._is_here(file)]
            self._check_room(missing)
            for file in missing:
                self._begin(file)
            self._told(self.progress)
            self._copy(haves)
            self._fetch_all()
            for file in missing:
                self._finish(file)
        self._told(self.progress)
        return self.progress

    def _is_here(self, file: File) -> bool:
        staged = self._blobs / file.sha256
        if staged.exists() and not files.fault(staged, file.sha256, file.size):
            self.progress.kept += file.size
            return True
        staged.unlink(missing_ok=True)
        installed = self._installed(file.sha256)
        if installed.exists() and not files.fault(installed, file.sha256, file.size):
            self.progress.kept += file.size
            return True
        return False

    def _check_room(self, missing: list[File]) -> None:
        begun = sum(files.disk_bytes(self._part(file)) for file in missing)
        needed = sum(file.size for file in missing) - begun
        if 0 <= self._space.room < needed:
            found = f"{needed} bytes are to be fetched, and {self._space.room} may be kept"
            raise _full(found)
        self._check_reserve(max(needed, 0))

    def _check_reserve(self, length: int) -> None:
        disk = os.statvfs(self._blobs)
        free = disk.f_bavail * disk.f_frsize
        if free - length < self._space.reserve:
            found = f"{self._blobs}: {length} bytes more would leave less than the reserve of {self._space.reserve}"
            raise _full(f"{found}; {free} are free")

    def _part(self, file: File) -> Path:
        return self._blobs / f"{file.sha256}.part"

    def _begin(self, file: File) -> None:
        """Finds what is right of an unfinished file, and notes what it lacks."""
        part = self._part(file)
        begun = part.exists()
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(descriptor, file.size)
            for chunk in file.chunks:
                if begun and _digest(os.pread(descriptor, chunk.length, chunk.offset)) == chunk.sha256:
                    self.progress.kept += chunk.length
                    self._here.setdefault(chunk.sha256, Source(part, chunk.offset))
                else:
                    self._want(chunk, part)
        finally:
            os.close(descriptor)

    def _want(self, chunk: Chunk, part: Path) -> None:
        piece = self._pieces.setdefault(chunk.sha256, _Piece(chunk.sha256, chunk.length, []))
        if piece.length != chunk.length:
            found = f"the chunk {chunk.sha256} is given with two lengths"
            raise EdgedError(Code.BUNDLE_INVALID, found, "publish the bundle anew")
        piece.places.append((part, chunk.offset))

    def _copy(self, haves: Iterable[tuple[Path, Manifest]]) -> None:
        """Takes what is on this device already; bytes that are no longer right are passed over."""
        wanted = {file.sha256: file for file in self._manifest.files}
        for folder, manifest in haves:
            for file in manifest.files:
                chunks = file.chunks or (wanted[file.sha256].chunks if file.sha256 in wanted else ())
                for chunk in chunks:
                    if chunk.sha256 in self._pieces:
                        self._here.setdefault(chunk.sha256, Source(folder / file.path, chunk.offset))
        for digest, source in self._here.items():
            piece = self._pieces.get(digest)
            content = _read(source, piece.length) if piece else b""
            if piece and _digest(content) == digest:
                self._put(piece, content)
                self.progress.copied += piece.length * len(piece.places)
                del self._pieces[digest]
                self._told(self.progress)

    def _fetch_all(self) -> None:
        largest = max((piece.length for piece in self._pieces.values()), default=0)
        under_way: dict[Future[None], _Piece] = {}
        pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="chunk")
        try:
            for piece in self._pieces.values():
                while under_way and sum(each.length for each in under_way.values()) + piece.length > largest:
                    self._await_one(under_way)
                under_way[pool.submit(self._fetch_one, piece)] = piece
            while under_way:
                self._await_one(under_way)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _fetch_one(self, piece: _Piece) -> None:
        self._check_reserve(piece.length * len(piece.places))
        self._put(piece, self._fetch(piece.digest, piece.length))

    def _await_one(self, under_way: dict[Future[None], _Piece]) -> None:
        for future in wait(under_way, return_when=FIRST_COMPLETED).done:
            piece = under_way.pop(future)
            future.result()
            self.progress.fetched += piece.length * len(piece.places)
            self._told(self.progress)

    def _put(self, piece: _Piece, content: bytes) -> None:
        for part, offset in piece.places:
            descriptor = os.open(part, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                written = 0
                while written < len(content):
                    written += os.pwrite(descriptor, content[written:], offset + written)
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)

    def _finish(self, file: File) -> None:
        part = self._part(file)
        if fault := files.fault(part, file.sha256, file.size):
            part.unlink(missing_ok=True)
            found = f"{file.path}: each of its chunks is as signed, and the file {fault}"
            raise EdgedError(Code.DIGEST_MISMATCH, found, "its manifest contradicts itself: publish another revision")
        files.sync_file(part)
        durable.place(part, self._blobs / file.sha256)


def check_chunks(manifest: Manifest) -> None:
    """Raises EdgedError (bundle_invalid) unless every file is made of chunks of a size that is read at once."""
    for file in manifest.files:
        if file.size and not file.chunks:
            raise EdgedError(
                Code.BUNDLE_INVALID, f"{file.path}: has no chunks", "publish it with `edgectl fleet publish`"
            )
        for chunk in file.chunks:
            if chunk.length > MAX_CHUNK_BYTES:
                found = f"{file.path}: a chunk of {chunk.length} bytes is larger than {MAX_CHUNK_BYTES}"
                raise EdgedError(Code.BUNDLE_INVALID, found, "publish it with `edgectl fleet publish`")


def _distinct(manifest: Manifest) -> Iterator[File]:
    seen: set[str] = set()
    for file in manifest.files:
        if file.sha256 not in seen:
            seen.add(file.sha256)
            yield file


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(source: Source, length: int) -> bytes:
    """What stands there now; nothing where it cannot be read."""
    try:
        with open(inside.open_regular(source.path.parent, source.path.name), "rb") as file:
            return os.pread(file.fileno(), length, source.offset)
    except OSError:
        return b""


def _full(found: str) -> EdgedError:
    return EdgedError(Code.STORAGE_FULL, found, "free space, raise the store's quota, or keep fewer revisions")


@contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in files.FULL:
            raise _full(f"{folder}: {error.strerror}") from error
        raise
