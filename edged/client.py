"""For applications: shared memory that edged may open, to give it tensors without a copy.

    from edged.client import SharedRegion

    with SharedRegion("frames", 6_220_800) as region:
        client.register_system_shared_memory("frames", region.key, region.byte_size)
        ...

It needs nothing but Python's standard library. docs/shared-memory.md tells the rest.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
from pathlib import Path
from types import TracebackType

# The group whose members may use edged's socket, and which edged itself is in.
GROUP = "edged"

_FOLDER = Path("/dev/shm")  # noqa: S108 - where shm_open(3) makes its files
_MODE = 0o660


class SharedRegion:
    """A new file in /dev/shm that the members of a group may read and write, mapped; removed by `close`.

    tritonclient's `set_shared_memory_region` and `get_contents_as_numpy` take it for the handle that they want.
    """

    def __init__(self, key: str, byte_size: int, *, group: str | None = GROUP) -> None:
        """Makes `/dev/shm/<key>` of `byte_size` bytes, all zero. `group` None: the group of this process.

        Raises FileExistsError where there is one of this name; LookupError where there is no such group;
        PermissionError where this process's user is not in it; OSError for all else.
        """
        name = key.lstrip("/")
        self.key = f"/{name}"
        """What `register_system_shared_memory` is to be given."""
        self.byte_size = byte_size
        self._path = _FOLDER / name
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if group is not None:
                shutil.chown(descriptor, group=group)
            os.fchmod(descriptor, _MODE)
            os.ftruncate(descriptor, byte_size)
            memory = mmap.mmap(descriptor, byte_size)
            os.posix_fallocate(descriptor, 0, byte_size)  # where memory is full it fails here, and kills nobody later
        except BaseException:
            self._path.unlink()
            raise
        finally:
            os.close(descriptor)
        self.buf = memoryview(memory)
        """Its bytes, to write and to read: `numpy.ndarray(shape, dtype, buffer=region.buf)` is an array in them."""

    @property
    def _mpsm_handle(self) -> SharedRegion:
        """Where tritonclient's functions look for `buf`."""
        return self

    def close(self) -> None:
        """Removes the file. The memory goes when no array lies in it any more. Unregister it first."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self.buf = memoryview(b"")  # never unmapped by hand: an array that is left would then end this process

    def __enter__(self) -> SharedRegion:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
