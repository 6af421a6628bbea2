"""What the service manager is told, read from a real datagram socket."""

import asyncio
import os
import select
import socket
import threading
import time
from pathlib import Path

import pytest
from support.standins import Clock, settle

from edged.system import notify
from edged.system.notify import Notifier


class Manager:
    """The service manager's end."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.environment = {"NOTIFY_SOCKET": address}

    def told(self):
        """Everything that has come, a message each."""
        messages = []
        while select.select([self.socket], [], [], 0)[0]:
            messages.append(self.socket.recv(65536).decode())
        return messages


@pytest.fixture(params=["a path", "an abstract name"])
def manager(request, tmp_path):
    address = str(tmp_path / "notify") if request.param == "a path" else f"@edged-test-{os.getpid()}"
    made = Manager(address)
    yield made
    made.socket.close()


class TestStates:
    def test_ready_with_a_status(self, manager):
        Notifier(manager.environment).ready("serving, 2 of 2 models ready")
        assert manager.told() == ["READY=1\nSTATUS=serving, 2 of 2 models ready"]

    def test_reloading_since_when_by_the_clock_that_the_manager_reads(self, manager):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        Notifier(manager.environment).reloading()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        (message,) = manager.told()
        reloading, since = message.splitlines()
        assert reloading == "RELOADING=1"
        key, _, at = since.partition("=")
        assert key == "MONOTONIC_USEC"
        assert before <= int(at) <= after

    def test_stopping(self, manager):
        Notifier(manager.environment).stopping("answering what is under way", 350.5)
        assert manager.told() == ["STOPPING=1\nEXTEND_TIMEOUT_USEC=350500000\nSTATUS=answering what is under way"]

    def test_a_status_is_told_when_it_changes(self, manager):
        notifier = Notifier(manager.environment)
        notifier.ready("serving")
        for text in ("serving", "degraded", "degraded", "serving"):
            notifier.status(text)
        assert manager.told() == ["READY=1\nSTATUS=serving", "STATUS=degraded", "STATUS=serving"]


class TestAStatus:
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            pytest.param("one\nREADY=1", "one READY=1", id="a line feed"),
            pytest.param("one\r\nSTOPPING=1", "one STOPPING=1", id="a carriage return"),
            pytest.param("one\x0bMAINPID=1\x0c2", "one MAINPID=1 2", id="other line ends"),
            pytest.param("one\u2028two\x85three", "one two three", id="line ends of Unicode"),
            pytest.param("\n\none\n\n", "one", id="at both ends"),
            pytest.param("naïve, 3 °C", "naïve, 3 °C", id="other letters"),
            pytest.param("one\0two", "one�two", id="a NUL, for which the manager would pass over the message"),
            pytest.param("bundle \udcff", "bundle ?", id="a file's name that is no text"),
        ],
    )
    def test_is_one_line_whatever_is_in_it(self, manager, text, line):
        notifier = Notifier(manager.environment)
        notifier.ready(text)
        notifier.stopping(text, 1.0)
        Notifier(manager.environment).status(text)
        extend = "EXTEND_TIMEOUT_USEC=1000000"
        assert manager.told() == [f"READY=1\nSTATUS={line}", f"STOPPING=1\n{extend}\nSTATUS={line}", f"STATUS={line}"]


class TestNobodyListens:
    @pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}])
    def test_because_there_is_no_manager(self, environment):
        notifier = Notifier(environment)
        notifier.ready("serving")
        notifier.status("other")
        notifier.reloading()
        notifier.stopping("", 1.0)

    @pytest.mark.parametrize("address", ["/nowhere/at/all", "@edged-nobody", "relative", "/" + "x" * 200])
    def test_at_the_address_given(self, address):
        Notifier({"NOTIFY_SOCKET": address}).ready("serving")

    def test_any_more(self, manager):
        notifier = Notifier(manager.environment)
        manager.socket.close()
        notifier.ready("serving")


class TestAManagerThatIsSlow:
    """The kernel keeps a few messages for it, and refuses more until it reads."""

    def flood(self, notifier):
        for number in range(2000):
            notifier.status(f"{number}")

    def test_misses_what_is_only_news(self, manager):
        self.flood(Notifier(manager.environment))
        assert 0 < len(manager.told()) < 2000

    @pytest.mark.parametrize(
        ("tell", "line"),
        [
            (lambda notifier: notifier.ready(""), "READY=1"),
            (lambda notifier: notifier.reloading(), "RELOADING=1"),
            (lambda notifier: notifier.stopping("", 1.0), "STOPPING=1"),
        ],
    )
    def test_does_not_miss_what_it_waits_for(self, manager, tell, line, monkeypatch):
        monkeypatch.setattr(notify, "_PATIENCE_S", 60.0)
        notifier = Notifier(manager.environment)
        self.flood(notifier)
        sender = threading.Thread(target=tell, args=(notifier,))
        sender.start()
        while sender.is_alive() and not self.sleeps(sender):
            pass
        manager.socket.settimeout(60)
        while line not in (message := manager.socket.recv(65536).decode()):
            assert message
        sender.join()

    def sleeps(self, thread):
        return " S " in Path(f"/proc/self/task/{thread.native_id}/stat").read_text()

    def test_does_not_hold_the_daemon_up_for_ever(self, manager, monkeypatch):
        monkeypatch.setattr(notify, "_PATIENCE_S", 0.01)
        notifier = Notifier(manager.environment)
        self.flood(notifier)
        notifier.ready("serving")
        assert all("READY=1" not in message for message in manager.told())


@pytest.fixture
async def keep_alive():
    tasks = []

    def start(notifier):
        tasks.append(asyncio.create_task(notifier.keep_alive()))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class TestWhatAFullQueueRefused:
    """Is told once there is room again, on a clock that only the test moves."""

    @pytest.fixture
    def full(self, manager, monkeypatch):
        """Fills its queue; nobody is waited for."""
        monkeypatch.setattr(notify, "_PATIENCE_S", 0.0)

        def fill():
            other = Notifier(manager.environment)
            while not other._owes.is_set():
                other.status(f"{other._status}x")

        return fill

    def test_a_status_when_it_is_the_next_time_said(self, manager, full):
        notifier = Notifier(manager.environment)
        full()
        notifier.status("degraded")
        manager.told()
        notifier.status("degraded")
        assert manager.told() == ["STATUS=degraded"]
        notifier.status("degraded")
        assert manager.told() == []

    @pytest.mark.parametrize("environment", [{}, {"WATCHDOG_USEC": "30000000"}])
    @pytest.mark.parametrize(
        ("tell", "message"),
        [
            (lambda notifier: notifier.status("degraded"), "STATUS=degraded"),
            (lambda notifier: notifier.ready("serving"), "READY=1\nSTATUS=serving"),
            (lambda notifier: notifier.reloading(), "RELOADING=1"),
            (lambda notifier: notifier.stopping("s", 1.0), "STOPPING=1\nEXTEND_TIMEOUT_USEC=1000000\nSTATUS=s"),
        ],
    )
    async def test_all_that_is_not_told_soon_after(self, manager, full, keep_alive, environment, tell, message):
        clock, notifier = Clock(), Notifier({**manager.environment, **environment})
        keep_alive(notifier)
        await settle()
        full()
        tell(notifier)
        await settle()
        manager.told()
        clock.forward(1)
        await settle()
        (told,) = [each for each in manager.told() if each != "WATCHDOG=1"]
        assert told.startswith(message)
        clock.forward(1)
        await settle()
        assert [each for each in manager.told() if each != "WATCHDOG=1"] == []

    async def test_states_in_order_with_the_status_of_now(self, manager, full, keep_alive):
        clock, notifier = Clock(), Notifier(manager.environment)
        keep_alive(notifier)
        full()
        notifier.ready("first")
        notifier.reloading()
        notifier.ready("second")
        notifier.status("third")
        await settle()
        manager.told()
        clock.forward(1)
        await settle()
        ready, reloading, again = manager.told()
        assert ready == "READY=1\nSTATUS=third"
        assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert again == "READY=1"

    async def test_a_sign_of_life_before_the_watchdog_ends_it(self, manager, full, keep_alive):
        clock = Clock()
        keep_alive(Notifier({**manager.environment, "WATCHDOG_USEC": "30000000"}))
        await settle()
        manager.told()
        full()
        clock.forward(15)
        await settle()
        manager.told()
        clock.forward(1)
        await settle()
        assert manager.told() == ["WATCHDOG=1"]

    async def test_states_up_to_a_bound(self, manager, full):
        notifier = Notifier(manager.environment)
        full()
        for _ in range(100):
            notifier.reloading()
            notifier.ready("serving")
        manager.told()
        notifier.status("serving")
        told = manager.told()
        assert len(told) == notify._MOST_OWED
        assert told[-1] == "READY=1"


class TestTheWatchdog:
    """On a clock that only the test moves."""

    async def test_is_fed_at_half_its_interval(self, manager, keep_alive):
        clock = Clock()
        keep_alive(Notifier({**manager.environment, "WATCHDOG_USEC": "30000000"}))
        await settle()
        assert manager.told() == ["WATCHDOG=1"]
        clock.forward(14)
        await settle()
        assert manager.told() == []
        for _ in range(3):
            clock.forward(15)
            await settle()
            assert manager.told() == ["WATCHDOG=1"]

    async def test_is_fed_when_it_is_meant_for_this_process(self, manager, keep_alive):
        named = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
        keep_alive(Notifier({**manager.environment, **named}))
        await settle()
        assert manager.told() == ["WATCHDOG=1"]

    @pytest.mark.parametrize(
        "environment",
        [
            pytest.param({}, id="no watchdog"),
            pytest.param({"WATCHDOG_USEC": "0"}, id="switched off"),
            pytest.param({"WATCHDOG_USEC": ""}, id="empty"),
            pytest.param({"WATCHDOG_USEC": "soon"}, id="no number"),
            pytest.param({"WATCHDOG_USEC": "-5"}, id="less than nothing"),
            pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, id="another process's"),
        ],
    )
    async def test_there_is_none_to_feed(self, manager, keep_alive, environment):
        clock = Clock()
        keep_alive(Notifier({**manager.environment, **environment}))
        for _ in range(3):
            await settle()
            clock.forward(60)
        assert manager.told() == []

    async def test_has_nothing_to_do_where_there_is_no_manager(self, keep_alive):
        task = keep_alive(Notifier({"WATCHDOG_USEC": "30000000"}))
        await settle()
        assert task.done()
