"""What the fetcher keeps of what its user may do: it gives the rest up before it asks a repository. Child's end only.

It writes to staging and to the metadata that it keeps, and reads what it needs to find and trust a repository. It
speaks to the internet alone: the daemon takes who reaches its admin socket for an administrator. Names it asks DNS for
itself, where a resolver on the device has a socket only. Each layer is the kernel's; where a kernel has it not, the
fetcher goes on with the others and says so.
"""

from __future__ import annotations

import errno
import functools
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edged.worker import landlock, seccomp
from edged.worker.landlock import DEVICE, READ, WRITE, Access
from edged.worker.sandbox import ANY_DEVICES, code

# How a name is looked up (nsswitch.conf(5), resolv.conf(5)), the second where that is a link; and system authorities.
_NETWORK = (
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/run/systemd/resolve",
    "/run/NetworkManager",
)
_AUTHORITIES = ("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr/share/ca-certificates")


def confine(reads: Sequence[Path], writes: Sequence[Path]) -> list[str]:
    """Leaves this process what it needs, these files and folders included; gives what does not hold it, in words.

    There is no way back. What is written to must exist. To be called while the process has one thread.
    """

    def restrict() -> None:
        version = landlock.abi()
        if not version:
            raise OSError(errno.ENOSYS, "this kernel has none, or it is not switched on")
        landlock.restrict(version, dict(_allowed(reads, writes)), connects=True)

    lacks: list[str] = []
    layers: tuple[tuple[str, Callable[[], None]], ...] = (
        ("no new privileges", landlock.no_new_privileges),
        ("Landlock", restrict),
        ("system-call filter", functools.partial(seccomp.restrict, connects=True)),
    )
    for what, apply in layers:
        try:
            apply()
        except OSError as error:
            lacks.append(f"{what} ({error.strerror})")
    return lacks


def _allowed(reads: Sequence[Path], writes: Sequence[Path]) -> Iterator[tuple[str, Access]]:
    found = ssl.get_default_verify_paths()
    for path in (*code(), *_NETWORK, *_AUTHORITIES, found.cafile, found.capath, *map(str, reads)):
        if path:
            yield path, READ
    for path in ANY_DEVICES:
        yield path, DEVICE
    for folder in writes:
        yield str(folder), WRITE
