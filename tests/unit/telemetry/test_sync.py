"""What waits goes out in order, the newest state first, and leaves the spool only when somebody has it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from support.polling import until_async

from edged.events import EventLog, Severity
from edged.facts import Executed
from edged.telemetry import again, sync
from edged.telemetry.messages import State
from edged.telemetry.packet import NO_LIMIT, NO_SUBSCRIBER, TOO_LARGE, Message, NotSentError, size_of
from edged.telemetry.recorder import Recorder
from edged.telemetry.spool import Spool
from edged.telemetry.sync import Sync, Topics

TOPICS = Topics("shops", "till-7", "generic")


class Broker:
    """A connection whose broker answers as it is told."""

    def __init__(self) -> None:
        self.connected = False
        self.session = ""
        self.code = 0
        self.got: list[Message] = []
        self.most_bytes = NO_LIMIT
        self.drops_after = 10**9
        """The connection breaks when it has taken so many more, before it says so."""
        self._changed = asyncio.Condition()

    def publish(self, message: Message) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if not self.connected:
            future.set_exception(NotSentError("gone"))
            return future
        self.got.append(message)
        self.drops_after -= 1
        if self.drops_after < 0:
            self.connected = False
            future.set_exception(NotSentError("gone"))
        else:
            future.set_result(TOO_LARGE if size_of(message) > self.most_bytes else self.code)
        return future

    def names(self) -> list[str]:
        return [message.topic.rpartition("/")[2] for message in self.got]

    def windows(self) -> list[dict[str, Any]]:
        unpack = zstandard.ZstdDecompressor().decompress
        found = [message for message in self.got if message.topic.endswith("telemetry")]
        return [msgspec.json.decode(unpack(message.payload, max_output_size=2**20)) for message in found]


class Rig:
    """A recorder, a broker, and what is between them."""

    def __init__(self, folder: Path, *, coarse: bool) -> None:
        self.broker = Broker()
        self.recorder = Recorder(folder, 2**23, 300, 2**30)
        self.sync = Sync(self.recorder, self.broker, TOPICS, state, rows_per_minute=10**6, jitter_s=0, coarse=coarse)
        self.recorder.kept = self.sync.rows_came

    def connect(self, session: str) -> None:
        self.broker.connected, self.broker.session = True, session
        self.sync.connection_changed()

    async def window(self, count: int = 1) -> None:
        for _ in range(count):
            self.recorder.add(Executed("digits", 1, "fp32", 1, (0.001,), 0.002, 7))
            self.recorder.close_window()
            await self.recorder.store()

    async def until(self, condition: Callable[[], bool]) -> None:
        await until_async(condition, "it has come so far")

    async def until_nothing_waits(self) -> None:
        """What was sent is acknowledged a little later."""
        await until_async(self.waiting, "nothing waits", holds=lambda waiting: not waiting)

    async def waiting(self) -> int:
        return (await self.recorder.do(Spool.standing)).windows


@contextlib.asynccontextmanager
async def rig(folder: Path, *, coarse: bool = False) -> AsyncIterator[Rig]:
    found = Rig(folder, coarse=coarse)
    task = asyncio.create_task(found.sync.run())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await found.recorder.close()


def state() -> State:
    return State(device="till-7", fleet="shops", hardware_class="generic", version="1", mode="serving")


async def test_birth_and_state_come_first_then_events_then_windows(tmp_path):
    async with rig(tmp_path) as found:
        events = EventLog(16)
        events.listen(found.recorder.tell)
        await found.window(2)
        events.record(Severity.INFO, "started", "edged", "it serves")
        await found.recorder.store()
        found.connect("a")
        await found.until(lambda: len(found.broker.got) >= 5)
        names = found.broker.names()
        assert [name for name in names if name in ("online", "state")] == ["online", "state"]
        assert [name for name in names if name in ("event", "telemetry")] == ["event", "telemetry", "telemetry"]
        assert all(message.retain is (message.topic.endswith(("online", "state"))) for message in found.broker.got)
        await found.until(lambda: found.sync.sent == 3)
    assert found.broker.windows()[-1]["totals"]["models"][0]["codes"] == {"ok": 2}


async def test_it_goes_on_where_it_stopped(tmp_path):
    async with rig(tmp_path) as found:
        await found.window(6)
        found.broker.drops_after = 5  # birth, state, three windows; the next is taken and not acknowledged
        found.connect("a")
        await found.until(lambda: not found.broker.connected)
        before = [each["last"] for each in found.broker.windows()]
        assert before in ([1, 2, 3, 4], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]), "birth or state may have come in between"
        found.broker.drops_after = 10**9
        found.connect("b")
        await found.until(lambda: [each["last"] for each in found.broker.windows()][-1:] == [6])
        await found.until(lambda: found.sync.sent == 6)
        after = [each["last"] for each in found.broker.windows()][len(before) :]
        assert after == list(range(before[-1], 7)), "what was not acknowledged comes again, and nothing else"
        await found.until_nothing_waits()


async def test_what_nobody_listens_to_stays(tmp_path):
    async with rig(tmp_path) as found:
        found.broker.code = NO_SUBSCRIBER
        await found.window(3)
        found.connect("a")
        await found.until(lambda: bool(found.sync.problem))
        assert "nobody listens" in found.sync.problem
        assert await found.waiting() == 3
        assert len(found.broker.windows()) == 1, "it is not tried again and again"
        found.broker.code = 0
        found.connect("b")
        await found.until(lambda: found.sync.sent == 3)
        await found.until_nothing_waits()


async def test_a_disk_that_takes_rows_again_is_not_waited_for_any_longer(tmp_path):
    (tmp_path / "t").write_text("in the way")
    async with rig(tmp_path / "t") as found:
        found.connect("a")
        await found.window()
        await found.until(lambda: "state" in found.broker.names() and bool(found.recorder.problem))
        (tmp_path / "t").unlink()
        await found.window()
        await found.until(lambda: found.sync.sent == 1)
    assert found.broker.windows()[0]["totals"]["models"][0]["codes"] == {"ok": 2}


async def test_a_state_that_the_broker_refuses_is_told_again(tmp_path, monkeypatch):
    monkeypatch.setattr(again, "LEAST_S", 0.01)
    monkeypatch.setattr(sync, "_STATE_S", 0.01)
    async with rig(tmp_path) as found:
        found.broker.code = 0x97
        found.connect("a")
        await found.until(lambda: found.broker.names().count("state") > 2)
        found.broker.code = 0
        told = found.broker.names().count("state")
        await found.until(lambda: found.broker.names().count("state") > told)
        told = found.broker.names().count("state")
        await asyncio.sleep(0.1)
        assert found.broker.names().count("state") == told, "what it has is not told again"


async def test_a_state_that_is_refused_over_and_over_has_one_timer(tmp_path, monkeypatch):
    monkeypatch.setattr(sync, "_STATE_S", 0.001)
    async with rig(tmp_path) as found:
        loop = asyncio.get_running_loop()
        timers, call_later = [], loop.call_later
        monkeypatch.setattr(loop, "call_later", lambda *asked: timers.append(asked[0]) or call_later(*asked))
        found.broker.code = 0x97
        found.connect("a")
        for told in range(1, 6):
            await found.until(lambda told=told: found.broker.names().count("state") >= told)
            found.sync.state_changed()
        monkeypatch.undo()
    assert [each for each in timers if each == again.LEAST_S] == [again.LEAST_S]


async def test_what_the_broker_refuses_stays(tmp_path):
    async with rig(tmp_path) as found:
        found.broker.code = 0x97
        await found.window()
        found.connect("a")
        await found.until(lambda: "0x97" in found.sync.problem)
        assert await found.waiting() == 1


async def test_a_report_is_sent_at_once_whatever_the_broker_refused_before(tmp_path, monkeypatch):
    monkeypatch.setattr(again, "LEAST_S", 1000.0)
    delays, timeout = [], asyncio.timeout
    async with rig(tmp_path) as found:
        monkeypatch.setattr(asyncio, "timeout", lambda delay_s: delays.append(delay_s) or timeout(delay_s))
        found.broker.code = NO_SUBSCRIBER
        await found.window(3)
        for tried in (1, 2):
            found.connect(f"session {tried}")
            await found.until(lambda tried=tried: len(found.broker.windows()) == tried)
            await found.until(lambda: bool(found.sync.problem))
        found.sync.report(fine=False)
        await found.until(lambda: len(found.broker.windows()) == 3)
        await found.until(lambda: bool(found.sync.problem))
        found.broker.code = 0
        found.sync.report(fine=False)
        await found.until(lambda: found.sync.sent == 3)
        await found.until_nothing_waits()
    first, second, after_report = [each for each in delays if each >= again.LEAST_S / 2]
    assert first <= 1000 <= second
    assert after_report <= 1000, "the delays begin anew"


async def test_a_row_above_the_limit_of_the_broker_is_counted_and_holds_up_nothing(tmp_path):
    async with rig(tmp_path) as found:
        events = EventLog(16)
        events.listen(found.recorder.tell)
        events.record(Severity.WARNING, "long", "edged", "x" * 3000)
        events.record(Severity.WARNING, "short", "edged", "y")
        await found.recorder.store()
        await found.window(2)
        found.broker.most_bytes = 1000
        found.connect("a")
        await found.until(lambda: found.sync.sent == 3)
        await found.until_nothing_waits()
        standing = await found.recorder.do(Spool.standing)
        assert (standing.windows, standing.events) == (0, 0)
        assert (standing.lost.windows, standing.lost.events) == (0, 1)
        assert found.broker.names().count("event") == 2, "it is not tried again"
        assert not found.sync.problem
        found.broker.most_bytes = 10
        await found.window()
        await found.until_nothing_waits()
        found.broker.most_bytes = 1000
        await found.window()
        await found.until(lambda: found.sync.sent == 4)
        last = found.broker.windows()[-1]
        assert last["lost"] == {"windows": 1, "events": 1}
        assert last["totals"]["models"][0]["codes"] == {"ok": 4}, "what was lost costs resolution and no count"


async def test_windows_of_an_unfinished_hour_go_out_when_a_report_is_asked_for(tmp_path):
    async with rig(tmp_path, coarse=True) as found:
        await found.window(3)
        found.connect("a")
        await found.until(lambda: found.broker.names()[-1:] == ["state"])
        assert found.broker.windows() == []
        found.sync.report(fine=False)
        await found.until(lambda: len(found.broker.windows()) == 1)
        assert (found.broker.windows()[0]["first"], found.broker.windows()[0]["last"]) == (1, 3)
        await found.window(2)
        found.sync.report(fine=True)
        await found.until(lambda: len(found.broker.windows()) == 3)
        assert [each["last"] for each in found.broker.windows()] == [3, 4, 5]
