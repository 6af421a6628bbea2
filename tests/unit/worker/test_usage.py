"""What a process takes, as the kernel tells it."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from edged.worker import usage
from edged.worker.usage import Usage

# Takes 64 MiB and gives them back, keeps 32 MiB, computes until it has used a tenth of a second, then waits.
BUSY = """
import sys, time
large = bytearray(64 * 2**20)
large = bytearray(32 * 2**20)
while time.process_time() < 0.3:
    pass
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def busy():
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.stdin.close()


def test_it_is_what_others_say_of_the_process(busy):
    found = usage.read(busy.pid)
    other = psutil.Process(busy.pid)
    memory = other.memory_info()
    assert found.resident_bytes == memory.rss == usage.resident_bytes(busy.pid)
    assert found.private_bytes == memory.rss - memory.shared
    assert 32 * 2**20 < found.private_bytes < found.resident_bytes
    full = other.memory_full_info()
    assert usage.pss_bytes(busy.pid) == pytest.approx(full.pss, abs=2**20)
    assert found.private_bytes < found.own_bytes == usage.own_bytes(busy.pid)
    assert found.own_bytes == pytest.approx(found.resident_bytes, abs=2**20), "it shares no memory"
    assert found.peak_bytes >= found.resident_bytes + 16 * 2**20
    times = other.cpu_times()
    assert found.cpu_s == pytest.approx(times.user + times.system)
    assert found.cpu_s >= 0.2


@pytest.mark.parametrize("pid", [0, 2**22 + 1, -1])
def test_where_there_is_no_process_there_is_nothing(pid):
    assert usage.read(pid) == Usage()
    assert (usage.resident_bytes(pid), usage.own_bytes(pid), usage.pss_bytes(pid)) == (0, 0, 0)


SHARES = """
import mmap, sys
shared = mmap.mmap(-1, 64 * 2**20)
shared.write(bytes(64 * 2**20))
print(flush=True)
sys.stdin.read()
"""


def test_shared_memory_is_not_its_own():
    with subprocess.Popen([sys.executable, "-c", SHARES], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        found = usage.read(process.pid)
        assert found.resident_bytes - found.own_bytes >= 63 * 2**20
        # It may have touched a page more meanwhile.
        assert found.own_bytes == pytest.approx(usage.own_bytes(process.pid), abs=2**20)
        assert found.own_bytes > 2**20
        process.stdin.close()


def test_a_process_that_is_not_reaped_yet_takes_no_memory():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        found = usage.read(process.pid)
        assert (found.resident_bytes, found.private_bytes, found.peak_bytes) == (0, 0, 0)


@pytest.mark.parametrize("name", ["a) S 1 2 3", "()", ") ) )", "new\nline"])
def test_a_name_may_hold_anything(name):
    code = f"import sys; open('/proc/self/comm', 'w').write({name!r}); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        times = psutil.Process(process.pid).cpu_times()
        assert usage.read(process.pid).cpu_s == pytest.approx(times.user + times.system)
        process.stdin.close()
