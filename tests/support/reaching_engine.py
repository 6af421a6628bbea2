"""An engine whose model reaches for what is not its own when it meets TRIGGER, and tells how each attempt ended.

The model is `{"root": FOLDER}`, the folder of the daemon that runs it. What became of the attempts is told as an
inference that failed with `{ATTEMPT: "done" or the name of the error number}`. Only interpreters made by
`support.interpreter` know it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.errors import Code, EdgedError
from edged.runtimes.base import SessionOptions
from edged.types import Datatype, TensorSpec
from edged.worker.seccomp import DENIED, MACHINES
from support.hostile_engine import TRIGGER

PTRACE_ATTACH, PTRACE_DETACH = 16, 17


class Session:
    """A model of FP32 `x` and `y` of shape [-1, 2] that doubles."""

    inputs = (TensorSpec("x", Datatype.FP32, (-1, 2)),)
    outputs = (TensorSpec("y", Datatype.FP32, (-1, 2)),)

    def __init__(self, root: Path) -> None:
        self._root = root

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Twice its input."""
        if (inputs["x"] == TRIGGER).any():
            found = {name: _outcome(attempt) for name, attempt in attempts(self._root).items()}
            raise EdgedError(Code.INFERENCE_FAILED, json.dumps(found))
        return [inputs["x"] * np.float32(2) for _ in outputs]


def open_session(model: bytes, options: SessionOptions) -> Session:
    """Loads a model."""
    del options
    return Session(Path(json.loads(model)["root"]))


def _outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


def attempts(root: Path) -> dict[str, Callable[[], object]]:
    """What it tries, by name."""
    daemon = os.getppid()
    state = root / "var/lib/edged"
    return {
        "own bundle": (root / "usr/share/edged/models/reaching/1/bundle.toml").read_bytes,
        **{f"file: {name}": attempt for name, attempt in _files(root, state).items()},
        "file: daemon's memory": Path(f"/proc/{daemon}/mem").open,
        "file: daemon's arguments": Path(f"/proc/{daemon}/cmdline").read_bytes,
        "owner: mode of state": lambda: state.chmod(0o700),
        "owner: times of state": lambda: os.utime(state),
        "owner: cut state": lambda: os.truncate(state / "secret", 1),
        "connection: admin socket": lambda: _connect(socket.AF_UNIX, str(root / "run/edged-admin/admin.sock")),
        "connection: TCP": lambda: _connect(socket.AF_INET, ("127.0.0.1", 1)),
        "connection: listen": _listen,
        "connection: UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
        "connection: pair": lambda: [end.close() for end in socket.socketpair()],
        "program: exec": _exec,
        "program: spawn": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0),
        "process: trace daemon": lambda: _trace(daemon),
        "process: read daemon": lambda: _call("process_vm_readv", daemon, 0, 0, 0, 0, 0),
        "process: signal daemon": lambda: os.kill(daemon, 0),
        "process: signal group": lambda: os.kill(0, 0),
        "process: limits of daemon": lambda: resource.prlimit(daemon, resource.RLIMIT_NOFILE),
        "kernel: mount": lambda: _call("mount", b"none", b"/", b"tmpfs", 0, 0),
        "kernel: io_uring": lambda: _call("io_uring_setup", 1, ctypes.create_string_buffer(120)),
        "kernel: user": lambda: os.setuid(os.getuid()),
        "code: write and run": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
        "kernel: namespace": lambda: _call("unshare", 0x10000000),  # last: in its own it may less
    }


def _files(root: Path, state: Path) -> dict[str, Callable[[], object]]:
    return {
        "read state": (state / "secret").read_bytes,
        "list state": lambda: list(state.iterdir()),
        "write state": lambda: (state / "planted").write_bytes(b""),
        "change state": lambda: (state / "secret").open("r+b").close(),
        "remove state": (state / "removable").unlink,
        "move state": lambda: (state / "movable").rename(state / "moved"),
        "read settings": (root / "etc/edged/edged.toml").read_bytes,
        "read another's bundle": (root / "usr/share/edged/models/digits/1/bundle.toml").read_bytes,
        "write bundle": lambda: (root / "usr/share/edged/models/reaching/1/bundle.toml").open("r+b").close(),
        "write temporary": lambda: tempfile.NamedTemporaryFile(dir=root.parent).close(),
        "write shared memory": lambda: tempfile.NamedTemporaryFile(dir="/dev/shm").close(),
        "make folder": (root / "planted").mkdir,
        "make link": lambda: (root / "link").symlink_to("/"),
        "list root": lambda: list(Path("/").iterdir()),
    }


def _connect(family: int, address: Any) -> None:
    with socket.socket(family) as made:
        made.settimeout(5)
        made.connect(address)


def _listen() -> None:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen()


def _exec() -> None:
    child = os.fork()
    if not child:
        try:
            os.execv("/bin/true", ["true"])
        except OSError as error:
            os._exit(error.errno or 255)
    _, status = os.waitpid(child, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise OSError(code, os.strerror(code))


def _trace(pid: int) -> None:
    _call("ptrace", PTRACE_ATTACH, pid, 0, 0)
    os.waitpid(pid, 0x40000000)
    _call("ptrace", PTRACE_DETACH, pid, 0, 0)


def _call(name: str, *arguments: object) -> int:
    """A system call that Python has no function for, by its name in `seccomp.DENIED`."""
    number = DENIED[name][MACHINES[os.uname().machine].column]
    result = int(ctypes.CDLL(None, use_errno=True).syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
