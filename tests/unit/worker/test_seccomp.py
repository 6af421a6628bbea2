"""The filter of system calls: its numbers against the kernel's headers, its program run, and the kernel's own word."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from edged.worker import seccomp

PID = 4711
NETLINK_KOBJECT_UEVENT = 15
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
OWN = ("seccomp", "clone", "clone3", "kill", "tgkill", "prlimit64")
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x80000000


def verdict(program: bytes, arch: int, number: int, argument: int = 0, third: int = 0) -> int:
    """What the filter returns, by the rules of classic BPF; linux/filter.h, linux/seccomp.h."""
    data = struct.pack("<IIQQ5Q", number, arch, 0, argument, 0, third, *[0] * 3)
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at = accumulator = 0
    while True:
        operation, yes, no, value = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x25: accumulator > value, 0x45: bool(accumulator & value)}
            at += yes if holds[operation] else no


def numbers(header: Path) -> dict[str, int]:
    found = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)\b", header.read_text(), re.MULTILINE)
    return {name: int(number) for name, number in found}


@pytest.mark.parametrize("name", sorted(seccomp.MACHINES))
def test_numbers_are_those_of_the_headers(name: str) -> None:
    if not HEADERS[name].exists():
        pytest.skip(f"{HEADERS[name]} is not installed")
    machine, known = seccomp.MACHINES[name], numbers(HEADERS[name])
    ours = {call: numbers[machine.column] for call, numbers in seccomp.DENIED.items()}
    ours |= {call: getattr(machine, call) for call in OWN}
    newest = max(known.values())
    wrong = {call: number for call, number in ours.items() if (number or 0) <= newest and known.get(call) != number}
    assert not wrong


@pytest.mark.parametrize("name", sorted(seccomp.MACHINES))
def test_what_the_filter_says_of_every_call(name: str) -> None:
    machine = seccomp.MACHINES[name]
    program = seccomp.program(machine, PID)
    denied = {numbers[machine.column] for numbers in seccomp.DENIED.values()}
    special = {machine.clone, machine.clone3, machine.kill, machine.tgkill, machine.prlimit64}
    for number in range(seccomp.NEWEST + 1):
        if number not in special:
            assert verdict(program, machine.arch, number) == (EPERM if number in denied else ALLOW), number
    for number in (seccomp.NEWEST + 1, 0x40000000, 2**32 - 1, machine.clone3):  # newer ones, and those of x32
        assert verdict(program, machine.arch, number) == ENOSYS
    assert verdict(program, machine.arch ^ 1, machine.kill) == KILL
    for number in (machine.kill, machine.tgkill):
        said = {pid: verdict(program, machine.arch, number, pid) for pid in (PID, 0, 1, 2**64 - 1, PID + 1)}
        assert said == {**dict.fromkeys(said, EPERM), PID: ALLOW}
    said = {pid: verdict(program, machine.arch, machine.prlimit64, pid) for pid in (PID, 0, 1)}
    assert said == {PID: ALLOW, 0: ALLOW, 1: EPERM}
    thread, process = 0x3D0F00, 0x1200011
    for flags in (thread, process):
        assert verdict(program, machine.arch, machine.clone, flags) == ALLOW
        for namespace in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
            assert verdict(program, machine.arch, machine.clone, flags | namespace) == EPERM


@pytest.mark.parametrize("name", sorted(seccomp.MACHINES))
def test_who_is_to_connect_has_sockets_of_the_internet_and_nothing_of_other_processes(name: str) -> None:
    machine = seccomp.MACHINES[name]
    program = seccomp.program(machine, PID, connects=True)

    def refused(call: str) -> bool:
        return verdict(program, machine.arch, seccomp.DENIED[call][machine.column]) == EPERM

    assert not [call for call in ("connect", "bind", "accept4", "fchmod", "truncate", "utimensat") if refused(call)]
    others = (
        "socketpair",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "pidfd_getfd",
        "execve",
        "io_uring_setup",
    )
    assert [call for call in others if refused(call)] == list(others)
    number = seccomp.DENIED["socket"][machine.column]
    families = {family: verdict(program, machine.arch, number, family) for family in range(64)}
    assert {family for family, said in families.items() if said == ALLOW} == {socket.AF_INET, socket.AF_INET6}
    assert set(families.values()) == {ALLOW, EPERM}
    assert verdict(program, machine.arch, number, 1 << 32 | socket.AF_UNIX) == EPERM  # the kernel takes the low half
    assert verdict(program, machine.arch, machine.kill, 1) == EPERM
    assert verdict(program, machine.arch, 0x40000000 + 41) == ENOSYS  # socket, of x32


@pytest.mark.parametrize("name", sorted(seccomp.MACHINES))
def test_who_hears_of_devices_has_sockets_of_that_alone(name: str) -> None:
    machine = seccomp.MACHINES[name]
    program, plain = seccomp.program(machine, PID, hears=True), seccomp.program(machine, PID)
    numbers = {call: number for call, both in seccomp.DENIED.items() if (number := both[machine.column]) is not None}
    others = {number for call, number in numbers.items() if call not in ("socket", "bind")}
    assert {verdict(program, machine.arch, number) for number in others} == {EPERM}
    assert verdict(program, machine.arch, numbers["bind"]) == ALLOW
    asked = [(family, protocol) for family in range(64) for protocol in range(64)]
    made = [each for each in asked if verdict(program, machine.arch, numbers["socket"], each[0], each[1]) == ALLOW]
    assert made == [(socket.AF_NETLINK, NETLINK_KOBJECT_UEVENT)]
    assert {verdict(plain, machine.arch, numbers[call], 16, 15) for call in ("socket", "bind")} == {EPERM}
    for number in (machine.kill, machine.tgkill, machine.prlimit64, machine.clone, machine.clone3, 0, 1):
        for argument in (0, 1, PID, 0x20000):
            said = (verdict(each, machine.arch, number, argument) for each in (program, plain))
            assert len(set(said)) == 1


TRIES = """
import ctypes, errno, json, os, sys, threading
from edged.worker import seccomp
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
seccomp.restrict()
threads = [threading.Thread(target=lambda: None) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
machine = seccomp.MACHINES[os.uname().machine]
calls = {name: numbers[machine.column] for name, numbers in seccomp.DENIED.items()}
calls["newer"] = seccomp.NEWEST + 1
found = {}
for name, number in calls.items():
    libc.syscall(number, -1, -1, -1, -1, -1, -1)
    found[name] = ctypes.get_errno()
print(json.dumps(found))
"""


@pytest.mark.skipif(os.uname().machine not in seccomp.MACHINES, reason="no filter for this machine")
def test_the_kernel_takes_it_and_refuses() -> None:
    done = subprocess.run([sys.executable, "-c", TRIES], capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(done.stdout)
    assert found.pop("newer") == errno.ENOSYS
    assert set(found) == set(seccomp.DENIED)
    assert set(found.values()) == {errno.EPERM}


HEARS = """
import errno, json, socket
from edged.worker import landlock, seccomp
landlock.no_new_privileges()
seccomp.restrict(hears=True)

def made(family, protocol):
    try:
        with socket.socket(family, socket.SOCK_DGRAM, protocol) as opened:
            if family == socket.AF_NETLINK:
                opened.bind((0, 1))
        return "made"
    except OSError as error:
        return errno.errorcode[error.errno]

asked = (socket.AF_NETLINK, 15), (socket.AF_NETLINK, 0), (socket.AF_INET, 0), (socket.AF_UNIX, 0)
print(json.dumps([made(*each) for each in asked]))
"""


@pytest.mark.skipif(os.uname().machine not in seccomp.MACHINES, reason="no filter for this machine")
def test_the_kernel_lets_it_hear_of_devices_as_libusb_does() -> None:
    done = subprocess.run([sys.executable, "-c", HEARS], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == ["made", "EPERM", "EPERM", "EPERM"]


def test_a_machine_whose_calls_are_not_known_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "MACHINES", {})
    with pytest.raises(OSError, match="edged knows no system calls of"):
        seccomp.restrict()
