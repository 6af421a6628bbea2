"""A child process held by descriptor: how it ended is learned, even when it takes its time."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

import psutil
import pytest
from support.descriptors import count, there
from support.polling import PATIENCE_S

from edged.worker import child
from edged.worker.child import Child, Exit, spawn


def process(code: str) -> Child:
    """A child of ours that runs `code`."""
    command = [sys.executable, "-S", "-c", code]
    return Child(os.posix_spawn(sys.executable, command, {}))


def pidfds() -> int:
    return count("[pidfd]")


async def reaped(pid: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while there(pid):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("", "exit status 0"),
        ("import os; os._exit(7)", "exit status 7"),
        ("import os; os.abort()", "killed by SIGABRT"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("import os; os.kill(os.getpid(), 36)", "killed by signal 36"),
    ],
)
def test_how_it_ended_is_learned_and_it_is_reaped(run, code, text):
    async def test() -> None:
        before = pidfds()
        made = process(code)
        assert await made.ended == Exit(text)
        assert not there(made.pid)
        assert pidfds() == before
        made.kill()  # nothing, and nobody
        assert await made.stop(0) == Exit(text)

    run(test())


def test_one_that_had_ended_before_is_reaped_too(run):
    pid = os.posix_spawn(sys.executable, [sys.executable, "-S", "-c", ""], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    async def test() -> None:
        assert await Child(pid).ended == Exit("exit status 0")

    run(test())


async def test_a_process_that_is_not_there_is_no_child():
    with pytest.raises(OSError, match="No such process"):
        Child(2**22 + 1)


def test_stop_waits_for_an_end_that_is_on_its_way(run):
    async def test() -> None:
        made = process("pass")
        assert await made.stop(PATIENCE_S) == Exit("exit status 0")

    run(test())


def test_stop_kills_what_does_not_end(run):
    async def test() -> None:
        made = process("import signal; signal.pause()")
        assert await made.stop(0) == Exit("killed by SIGKILL")
        assert not there(made.pid)

    run(test())


async def test_even_a_stopped_process_is_killed():
    made = process("import signal; signal.pause()")
    os.kill(made.pid, signal.SIGSTOP)
    made.kill()
    made.kill()
    assert await made.ended == Exit("killed by SIGKILL")


async def test_one_that_does_not_go_is_lost_and_reaped_when_it_goes_after_all(monkeypatch):
    """As in uninterruptible sleep: the kill has no effect as yet."""
    monkeypatch.setattr(child, "REAP_S", 0.01)
    before = pidfds()
    made = process("import signal; signal.pause()")
    with monkeypatch.context() as patch:
        patch.setattr(signal, "pidfd_send_signal", lambda *_: None)
        made.kill()
        assert await made.stop(0) == Exit("lost: still there 0.01 s after SIGKILL", lost=True)
    assert there(made.pid)
    os.kill(made.pid, signal.SIGKILL)
    await reaped(made.pid)
    assert made.ended.result().lost, "what was said is not unsaid"
    assert pidfds() == before


async def test_one_that_goes_in_time_is_not_lost(monkeypatch):
    monkeypatch.setattr(child, "REAP_S", 0.0)
    made = process("pass")
    await made.ended
    made.kill()
    await asyncio.sleep(0)
    assert not made.ended.result().lost


async def test_who_waits_for_it_may_give_up():
    made = process("import signal; signal.pause()")
    waiting = asyncio.ensure_future(made.stop(PATIENCE_S))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not made.ended.done()
    assert await made.stop(0) == Exit("killed by SIGKILL")


async def test_a_spawned_module_gets_what_it_is_given_and_nothing_else():
    mine, other = socket.socketpair()
    with mine, other:
        made = spawn(
            "edged.worker.host", ["1", str(other.fileno()), str(other.fileno())], {"LANG": "C"}, [other.fileno()]
        )
        assert not os.get_inheritable(other.fileno())
        assert (await made.ended).text == "exit status 1", "process 1 is not its parent"


async def test_a_spawn_without_a_descriptor_left_leaves_no_process(monkeypatch):
    def none_left(_: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        spawn("edged.worker.host", [], {}, [])
    assert not psutil.Process().children()
