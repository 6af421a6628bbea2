"""What engines built on this device, each file kept whole and under a quota; all of it can be built again.

    <key>.<sha256>     what was built: of what, by what and for what, as a digest; and the digest of its content
    .<random>          being built

One rename puts a file here, so a power cut leaves all of it or nothing. An engine runs such a file as it is: only what
this daemon's user wrote, and nobody else may change, is taken.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from edged import durable
from edged.errors import Code, EdgedError
from edged.models import files

_NAME = re.compile(r"(?P<key>[0-9a-f]{64})\.(?P<digest>[0-9a-f]{64})", re.ASCII)
_READ_BYTES = 1024 * 1024


class Built(msgspec.Struct, frozen=True):
    """A file of the cache, as it should be."""

    name: str
    size: int
    sha256: str


class Cache:
    """Everything in one folder. It blocks on the disk: call it from a thread. One process writes at a time."""

    def __init__(self, root: Path, quota_bytes: int, reserve_bytes: int = 0) -> None:
        """Nothing is read or written yet.

        `quota_bytes`: the most that all of it may take; `reserve_bytes`: what stays free on its disk.
        """
        self.root = root
        self._quota_bytes = quota_bytes
        self._reserve_bytes = reserve_bytes

    def look(self) -> dict[str, Built]:
        """What is here, by key; while nothing is being built.

        What was left unfinished, or has another name, or could have been changed by others is removed. Raises OSError.
        """
        try:
            if _is_others(self.root.lstat(), stat.S_IFDIR):
                files.remove_tree(self.root)
                return {}
        except FileNotFoundError:
            return {}
        found: dict[str, Built] = {}
        for path in sorted(self.root.iterdir()):
            named, status = _NAME.fullmatch(path.name), path.lstat()
            if not named or _is_others(status, stat.S_IFREG) or named["key"] in found:
                files.remove_tree(path)
            else:
                found[named["key"]] = Built(path.name, status.st_size, named["digest"])
        return found

    def begin(self, held: Collection[str]) -> tuple[Path, int]:
        """An empty file to build into, and how large it may become.

        `held`: the keys of what is in use, which stays. Raises EdgedError (storage_full), OSError.
        """
        files.make_folder(self.root.parent)
        self.root.mkdir(mode=0o700, exist_ok=True)
        if self._free_bytes() <= 0:
            self._make_room(0, held)
        kept_bytes = sum(status.st_size for key, _, status in self._entries() if key in held)
        most_bytes = min(self._free_bytes(), self._quota_bytes - kept_bytes)
        if most_bytes <= 0:
            raise EdgedError(
                Code.STORAGE_FULL,
                f"{self.root}: nothing more can be kept of what engines build; what is in use takes {kept_bytes} bytes",
                f"free space on its disk, or raise workers.derived_mib, now {self._quota_bytes // 2**20}",
            )
        path = self.root / f".{secrets.token_hex(16)}"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        return path, most_bytes

    def keep(self, path: Path, key: str, held: Collection[str]) -> Built:
        """Takes in what was built into `path`; what is longest unused makes room. Raises OSError."""
        path.chmod(0o400)
        with path.open("rb") as file:
            digest, size = hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size
            os.fsync(file.fileno())
        self._make_room(self._quota_bytes - size, held)
        built = Built(f"{key}.{digest}", size, digest)
        durable.place(path, self.root / built.name)
        return built

    def discard(self, built: Built) -> None:
        """Removes a file. Raises OSError."""
        (self.root / built.name).unlink(missing_ok=True)

    def damaged(self, built: Built) -> bool:
        """Reads a file: whether it is not what it was."""
        return bool(files.fault(self.root / built.name, built.sha256, built.size))

    def used(self, built: Built) -> None:
        """It is in use, and the last to go."""
        os.utime(self.root / built.name)

    def _make_room(self, most_bytes: int, held: Collection[str]) -> None:
        """Has all that is here take so much at most, but for what is held."""
        entries = sorted(self._entries(), key=lambda entry: entry[2].st_mtime_ns)
        total = sum(status.st_size for _, _, status in entries)
        for key, path, status in entries:
            if total > most_bytes and key not in held:
                path.unlink()
                total -= status.st_size

    def _entries(self) -> Iterator[tuple[str, Path, os.stat_result]]:
        for path in self.root.iterdir():
            if named := _NAME.fullmatch(path.name):
                yield named["key"], path, path.lstat()

    def _free_bytes(self) -> int:
        disk = os.statvfs(self.root)
        return disk.f_bavail * disk.f_frsize - self._reserve_bytes


def _is_others(status: os.stat_result, kind: int) -> bool:
    """Whether it is something else than a file or folder that this user alone can have changed."""
    alone = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return not (alone and stat.S_IFMT(status.st_mode) == kind and (kind == stat.S_IFDIR or status.st_nlink == 1))
