"""Commands that were under way when edged ended, or while the disk took nothing: done once, and answered."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from support.polling import until_async

from edged import clock
from edged.events import EventLog
from edged.intents import Done, Intent
from edged.telemetry import again
from edged.telemetry.answers import Answers
from edged.telemetry.commander import Commander
from edged.telemetry.commands import Context, Rejection, Verdict
from edged.telemetry.messages import Command, Result
from edged.telemetry.orders import Order
from edged.telemetry.packet import NO_LIMIT, TOO_LARGE, Message, size_of
from edged.telemetry.recorder import NotKeptError, Recorder
from edged.telemetry.spool import Spool
from edged.telemetry.sync import Topics

TOPICS = Topics("shops", "till-7", "generic")


def order(
    number: int = 1, name: str = "report", topics: tuple[str, ...] = (TOPICS.of("result"),), **others: object
) -> Order:
    now_ms = clock.wall_ms()
    command = Command(
        schema=1, command=name, fleet="shops", issued_ms=now_ms, expires_ms=now_ms + 60_000, nonce=f"{number:016d}"
    )
    return Order(command=command, operator="alice", envelope=b"{}", topics=topics, **others)


class Broker:
    """Takes everything, or refuses what its codes say."""

    def __init__(self) -> None:
        self.connected = True
        self.session = "a"
        self.codes: dict[str, int] = {}
        self.most_bytes = NO_LIMIT
        self.got: list[Message] = []

    def publish(self, message: Message) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.got.append(message)
        too_large = size_of(message) > self.most_bytes
        future.set_result(TOO_LARGE if too_large else self.codes.get(message.topic, 0))
        return future

    def results(self) -> list[tuple[str, str, str]]:
        found = [msgspec.json.decode(each.payload, type=Result) for each in self.got]
        return [(each.nonce.lstrip("0"), each.status, each.code) for each in found]


class Believer:
    """Takes what comes for the command of the order of that number, which may have expired."""

    def __init__(self) -> None:
        self.expired = False

    async def verify(self, data: bytes, _context: Context) -> Verdict:
        if data == b"forged":
            return Verdict(code=Rejection.SIGNATURE_INVALID, text="nobody known")
        if self.expired:
            rejected = order(int(data)).command
            return Verdict(operator="alice", code=Rejection.EXPIRED, text="it is over", rejected=rejected)
        return Verdict(order(int(data)).command, "alice")


class Rig:
    """A commander on a spool of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = Broker()
        self.recorder = Recorder(folder, 2**23, 300, 2**30)
        self.answers = Answers(self.recorder, self.broker)
        self.obeyed: list[str] = []
        self.before_done: Callable[[], None] = lambda: None
        self.hands_on = False
        self.believer = Believer()

        async def carry_out(_intent: Intent, order: Order) -> Done | None:
            self.obeyed.append(order.command.nonce.lstrip("0"))
            self.before_done()
            return None if self.hands_on else Done("")

        async def context() -> Context:
            return Context(fleet="shops", device="till-7", hardware_class="generic", now_ms=clock.wall_ms())

        self.commander = Commander(
            context,
            self.believer,
            TOPICS,
            self.recorder,
            self.answers,
            carry_out,
            EventLog(64),
        )
        self.recorder.kept = self.commander.spool_works

    def fill_disk(self) -> None:
        """From now on nothing can be kept, though all that was kept is there."""

        async def full(*_arguments, **_named):
            raise NotKeptError("the disk is full")

        self.recorder.do = full

    def make_room(self) -> None:
        del self.recorder.do

    async def open(self) -> list[Order]:
        return [each for each in await self.recorder.do(lambda spool: spool.orders.all()) if each.answer is None]

    async def keep_window(self) -> None:
        self.recorder.close_window()
        await self.recorder.store()

    async def until(self, condition: Callable[[], bool]) -> None:
        await until_async(condition, "the commander has done so", log=lambda: str(self.broker.results()))

    async def until_told(self, *results: tuple[str, str, str]) -> None:
        await self.until(lambda: set(results) <= set(self.broker.results()))


@contextlib.asynccontextmanager
async def rig(folder: Path) -> AsyncIterator[Rig]:
    found = Rig(folder)
    tasks = [asyncio.create_task(each) for each in (found.commander.run(), found.answers.run())]
    try:
        yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await found.recorder.close()


