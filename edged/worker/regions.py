"""Shared memory that belongs to callers: opened by the front, mapped by the workers that use it.

A worker gets the open file by a socket of its own, before the message that names the region; so it needs no access to
the file's path. What lies in a region may change at any moment, and its owner may shrink it: whoever then touches the
part that is missing gets SIGBUS, which ends the worker. So the size is looked at right before each use. That leaves a
moment, and a death within it is charged to the region.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import mmap
import os
import socket
import weakref
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from edged.errors import Code, EdgedError

# All that there may be can be passed on in one message: it carries 253 descriptors at most (unix(7), SCM_RIGHTS).
MAX_REGIONS = 200
_MESSAGE_BYTES = 256 * 1024

_numbers = itertools.count(1)


class _Told(msgspec.Struct, frozen=True, array_like=True):
    """What a worker is told of a file that it gets."""

    number: int
    name: str
    key: str
    begin: int
    size: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[_Told])


class Region:
    """The front's end: `size` bytes from `begin` on of an open file. Its `number` is never given again."""

    def __init__(self, name: str, key: str, begin: int, size: int, descriptor: int) -> None:
        """Takes the descriptor over."""
        self.number = next(_numbers)
        self.name = name
        self.key = key
        self.begin = begin
        self.size = size
        self.descriptor = descriptor
        self.requests = 0
        """How many named it since it was registered."""
        self.fault = ""
        """How it ended a worker, where it did: it is not used any more then."""
        self.gone = False
        """Whether it was unregistered."""
        self.holders: dict[int, Callable[[Region], Awaitable[None]]] = {}
        """The workers that may have it mapped, by process id, and what makes each unmap it."""

    def file(self) -> os.stat_result:
        """The file as it is now."""
        return os.fstat(self.descriptor)

    @property
    def shrunk(self) -> bool:
        """Whether the file ends before the region does."""
        return self.file().st_size < self.begin + self.size

    def problem(self) -> EdgedError | None:
        """Why it may not be used (region_not_found, region_unusable); None: it may."""
        if self.gone:
            return not_found(self.name)
        if self.fault:
            what = f"region {self.name!r} {self.fault}"
            return EdgedError(Code.REGION_UNUSABLE, what, "unregister it, and register it anew")
        return too_short(self.name, self.key, self.begin + self.size, self.file().st_size)

    async def leave(self) -> None:
        """Has every worker unmap it, then closes the file. What uses it now is waited for."""
        self.gone = True
        await asyncio.gather(*(unmap(self) for unmap in tuple(self.holders.values())))
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self.gone = True
        os.close(self.descriptor)


def not_found(name: str) -> EdgedError:
    """The error of a request that names no region."""
    return EdgedError(
        Code.REGION_NOT_FOUND,
        f"no shared-memory region {name[:64]!r} is registered",
        "register it first; SystemSharedMemoryStatus lists those there are",
    )


def too_short(name: str, key: str, wanted: int, found: int) -> EdgedError | None:
    """The error (region_unusable) of a region that reaches to byte `wanted` of a file of `found` bytes, if any."""
    if found >= wanted:
        return None
    return EdgedError(
        Code.REGION_UNUSABLE,
        f"region {name!r} reaches to byte {wanted} of /dev/shm/{key}, which has {found} bytes",
        "make the file as large as what is registered of it",
    )


class Passing:
    """The front's end of the socket by which one worker gets regions, each once."""

    def __init__(self, control: socket.socket) -> None:
        """`control` keeps messages apart, and does not block."""
        self._control = control
        self._passed: dict[int, Region] = {}

    def pass_on(self, regions: Iterable[Region]) -> list[Region]:
        """Passes on those that the worker does not have yet, and gives them.

        Raises EdgedError (region_not_found, region_unusable).
        """
        new = [region for region in dict.fromkeys(regions) if region.number not in self._passed]
        if not new:
            return new
        if gone := next((region for region in new if region.gone), None):
            raise not_found(gone.name)
        told = [_Told(region.number, region.name, region.key, region.begin, region.size) for region in new]
        try:
            socket.send_fds(self._control, [_encoder.encode(told)], [region.descriptor for region in new])
        except OSError as error:
            raise EdgedError(
                Code.REGION_UNUSABLE,
                f"region {new[0].name!r} cannot be passed on to the model's worker: {error.strerror}",
                "try again; unregister regions that are not used",
            ) from error
        self._passed.update((region.number, region) for region in new)
        return new

    def forget(self, region: Region) -> bool:
        """The worker is to unmap it; whether it ever got it."""
        return self._passed.pop(region.number, None) is not None

    def close(self) -> list[Region]:
        """Ends it, and gives what the worker had."""
        self._control.close()
        had, self._passed = list(self._passed.values()), {}
        return had


def passing_pair() -> tuple[Passing, socket.socket]:
    """The front's end, and the worker's. Raises OSError."""
    mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (mine, other):
        end.setblocking(False)
    return Passing(mine), other


class Mappings:
    """The worker's end: what it got, mapped when it is first used."""

    def __init__(self, control: socket.socket) -> None:
        """`control` keeps messages apart, and does not block."""
        self._control = control
        self._got: dict[int, tuple[_Told, int]] = {}
        self._mapped: dict[int, tuple[_Told, mmap.mmap, memoryview]] = {}

    def view(self, number: int, offset: int, size: int) -> memoryview:
        """`size` bytes of a region from `offset`. Another process may change them at any time.

        Raises EdgedError (region_unusable) where the file has become too short.
        """
        if number not in self._mapped:
            self._map(number)
        told, mapping, view = self._mapped[number]
        if problem := too_short(told.name, told.key, told.begin + offset + size, mapping.size()):
            raise problem
        if not 0 <= offset <= offset + size <= told.size:
            raise EdgedError(Code.INTERNAL, f"region {told.name!r} was asked for beyond its end")
        return view[offset : offset + size]

    def drop(self, number: int) -> bool:
        """Unmaps a region; whether somebody still holds a part of it, and so all, until that is let go."""
        self._receive()
        if number in self._got:
            os.close(self._got.pop(number)[1])
        if number not in self._mapped:
            return False
        still_there = weakref.ref(self._mapped.pop(number)[1])
        return still_there() is not None

    def _map(self, number: int) -> None:
        if number not in self._got:
            self._receive()
        told, descriptor = self._got[number]
        begin = told.begin // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        before = told.begin - begin
        if problem := too_short(told.name, told.key, told.begin + told.size, os.fstat(descriptor).st_size):
            raise problem
        try:
            mapping = mmap.mmap(descriptor, before + told.size, offset=begin)
        except (OSError, ValueError) as error:
            raise EdgedError(
                Code.REGION_UNUSABLE, f"region {told.name!r} cannot be mapped: {error}", "is it larger than memory?"
            ) from error
        os.close(self._got.pop(number)[1])  # the mapping has a descriptor of its own
        self._mapped[number] = told, mapping, memoryview(mapping)[before : before + told.size]

    def _receive(self) -> None:
        """Takes what the front has passed on; it has done so before it named any of it."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, MAX_REGIONS)
                if not data:
                    return
                for told, descriptor in zip(_decoder.decode(data), descriptors, strict=True):
                    os.set_inheritable(descriptor, False)
                    self._got[told.number] = told, descriptor
