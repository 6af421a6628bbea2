"""The shared-memory regions that callers have registered, by name, and what a request wants with them.

Whoever may call may register, use and unregister: those who share a socket trust each other. Nobody replaces a region:
its name is free again when it is unregistered, which waits for those who use it. What is opened is what the daemon's
own user may open; the name in /dev/shm is looked at once, at registration, and no link is followed.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import structs

from edged.errors import Code, EdgedError
from edged.serving.request import Call, Output, Place
from edged.worker.messages import Target
from edged.worker.regions import MAX_REGIONS, Region, not_found

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where shm_open(3) makes its files

# Not to block, should the file be exchanged for a pipe just now.
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_MAX_NAME_BYTES = 256
_MAX_KEY_BYTES = 255

# How long an unregistered region may still be used by what is under way, until its caller is told so.
_LEAVE_S = 30.0


class Spot(msgspec.Struct, frozen=True):
    """A `Place` whose region was found."""

    region: Region
    offset: int
    size: int

    @property
    def where(self) -> tuple[int, int]:
        """As a worker knows it."""
        return self.region.number, self.offset


class Shared(msgspec.Struct, frozen=True):
    """Where the inputs of a request lie and its outputs are to be put; None: in the request, into the answer."""

    inputs: tuple[Spot | None, ...]
    outputs: tuple[Spot | None, ...]
    regions: tuple[Region, ...]
    """All that it uses, each once."""

    @property
    def targets(self) -> tuple[Target | None, ...]:
        """Where a worker is to put each output; empty where it puts none."""
        if not any(self.outputs):
            return ()
        return tuple(None if spot is None else Target(*spot.where, spot.size) for spot in self.outputs)

    def placed(self, outputs: Sequence[Output], sizes: Sequence[int]) -> tuple[Output, ...]:
        """The outputs, of these sizes, with the places that they were put into."""
        return tuple(
            structs.replace(output, place=Place(spot.region.name, spot.offset, size)) if spot else output
            for output, spot, size in zip(outputs, self.outputs, sizes, strict=True)
        )

    def problem(self) -> EdgedError | None:
        """Why it cannot be carried out now, where it cannot."""
        return next((problem for region in self.regions if (problem := region.problem())), None)


class Regions:
    """All regions that are registered."""

    def __init__(self) -> None:
        self._named: dict[str, Region] = {}
        self._leaving: dict[asyncio.Task[None], str] = {}
        """What ends when nothing uses an unregistered region any more, and the region's name."""

    def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Opens `/dev/shm/<key>` and gives `size` bytes from `offset` on of it a name.

        Raises EdgedError: invalid_argument, region_exists, overloaded, region_unusable.
        """
        if not 0 < len(name.encode()) <= _MAX_NAME_BYTES:
            raise EdgedError(
                Code.INVALID_ARGUMENT,
                f"{name[:64]!r} is no name for a region",
                f"it takes 1 to {_MAX_NAME_BYTES} bytes",
            )
        if name in self._named:
            raise EdgedError(
                Code.REGION_EXISTS, f"region {name!r} is registered already", "unregister it first, or use another name"
            )
        if len(self._named) >= MAX_REGIONS:
            raise EdgedError(
                Code.OVERLOADED, f"{MAX_REGIONS} regions are registered, which is all there may be", "unregister some"
            )
        if not size:
            raise EdgedError(Code.INVALID_ARGUMENT, f"region {name!r} has no byte", "give its byte_size")
        file = _file_name(key)
        descriptor = _open(name, file)
        region = Region(name, file, offset, size, descriptor)
        if problem := region.problem():
            region.close()
            raise problem
        self._named[name] = region

    async def unregister(self, name: str) -> None:
        """Forgets a region, all of them where `name` is empty, once nothing uses them any more; none is no error.

        What was unregistered before and is still in use is waited for too. Raises EdgedError (worker_hang) when
        something still does after a long time; they are forgotten all the same.
        """
        for each in [name] if name else list(self._named):
            if (region := self._named.pop(each, None)) is not None:
                leaving = asyncio.create_task(region.leave(), name=f"leave {each[:64]}")
                self._leaving[leaving] = each
                leaving.add_done_callback(self._leaving.pop)
        waited = [leaving for leaving, each in self._leaving.items() if name in ("", each)]
        if not waited:
            return
        _, late = await asyncio.wait(waited, timeout=_LEAVE_S)
        if late:
            raise EdgedError(
                Code.WORKER_HANG,
                f"{len(late)} of the regions are still in use after {_LEAVE_S:g} s",
                "do not change them until the requests that use them are answered",
            )

    def find(self, name: str) -> Region:
        """Raises EdgedError (region_not_found)."""
        region = self._named.get(name)
        if region is None:
            raise not_found(name)
        return region

    def all(self) -> list[Region]:
        """By name."""
        return [self._named[name] for name in sorted(self._named)]

    def resolve(self, call: Call, outputs: int) -> Shared | None:
        """Finds the regions that a request for this many outputs names; None where it names none. Raises EdgedError."""
        if not call.shares_memory:
            return None
        lying = tuple(
            self._spot("input", meta.name, content.place)
            for meta, content in zip(call.inputs, call.contents, strict=True)
        )
        wanted = tuple(self._spot("output", asked.name, asked.place) for asked in call.outputs)
        used = dict.fromkeys(spot.region for spot in (*lying, *wanted) if spot is not None)
        shared = Shared(lying, wanted or (None,) * outputs, tuple(used))
        if problem := shared.problem():
            raise problem
        for region in shared.regions:
            region.requests += 1
        return shared

    def _spot(self, kind: str, name: str, place: Place | None) -> Spot | None:
        if place is None:
            return None
        region = self.find(place.region)
        if place.offset + place.size > region.size:
            raise EdgedError(
                Code.INVALID_ARGUMENT,
                f"{kind} {name[:64]!r} reaches from byte {place.offset} to {place.offset + place.size} "
                f"of region {region.name!r}, which has {region.size} bytes",
                "mend shared_memory_offset and shared_memory_byte_size, or register more of the file",
            )
        return Spot(region, place.offset, place.size)

    def close(self) -> None:
        """Closes all files."""
        while self._named:
            self._named.popitem()[1].close()


def _file_name(key: str) -> str:
    """The name in /dev/shm; shm_open(3) takes it with a slash in front and without. Raises EdgedError."""
    name = key.lstrip("/")
    if "/" in name or "\0" in name or name in ("", ".", "..") or len(name.encode()) > _MAX_KEY_BYTES:
        raise EdgedError(
            Code.INVALID_ARGUMENT,
            f"{key[:64]!r} is no key of shared memory",
            "it is a slash and the name of a file in /dev/shm, as shm_open(3) takes it",
        )
    return name


def _open(region: str, name: str) -> int:
    """A descriptor of a regular file in /dev/shm, to read and to write. Raises EdgedError (region_unusable)."""
    path = SHARED_MEMORY / name
    try:
        folder = os.open(SHARED_MEMORY, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                raise _unusable(region, f"{path} is {_kind(found.st_mode)}", "it is to be a regular file")
            try:
                descriptor = os.open(name, _FLAGS, dir_fd=folder)
            except PermissionError as error:
                raise _closed_to_us(region, path, found) from error
        finally:
            os.close(folder)
    except FileNotFoundError as error:
        raise _unusable(region, f"{path} is not there", "create it before it is registered") from error
    except OSError as error:
        raise _unusable(region, f"{path} cannot be opened: {error.strerror}", "see docs/shared-memory.md") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _unusable(region, f"{path} was exchanged just now", "it is to be a regular file")
    return descriptor


def _closed_to_us(region: str, path: Path, found: os.stat_result) -> EdgedError:
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    return _unusable(
        region,
        f"{path} belongs to user {found.st_uid} and group {found.st_gid} with mode {mode}, and edged, which is user "
        f"{os.geteuid()}, may not open it to read and write",
        f"when it is made, `chgrp edged {path} && chmod 660 {path}`, or make it with edged.client.SharedRegion: "
        "see docs/shared-memory.md",
    )


def _kind(mode: int) -> str:
    kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _unusable(region: str, what: str, remedy: str) -> EdgedError:
    return EdgedError(Code.REGION_UNUSABLE, f"region {region!r}: {what}", remedy)