def left(folder: Path, *orders: Order) -> None:
    """As a daemon leaves them that had accepted them when the power went."""
    spool = Spool(folder, 2**23, clock.wall_ms())
    for each in orders:
        spool.orders.accept(each, clock.wall_ms())
    spool.close()


async def test_what_ended_edged_each_time_is_given_up_but_not_what_another_carries_out(tmp_path):
    left(tmp_path, order(1, resumed=2), order(2, resumed=2, handed_on=True))
    async with rig(tmp_path) as found:
        found.hands_on = True
        await found.until_told(("1", "rejected", "failed"))
        await found.until(lambda: found.obeyed == ["2"])
        assert [each.command.nonce.lstrip("0") for each in await found.open()] == ["2"]


async def test_an_order_that_this_release_does_not_know_is_refused_and_hinders_nothing(tmp_path):
    left(tmp_path, order(1, "dance"), order(2))
    async with rig(tmp_path) as found:
        await found.until_told(("1", "rejected", "unknown_command"), ("2", "done", ""))
        assert found.obeyed == ["2"]


async def test_what_was_done_while_the_disk_was_full_is_not_done_again(tmp_path):
    left(tmp_path, order(1))
    async with rig(tmp_path) as found:
        found.before_done = found.fill_disk
        await found.until_told(("1", "done", ""))
        found.make_room()
        assert [each.command.nonce.lstrip("0") for each in await found.open()] == ["1"]
        await found.keep_window()
        async with asyncio.timeout(30):
            while await found.open():  # noqa: ASYNC110 - the disk tells nobody
                await asyncio.sleep(0.005)
    async with rig(tmp_path) as found:
        found.commander.take(Message(topic="t", payload=b"2"))
        await found.until_told(("2", "done", ""))
        assert found.obeyed == ["2"]


async def test_orders_that_could_not_be_read_at_the_start_are_taken_up_when_they_can_be(tmp_path):
    left(tmp_path / "there", order(1))
    (tmp_path / "t").write_text("in the way")
    async with rig(tmp_path / "t") as found:
        await found.until(lambda: bool(found.recorder.problem))
        (tmp_path / "t").unlink()
        shutil.copytree(tmp_path / "there", tmp_path / "t")
        await found.keep_window()
        await found.until_told(("1", "done", ""))
        found.commander.take(Message(topic="t", payload=b"2"))
        await found.until_told(("2", "done", ""))
        assert found.obeyed == ["1", "2"], "and once"


async def test_an_answer_of_another_is_given_back_while_it_cannot_be_kept(tmp_path):
    left(tmp_path, order(1))
    async with rig(tmp_path) as found:
        found.hands_on = True
        await found.until(lambda: found.obeyed == ["1"])
        answer = Result(device="till-7", nonce=order(1).command.nonce, command="report", status="done")
        found.fill_disk()
        assert not await found.commander.answer(answer.nonce, answer)
        assert await found.commander.open_nonces() is None
        found.make_room()
        assert await found.commander.open_nonces() == {answer.nonce}
        assert await found.commander.answer(answer.nonce, answer)
        await found.until_told(("1", "done", ""))
        assert await found.commander.answer(answer.nonce, answer), "one that has ended needs no answer"


@pytest.mark.parametrize("redelivered", [True, False], ids=["redelivered", "replayed"])
async def test_a_redelivered_command_is_counted_and_a_replayed_one_is_told(tmp_path, redelivered):
    async with rig(tmp_path) as found:
        found.commander.take(Message(topic="t", payload=b"1"))
        await found.until_told(("1", "done", ""))
        found.commander.take(Message(topic="t", payload=b"1", again=redelivered))
        await found.until(lambda: found.commander.counted[Rejection.REPLAYED] == 1)
        found.commander.take(Message(topic="t", payload=b"2"))
        await found.until_told(("2", "done", ""))
        assert (("1", "rejected", "replayed") in found.broker.results()) is not redelivered
        assert found.obeyed == ["1", "2"]


