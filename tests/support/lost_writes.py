"""What a disk holds after its power went: what it was told to flush, and of all later writes only some.

qemu's `blklogwrites` keeps each write and flush in the order in which the guest asked for them; the format is that of
the kernel's Documentation/admin-guide/device-mapper/log-writes.rst. A write that was under way when a flush was asked
for counts as flushed, which a real disk need not grant.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MAGIC, _VERSION = 0x6A736677736872, 1
_SECTOR = 512
_FLUSH, _FUA, _DISCARD = 1, 2, 4


class Write(NamedTuple):
    """One entry: `data` goes to the byte `offset`; then all before it is flushed, where it says so."""

    offset: int
    data: bytes
    flushes: bool


def drive(name: str, image: Path, log: Path) -> list[str]:
    """Options for a virtio disk `image` whose writes are logged."""
    return [
        *("-blockdev", f"driver=file,node-name={name}-file,filename={image}"),
        *("-blockdev", f"driver=file,node-name={name}-log,filename={log}"),
        "-blockdev",
        f"driver=blklogwrites,node-name={name},file={name}-file,log={name}-log,log-sector-size={_SECTOR}",
        *("-device", f"virtio-blk-pci,drive={name},serial={name}"),
    ]


def entries(log: Path) -> Iterator[Write]:
    """What was logged, up to what the machine's end left unfinished. Raises ValueError when it is no such log."""
    with log.open("rb") as file:
        magic, version, _, size = struct.unpack("<QQQI", file.read(_SECTOR)[:28])
        if (magic, version, size) != (_MAGIC, _VERSION, _SECTOR):
            raise ValueError(f"{log} is no log of writes")
        while len(header := file.read(_SECTOR)) == _SECTOR:
            sector, count, flags, _ = struct.unpack("<QQQQ", header[:32])
            if not count and not flags:
                return
            data = b"" if flags & _DISCARD else file.read(count * _SECTOR)
            if not flags & _DISCARD and len(data) < count * _SECTOR:
                return
            yield Write(sector * _SECTOR, data, bool(flags & (_FLUSH | _FUA)))


def cut(before: Path, log: Path, chance: random.Random, made: int | None = None) -> tuple[int, int]:
    """Makes of a disk as it was before the log what a power cut at the log's end, or after `made` entries, may leave.

    Of the writes after the last flush each one stays, is lost, or was made in part, by `chance`. Gives how many writes
    there were after it, and how many of these are lost or torn.
    """
    logged = list(entries(log))[:made]
    flushed = max((number for number, each in enumerate(logged) if each.flushes), default=-1)
    lost = 0
    with before.open("r+b") as disk:
        for number, each in enumerate(logged):
            sectors = len(each.data) // _SECTOR
            kept = sectors if number <= flushed else chance.choice([sectors, 0, chance.randint(0, sectors)])
            lost += kept < sectors
            disk.seek(each.offset)
            disk.write(each.data[: kept * _SECTOR])
    return sum(bool(each.data) for each in logged[flushed + 1 :]), lost
