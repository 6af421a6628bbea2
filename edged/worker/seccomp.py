"""The system calls that a confined child is refused: a filter after seccomp(2), for 64-bit x86 and Arm.

A list of what is refused, since what engines of all vendors call on all devices cannot be listed. Calls that are newer
than this file do not exist for such a child, as on an older kernel, which every engine must cope with. One that is to
connect keeps sockets, but of the internet alone: a connection to a path is nothing that Landlock could refuse.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

import msgspec


class Machine(msgspec.Struct, frozen=True):
    """What is a machine's own: what the kernel calls it (linux/audit.h), and numbers of system calls."""

    arch: int
    column: int
    """Of `DENIED`."""
    seccomp: int
    clone: int
    clone3: int
    kill: int
    tgkill: int
    prlimit64: int


# By what uname(2) calls them.
MACHINES = {
    "x86_64": Machine(0xC000003E, 0, seccomp=317, clone=56, clone3=435, kill=62, tgkill=234, prlimit64=302),
    "aarch64": Machine(0xC00000B7, 1, seccomp=277, clone=220, clone3=435, kill=129, tgkill=131, prlimit64=261),
}

# The newest call that was looked at: mseal, of Linux 6.10.
NEWEST = 462

# Numbers on x86_64 (asm/unistd_64.h) and aarch64 (asm-generic/unistd.h); None: that machine has no such call.
Calls = dict[str, tuple[int, int | None]]

_SOCKET = (41, 198)

# Who is to connect never needs this one, which makes local sockets only.
_LOCAL: Calls = {"socketpair": (53, 199)}

# Connections: what a worker has to say goes by the link that it was given.
_CONNECTIONS: Calls = {
    "socket": _SOCKET,
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
}

# Files, in what Landlock leaves open (the length before its ABI 3): by path, and of its own user anything.
_FILES: Calls = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "truncate": (76, 45),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}

# Whatever else the child is to do.
_REST: Calls = {
    # Other programs.
    "execve": (59, 221),
    "execveat": (322, 281),
    "uselib": (134, None),
    # Other processes: their memory, their descriptors, their signals.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    # File systems.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "mount_setattr": (442, 442),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "acct": (163, 89),
    # Users and namespaces.
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setfsuid": (122, 151),
    "setfsgid": (123, 152),
    "setgroups": (116, 159),
    "capset": (126, 91),
    "unshare": (272, 97),
    "setns": (308, 268),
    # The kernel, and what of it has been a way in more often than of use to an engine.
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "syslog": (103, 116),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "vhangup": (153, 58),
    "personality": (135, 92),
    "lookup_dcookie": (212, 18),
    # The clock and the host's name.
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
}

DENIED = _LOCAL | _CONNECTIONS | _FILES | _REST
"""To a worker."""
HEARING = ("socket", "bind")
"""Of these, what one is left that hears of devices: libusb (linux_netlink.c) and libudev bind a socket of netlink."""
DENIED_ONLINE = _LOCAL | _REST
"""To who writes files and opens connections to the internet."""

# bits/socket.h.
_AF_INET, _AF_INET6, _AF_NETLINK = 2, 10, 16

# linux/netlink.h: what the kernel tells all of devices, and nothing else that netlink is for.
_NETLINK_KOBJECT_UEVENT = 15

# clone(2): a new namespace of any kind.
_CLONE_NEW = 0x7E020080

# linux/bpf_common.h: load a word, jump on equal, greater, any bit set; return.
_LD, _JEQ, _JGT, _JSET, _RET = 0x20, 0x15, 0x25, 0x45, 0x06

# linux/seccomp.h: offsets in seccomp_data (the low halves of little-endian arguments), and what a filter returns.
_NUMBER_AT, _ARCH_AT, _ARGUMENT_AT, _THIRD_ARGUMENT_AT = 0, 4, 16, 32
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000

_SET_MODE_FILTER = 1
# All threads; and no slower code against what Spectre could tell a worker of its own memory (before Linux 5.16).
_FLAGS = 1 << 0 | 1 << 2


def program(machine: Machine, pid: int, *, connects: bool = False, hears: bool = False) -> bytes:
    """The filter for a process of this id, as the kernel takes it (linux/filter.h). Pure.

    `connects`: for who writes files and opens connections to the internet, and is no worker. `hears`: for a worker
    whose engine listens to the kernel's messages of devices; it has no other socket.
    """
    denied = DENIED_ONLINE if connects else DENIED
    refuse, absent = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    made = [
        (_LD, 0, 0, _ARCH_AT),
        (_JEQ, 1, 0, machine.arch),
        (_RET, 0, 0, _KILL),
        (_LD, 0, 0, _NUMBER_AT),
        (_JGT, 0, 1, NEWEST),
        (_RET, 0, 0, absent),
        # Its flags lie in memory, which a filter cannot read: the C library goes on to clone.
        (_JEQ, 0, 1, machine.clone3),
        (_RET, 0, 0, absent),
    ]
    for name, numbers in denied.items():
        number = numbers[machine.column]
        if number is not None and not (hears and name in HEARING):
            made += [(_JEQ, 0, 1, number), (_RET, 0, 0, refuse)]
    made += [(_JEQ, 0, 3, machine.clone), (_LD, 0, 0, _ARGUMENT_AT), (_JSET, 0, 1, _CLONE_NEW), (_RET, 0, 0, refuse)]
    made += [(_LD, 0, 0, _NUMBER_AT)]
    # Signals and limits are for itself; to 0 a signal goes to the whole group, which is the daemon's.
    made += _only(machine.kill, [pid], refuse)
    made += _only(machine.tgkill, [pid], refuse)
    made += _only(machine.prlimit64, [0, pid], refuse)
    if connects:
        made += _only(_SOCKET[machine.column], [_AF_INET, _AF_INET6], refuse)
    elif hears:
        made += [
            (_JEQ, 0, 5, _SOCKET[machine.column]),
            (_LD, 0, 0, _ARGUMENT_AT),
            (_JEQ, 0, 2, _AF_NETLINK),
            (_LD, 0, 0, _THIRD_ARGUMENT_AT),
            (_JEQ, 1, 0, _NETLINK_KOBJECT_UEVENT),
            (_RET, 0, 0, refuse),
        ]
    made += [(_RET, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in made)


def _only(number: int, allowed: Iterable[int], otherwise: int) -> list[tuple[int, int, int, int]]:
    """Instructions that let a call through where its first argument is one of these; 32 bits, as process ids have."""
    tests = [part for value in allowed for part in ((_JEQ, 0, 1, value), (_RET, 0, 0, _ALLOW))]
    inside = [(_LD, 0, 0, _ARGUMENT_AT), *tests, (_RET, 0, 0, otherwise)]
    return [(_JEQ, 0, len(inside), number), *inside]


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def restrict(*, connects: bool = False, hears: bool = False) -> None:
    """Puts the filter on this process, for good. It must have no_new_privs. Raises OSError where there is none."""
    name = os.uname().machine
    machine = MACHINES.get(name)
    if machine is None:
        raise OSError(errno.ENOSYS, f"edged knows no system calls of {name}")
    filter_ = program(machine, os.getpid(), connects=connects, hears=hears)
    wanted = _Program(len(filter_) // 8, filter_)
    if ctypes.CDLL(None, use_errno=True).syscall(machine.seccomp, _SET_MODE_FILTER, _FLAGS, ctypes.byref(wanted)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
