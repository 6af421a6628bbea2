"""The worker's main program: loads one variant of one revision and answers what comes over the link.

Started as `python -I -m edged.worker.host DAEMON LINK ARENA`, or forked by a template. It ends when the link does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edged.errors import EdgedError
from edged.worker.arena import Window
from edged.worker.messages import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    PREFIX,
    FromWorker,
    Infer,
    Load,
    RunShadow,
    ToWorker,
)
from edged.worker.model import Model, failed

# prctl(2).
_PR_SET_PDEATHSIG = 1

# How long a forked worker waits to pass to the daemon: the one in between has nothing left to do but to end.
_ADOPTION_S = 10.0

# proc(5): from -1000 (never) to 1000 (first).
_OOM_SCORE_ADJ = "500"

_decoder = msgspec.msgpack.Decoder(ToWorker)
_encoder = msgspec.msgpack.Encoder()


def _receive(link: socket.socket, size: int) -> memoryview | None:
    """Exactly `size` bytes; None when the front has gone."""
    data = memoryview(bytearray(size))
    at = 0
    while at < size:
        count = link.recv_into(data[at:])
        if not count:
            return None
        at += count
    return data


def _send(link: socket.socket, message: FromWorker, body: Sequence[memoryview | bytes] = ()) -> None:
    head = _encoder.encode(message)
    parts: list[memoryview | bytes] = [PREFIX.pack(len(head), sum(map(len, body))) + head, *body]
    while parts:
        sent = link.sendmsg(parts[:64])
        while parts and sent >= len(parts[0]):
            sent -= len(parts.pop(0))
        if sent:
            parts[0] = memoryview(parts[0])[sent:]


def serve(link: socket.socket, arena: Window) -> None:
    """Answers what comes over the link until it ends."""
    model: Model | None = None
    while prefix := _receive(link, PREFIX.size):
        head_size, body_size = PREFIX.unpack(prefix)
        if head_size > MAX_HEAD_BYTES or body_size > MAX_BODY_BYTES:
            raise SystemExit(f"a frame of {head_size} + {body_size} bytes: the link is out of step")
        head = _receive(link, head_size)
        body = _receive(link, body_size)
        if head is None or body is None:
            return
        message = _decoder.decode(head)
        try:
            if isinstance(message, Load):
                model = Model(message)
                _send(link, model.loaded)
            elif model is None:
                raise SystemExit("asked for answers before a model was loaded")
            elif isinstance(message, Infer):
                answered, bodies = model.infer(message, body, arena)
                _send(link, answered, bodies)
            elif isinstance(message, RunShadow):
                _send(link, model.shadow(message, body))
            else:
                _send(link, model.golden(message))
        except EdgedError as error:
            _send(link, failed(error))


def tie_to(daemon: int, *, forked: bool = False) -> None:
    """Has this process end when the daemon does, and by nobody else's signals. Raises SystemExit when it has gone.

    A forked process passes to the daemon when the one in between has ended; until then it waits.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the front drains and ends its workers itself
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    end = time.monotonic() + _ADOPTION_S
    while forked and os.getppid() != daemon and time.monotonic() < end:
        time.sleep(0.0002)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != daemon:  # it died before the line above could tell
        raise SystemExit("the daemon is gone")


def close_all_but(*kept: int) -> None:
    """Closes what the front itself had inherited, and so could not keep from its children."""
    for path in Path("/proc/self/fd").iterdir():
        descriptor = int(path.name)
        if descriptor > 2 and descriptor not in kept:
            with contextlib.suppress(OSError):  # the one that read the folder is closed already
                os.close(descriptor)


def run(descriptor: int, arena: int) -> None:
    """Serves the link until it ends."""
    close_all_but(descriptor, arena)
    os.dup2(2, 1)  # what an engine prints belongs into the log
    os.chdir("/")
    _be_first_to_go()
    with socket.socket(fileno=descriptor) as link, contextlib.suppress(ConnectionError):
        link.set_inheritable(False)
        serve(link, Window(arena))


def _be_first_to_go() -> None:
    """Where the kernel must end somebody for want of memory, a worker is worth less than the front."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE_ADJ, encoding="ascii")


def main() -> None:
    """Ties this process to its parent, then serves."""
    daemon, link, arena = map(int, sys.argv[1:])
    tie_to(daemon)
    run(link, arena)


if __name__ == "__main__":
    main()
