"""Devices whose memory holds one of two revisions."""

from __future__ import annotations

import psutil

from edged.worker import usage
from support.daemon import Daemon


def worker_pids(daemon: Daemon) -> dict[int, int]:
    """The workers by revision."""
    return {worker.revision: worker.pid for worker in daemon.status().workers if worker.pid}


def limit_for_one_mib(daemon: Daemon, need_mib: int) -> int:
    """A memory limit under which what needs so much finds room once the one worker there is has gone, and not before.

    Half of what that worker would give back is how much else may change.
    """
    (pid,) = worker_pids(daemon).values()
    everybody = [daemon.pid, *(child.pid for child in psutil.Process(daemon.pid).children(recursive=True))]
    taken_bytes = sum(map(usage.pss_bytes, everybody)) - usage.read(pid).private_bytes // 2
    return need_mib + taken_bytes // 2**20