async def test_a_rejection_is_told_to_who_signed_and_to_nobody_else(tmp_path):
    asked = "edged/1/shops/operators/alice"
    async with rig(tmp_path) as found:
        found.believer.expired = True
        found.commander.take(Message(topic="t", payload=b"1", response_topic=asked, correlation=b"7"))
        await found.until_told(("1", "rejected", "expired"))
        await found.until(lambda: len(found.broker.got) == 2)
        assert {each.topic for each in found.broker.got} == {TOPICS.of("result"), asked}
        assert {each.correlation for each in found.broker.got} == {b"7"}
        told = msgspec.json.decode(found.broker.got[0].payload, type=Result)
        assert (told.command, told.operator) == ("report", "alice")
        found.broker.got.clear()
        found.commander.take(Message(topic="t", payload=b"forged", response_topic=asked))
        await found.until_told(("", "rejected", "signature_invalid"))
        found.commander.take(Message(topic="t", payload=b"2", response_topic=asked))
        await found.until_told(("2", "rejected", "expired"))
        assert found.broker.results()[0][2] == "signature_invalid"
        assert [each.topic for each in found.broker.got][:2] == [TOPICS.of("result")] * 2
        assert found.obeyed == []


async def test_what_was_done_is_not_called_expired_when_it_comes_again(tmp_path):
    async with rig(tmp_path) as found:
        found.commander.take(Message(topic="t", payload=b"1"))
        await found.until_told(("1", "done", ""))
        found.believer.expired = True
        found.commander.take(Message(topic="t", payload=b"1", again=True))
        found.commander.take(Message(topic="t", payload=b"2", again=True))
        await found.until_told(("2", "rejected", "expired"))
        assert found.commander.counted[Rejection.EXPIRED] == 2
        assert ("1", "rejected", "expired") not in found.broker.results()


class TestWhatTheBrokerRefuses:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch):
        monkeypatch.setattr(again, "LEAST_S", 0.01)

    async def test_is_kept_and_told_again(self, tmp_path):
        left(tmp_path, order(1))
        async with rig(tmp_path) as found:
            found.broker.codes[TOPICS.of("result")] = 0x97
            found.commander.take(Message(topic="t", payload=b"2"))
            await found.until(lambda: len(found.broker.got) > 4)
            assert len(await found.recorder.do(lambda spool: spool.orders.all())) == 2
            found.broker.codes.clear()
            found.broker.got.clear()
            await found.until_told(("1", "done", ""), ("2", "accepted", ""), ("2", "done", ""))

    async def test_elsewhere_holds_up_nothing(self, tmp_path):
        other = "edged/1/shops/operators/alice"
        left(tmp_path, order(1, topics=(TOPICS.of("result"), other)))
        async with rig(tmp_path) as found:
            found.broker.codes[other] = 0x87
            await found.until(lambda: [each.topic for each in found.broker.got] == [TOPICS.of("result"), other])
            found.commander.take(Message(topic="t", payload=b"2"))
            await found.until_told(("2", "done", ""))
            assert [each.topic for each in found.broker.got].count(other) == 1

    @pytest.mark.parametrize("most_bytes", [1000, 100], ids=["told without its details", "given up"])
    async def test_as_too_large_is_not_refused_for_ever(self, tmp_path, most_bytes):
        other = "edged/1/shops/operators/alice"
        done = Result(device="till-7", nonce="1", status="done", details={"found": "x" * 2000})
        left(tmp_path, order(1, answer=done, topics=(TOPICS.of("result"), other)))
        async with rig(tmp_path) as found:
            found.broker.most_bytes = most_bytes
            found.answers.news()

            async def kept() -> int:
                return len(await found.recorder.do(lambda spool: spool.orders.all()))

            await until_async(kept, "nothing waits", holds=lambda orders: not orders)
            assert [each.topic for each in found.broker.got] == [TOPICS.of("result")] * 2 + [other] * 2
            details = [msgspec.json.decode(each.payload, type=Result).details for each in found.broker.got]
            assert details == [done.details, {"left_out": "too large"}] * 2


async def test_commands_beyond_those_that_may_wait_are_counted(tmp_path):
    async with rig(tmp_path) as found:
        for number in range(1, 21):  # before the commander has its turn
            found.commander.take(Message(topic="t", payload=b"%d" % number))
        refused = found.commander.counted[Rejection.RATE_LIMITED]
        await found.until(lambda: len(found.obeyed) == 20 - refused)
        assert refused
        assert found.obeyed == [str(number) for number in range(1, 21 - refused)]
