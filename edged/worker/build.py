"""Has an engine build what it runs from a file of the bundle, and writes that down. Child's end only."""

from __future__ import annotations

import errno
import os
import resource
import time
from pathlib import Path

from edged.errors import Code, EdgedError
from edged.runtimes.base import load_deriving
from edged.worker.messages import Build, Loaded
from edged.worker.samples import read_file

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def build(asked: Build) -> Loaded:
    """Builds, and says how long that took. Raises EdgedError: the engine's own, or storage_full."""
    began = time.monotonic()
    # Whatever the engine does: more than this is never on the disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (asked.most_bytes, asked.most_bytes))
    source = asked.source
    derived = load_deriving(source.runtime).derive(read_file(Path(source.folder), source.file), source.options)
    try:
        with open(os.open(asked.output, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "wb", buffering=0) as file:
            rest = memoryview(derived)
            while rest:
                rest = rest[file.write(rest) :]
    except OSError as error:
        code = Code.STORAGE_FULL if error.errno in _FULL else Code.LOAD_FAILED
        raise EdgedError(
            code,
            f"what was built of {source.file.path}, {len(derived)} bytes, cannot be written: {error.strerror}",
            f"at most {asked.most_bytes} bytes may be; see workers.derived_mib, and free space on the cache's disk",
        ) from error
    return Loaded(load_s=time.monotonic() - began, warmup_s=0.0)
