"""Ties a child to the daemon, so that it never outlives it. Child's end only."""

from __future__ import annotations

import ctypes
import os
import signal
import time

# prctl(2).
_PR_SET_PDEATHSIG = 1

# How long a forked worker waits to pass to the daemon: the one in between has nothing left to do but to end.
_ADOPTION_S = 10.0


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
