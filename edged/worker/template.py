"""The main program of a warm template: it has imported an engine, opened nothing, and forks workers in milliseconds.

Started as `python -I -B -m edged.worker.template DAEMON ENGINE FD`. Over its control socket it takes, for each worker
that is wanted, that worker's ends of its link and of the socket for regions, and its arena, and answers with the
worker's process id.

The worker must be the daemon's own child, so that the daemon reaps it and a template's death touches no worker. So the
template forks twice: the child in between reports the worker's id and ends, and the worker passes to its nearest
subreaper (prctl(2), PR_SET_CHILD_SUBREAPER), which is the daemon.

A process with threads must not fork: its child would have the threads' locks and not the threads. Before each fork the
template counts its threads, and refuses where there is another than its own.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from edged.errors import EdgedError
from edged.runtimes.base import load_runtime
from edged.worker import host
from edged.worker.messages import TEMPLATE_FAILED, TEMPLATE_MESSAGE_BYTES, TEMPLATE_READY, TEMPLATE_THREADS
from edged.worker.tie import tie_to

# What each worker gets.
_DESCRIPTORS = 3


def main() -> None:
    """Warms up, says so, and forks on demand until the control socket ends."""
    daemon, engine, descriptor = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    tie_to(daemon)
    host.close_all_but(descriptor)
    control = socket.socket(fileno=descriptor)
    try:
        load_runtime(engine)
    except EdgedError as error:
        control.send(f"{TEMPLATE_FAILED} {error}".encode()[:TEMPLATE_MESSAGE_BYTES])
        return
    gc.collect()
    gc.freeze()  # a collection in a worker would otherwise touch, and so copy, every page of what was imported
    control.send(TEMPLATE_READY.encode())
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, TEMPLATE_MESSAGE_BYTES, _DESCRIPTORS)
        if not descriptors:
            return
        try:
            control.send(_fork(control, descriptors, daemon).encode())
        finally:
            for received in descriptors:
                os.close(received)


def _fork(control: socket.socket, descriptors: Sequence[int], daemon: int) -> str:
    """Forks a worker that has `descriptors`. Says its process id, or why there is none."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        return f"{TEMPLATE_THREADS} {threads}"
    reader, writer = os.pipe()
    try:
        between = os.fork()
    except OSError as error:
        os.close(reader)
        os.close(writer)
        return f"{TEMPLATE_FAILED} fork: {error.strerror}"
    if not between:
        os.close(reader)
        _between(control, writer, descriptors, daemon)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(between, 0)
    return answer or f"{TEMPLATE_FAILED} the child in between ended"


def _between(control: socket.socket, writer: int, descriptors: Sequence[int], daemon: int) -> NoReturn:
    """Forks the worker, reports it and ends, which makes the worker the daemon's child."""
    try:
        worker = os.fork()
    except OSError as error:
        os.write(writer, f"{TEMPLATE_FAILED} fork: {error.strerror}".encode())
        os._exit(1)
    if worker:
        os.write(writer, str(worker).encode())
        os._exit(0)
    os.close(writer)
    control.close()
    _work(descriptors, daemon)


def _work(descriptors: Sequence[int], daemon: int) -> NoReturn:
    """The worker's life; whatever ends it must not lead back into the template's."""
    status = 1
    try:
        tie_to(daemon, forked=True)
        host.run(*descriptors)
        status = 0
    except SystemExit as end:
        sys.stderr.write(f"{end}\n")
    except BaseException:  # noqa: BLE001 - a forked child has nobody above it who would tell
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):  # an engine may have closed them
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
