"""What a worker says of its sandbox on kernels that have less, each in a process of its own."""

from __future__ import annotations

import ctypes.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edged.worker import landlock, sandbox

CONFINE = """
import errno, json, os, sys
from edged.worker import landlock, sandbox, seccomp

def refuse(number):
    def refused(*_):
        raise OSError(number, os.strerror(number))
    return refused

exec(sys.argv[1])
print(json.dumps(sandbox.confine(sys.argv[2], sys.argv[3], "", {})))
"""

ALL = ["no new privileges", "no new code", "Landlock", "system-call filter"]
OLD_LANDLOCK = "Landlock (this kernel has none, or it is not switched on)"


def confined(change: str, folder: Path, runtime: str = "onnxruntime") -> tuple[list[str], list[str]]:
    """What holds and what lacks, on a kernel as `change` makes it."""
    command = [sys.executable, "-c", CONFINE, change, str(folder), runtime]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    holds, lacks = json.loads(done.stdout)
    return [each.split(" ABI")[0] for each in holds], lacks


@pytest.mark.skipif(not landlock.abi(), reason="this kernel has no Landlock")
@pytest.mark.parametrize(
    ("change", "lacks", "why"),
    [
        ("", None, ""),
        ("landlock.abi = lambda: 0", "Landlock", OLD_LANDLOCK),
        ("landlock.restrict = refuse(errno.EPERM)", "Landlock", "Landlock (Operation not permitted)"),
        (
            "seccomp.MACHINES = {}",
            "system-call filter",
            "system-call filter (edged knows no system calls of",
        ),
        ("sandbox._PR_SET_MDWE = 9999", "no new code", "no new code (Invalid argument)"),
    ],
)
def test_what_is_missing_is_told_and_the_rest_holds(change: str, lacks: str | None, why: str, tmp_path: Path) -> None:
    held, lacking = confined(change, tmp_path)
    assert held == [each for each in ALL if each != lacks]
    assert len(lacking) == (lacks is not None)
    assert all(each.startswith(why) for each in lacking)


def test_an_engine_that_compiles_and_one_that_does_not_exist(tmp_path: Path) -> None:
    holds, lacks = confined("", tmp_path, "openvino")
    assert "no new code" not in holds + lacks
    holds, lacks = confined("", tmp_path, "nothing")
    assert "system-call filter" in holds + lacks


LIBUSB = """
import ctypes, json, sys
from edged.worker import sandbox
sandbox.confine(sys.argv[1], sys.argv[2], "", {})
print(json.dumps(ctypes.CDLL("libusb-1.0.so.0").libusb_init(ctypes.byref(ctypes.c_void_p()))))
"""
LIBUSB_ERROR_OTHER = -99


@pytest.mark.skipif(ctypes.util.find_library("usb-1.0") is None, reason="libusb is not installed")
@pytest.mark.parametrize(("runtime", "found"), [("edgetpu", 0), ("onnxruntime", LIBUSB_ERROR_OTHER)])
def test_libusb_starts_in_workers_of_an_engine_that_hears_of_devices(runtime: str, found: int, tmp_path: Path) -> None:
    """As it does below libedgetpu: it must hear of devices that come and go, and starts not at all where it cannot."""
    command = [sys.executable, "-c", LIBUSB, str(tmp_path), runtime]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == found


HEARS = """
import socket, sys
from edged.worker import sandbox

sandbox.confine(sys.argv[1], sys.argv[2], sys.argv[3], {})
try:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)  # NETLINK_KOBJECT_UEVENT
    print("may")
except OSError:
    print("may not")
"""


@pytest.mark.parametrize(("device", "may"), [("", "may"), ("usb", "may"), ("CPU", "may not")])
def test_an_engine_that_is_to_run_on_the_cpu_hears_of_no_devices_and_has_none(
    tmp_path: Path, device: str, may: str
) -> None:
    command = [sys.executable, "-c", HEARS, str(tmp_path), "edgetpu", device]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{may}\n"
    needs = sandbox.ENGINES["edgetpu"].on(device)
    assert bool(needs.devices) == bool(needs.reads) == (may == "may")


def test_other_bundles_of_the_image_lie_in_none_of_its_folders() -> None:
    image = Path("/usr/share/edged/models/digits/1")
    given = [Path(path) for path, _ in sandbox._allowed("/bundle", sandbox.ENGINES["onnxruntime"])]
    assert Path("/bundle") in given
    assert not [path for path in given if image.is_relative_to(path)]


NAMES = """
import os, sys
from edged.worker import sandbox

sandbox.confine(sys.argv[1], sys.argv[2], "", {})
for path in (f"/proc/self/task/{os.getpid()}/comm", "/proc/self/oom_score_adj", "/proc/self/comm"):
    try:
        os.close(os.open(path, os.O_WRONLY))
        print("may")
    except PermissionError:
        print("may not")
"""


@pytest.mark.skipif(not landlock.abi(), reason="this kernel has no Landlock")
@pytest.mark.parametrize(("runtime", "may"), [("onnxruntime", "may not"), ("tensorrt", "may")])
def test_an_engine_changes_what_it_cannot_do_without_and_no_more(tmp_path: Path, runtime: str, may: str) -> None:
    command = [sys.executable, "-c", NAMES, str(tmp_path), runtime]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == [may, "may not", "may not"]
