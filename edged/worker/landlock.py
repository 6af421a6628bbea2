"""Which files and connections a process may still reach: Landlock, after landlock(7). Child's end only."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Mapping
from enum import IntFlag

# Numbers of system calls: the same on every machine.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446

# prctl(2).
_PR_SET_NO_NEW_PRIVS = 38

# linux/landlock.h.
_VERSION = 1
_PATH_BENEATH = 1


class Access(IntFlag):
    """What may be done with a file, or below a folder; nothing is ever executed."""

    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Access.READ_FILE | Access.READ_DIR
WRITE = READ | Access(
    Access.WRITE_FILE
    | Access.REMOVE_DIR
    | Access.REMOVE_FILE
    | Access.MAKE_DIR
    | Access.MAKE_REG
    | Access.MAKE_SYM
    | Access.REFER
    | Access.TRUNCATE
)
DEVICE = READ | Access.WRITE_FILE | Access.IOCTL_DEV

# What can be said of anything but a folder.
_OF_FILES = Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV

# By the ABI that brought them: all that is done with files; moving them between folders, changing their length, and
# control of devices; binding and connecting TCP; abstract sockets and signals across the border.
_FILES, _TCP, _SCOPES = (1 << 13) - 1, 0b11, 0b11
_LATER = ((2, Access.REFER), (3, Access.TRUNCATE), (5, Access.IOCTL_DEV))

_libc = ctypes.CDLL(None, use_errno=True)


def abi() -> int:
    """What this kernel knows of it: 0 nothing, then from 1 (Linux 5.13) on."""
    return max(int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)), 0)


def no_new_privileges() -> None:
    """Neither this process nor what it starts gains any from a program file. Raises OSError."""
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def restrict(version: int, allowed: Mapping[str, Access], *, connects: bool = False) -> None:
    """Leaves this thread, and those that it starts, only what is allowed, for good; `version` is what `abi` says.

    `connects`: it may open TCP connections. A path that does not exist is passed over. The process must have
    `no_new_privileges`. Raises OSError.
    """
    files = _FILES | sum(right for least, right in _LATER if version >= least)
    tcp = _TCP if version >= 4 and not connects else 0
    handled = struct.pack("=QQQ", files, tcp, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _call(_CREATE_RULESET, handled, ctypes.c_size_t(size), 0)
    try:
        for path, access in allowed.items():
            _allow(ruleset, path, access & files)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # what cannot be reached now cannot be later
        return
    try:
        kept = access if stat.S_ISDIR(os.fstat(found).st_mode) else access & _OF_FILES
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", kept, found), 0)
    finally:
        os.close(found)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
