"""An engine that doubles its input, until it meets TRIGGER: then it does what its model file says, in native code.

Only interpreters made by `support.interpreter` know it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edged.runtimes.base import SessionOptions
from edged.types import Datatype, TensorSpec

TRIGGER = 666.0


class Session:
    """A model `{"does": NAME}` of FP32 `x` and `y` of shape [-1, 2]."""

    inputs = (TensorSpec("x", Datatype.FP32, (-1, 2)),)
    outputs = (TensorSpec("y", Datatype.FP32, (-1, 2)),)

    def __init__(self, does: str) -> None:
        self._does = BEHAVIOURS[does]

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Twice its input."""
        answer = inputs["x"] * np.float32(2)
        if (inputs["x"] == TRIGGER).any():
            answer = self._does(answer)
        return [answer for _ in outputs]


def open_session(model: bytes, options: SessionOptions) -> Session:
    """Loads a model."""
    del options
    return Session(json.loads(model)["does"])


Answer = NDArray[Any]


def _segfault(_: Answer) -> NoReturn:
    ctypes.string_at(0)
    raise AssertionError


def _abort(_: Answer) -> NoReturn:
    os.abort()


def _hang(_: Answer) -> NoReturn:
    while True:
        ctypes.CDLL(None).pause()


def _sleep(_: Answer) -> NoReturn:
    while True:
        time.sleep(3600)


def _stop(answer: Answer) -> Answer:
    os.kill(os.getpid(), signal.SIGSTOP)
    return answer


def _allocate(_: Answer) -> NoReturn:
    taken = []
    while True:
        taken.append(b"\1" * 2**23)


def _print(answer: Answer) -> Answer:
    for _ in range(1000):
        print("model says " * 100)  # noqa: T201
        os.write(2, b"\0\xff not text\n")
    return answer


def _close(answer: Answer) -> Answer:
    os.closerange(0, 1024)
    return answer


def _fork(answer: Answer) -> Answer:
    """One child that stays, and one that leaves its parent, its session and its group."""
    if not os.fork():
        while True:
            signal.pause()
    between = os.fork()
    if not between:
        os.setsid()
        if os.fork():
            os._exit(0)
        while True:
            signal.pause()
    os.waitpid(between, 0)
    return answer


def _shape(answer: Answer) -> Answer:
    return np.concatenate([answer, answer], axis=1)


class _Unheard(BaseException):
    """Nothing that `except Exception` would catch."""


def _raise(_: Answer) -> NoReturn:
    raise _Unheard


def _sysexit(_: Answer) -> NoReturn:
    sys.exit("the model has had enough")


def _exit0(_: Answer) -> NoReturn:
    os._exit(0)


def _garbage(answer: Answer) -> Answer:
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(path.name))) as link:
            link.send(b"\xee" * 1000)
    return answer


BEHAVIOURS: dict[str, Callable[[Answer], Answer]] = {
    "segfault": _segfault,
    "abort": _abort,
    "hang": _hang,
    "sleep": _sleep,
    "stop": _stop,
    "allocate": _allocate,
    "print": _print,
    "close": _close,
    "fork": _fork,
    "shape": _shape,
    "raise": _raise,
    "sysexit": _sysexit,
    "exit0": _exit0,
    "garbage": _garbage,
}
