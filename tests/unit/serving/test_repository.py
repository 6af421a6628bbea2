"""Loading and unloading by order, with real workers: who serves meanwhile, what is told, what goes."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import Any

import psutil
import pytest
from onnx import helper
from support.bundles import make_bundle, onnx_model
from support.polling import PATIENCE_S, until_changed
from support.standins import as_it_is, settle

from edged.bundle.folder import read_manifest
from edged.changes import Changes
from edged.config.settings import Serving, Workers
from edged.errors import Code, EdgedError
from edged.events import EventLog
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.models.states import Source, State
from edged.runtimes.base import ENGINES
from edged.serving.repository import Repository
from edged.serving.request import Call, Contents, InputMeta
from edged.serving.service import Service
from edged.system.hardware import Hardware
from edged.worker.messages import Form
from edged.worker.templates import spawned

X, Y = [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])]
NEG = onnx_model([helper.make_node("Neg", ["x"], ["y"])], X, Y)


class Bench:
    """A model `neg` with revisions on the device, of which the first is loaded."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.changes = Changes()
        self.events = EventLog(100)
        self.residency = Residency(self.changes)
        self.service = Service(self.residency, Serving(drain_s=PATIENCE_S))
        release = functools.partial(self.service.release, limit_s=PATIENCE_S)
        self.repository = Repository(self.residency, release, self.events)

    def resident(self, revision: int, model: bytes = NEG) -> Resident:
        folder = make_bundle(self._folder / str(revision), model, X, Y, name="neg", revision=revision)
        runtimes = {name: engine.version() for name, engine in ENGINES.items()}
        settings = Workers(restart_min_s=60, restart_max_s=60)
        source = Source(folder, read_manifest(folder), "factory")
        return Resident(source, Hardware("generic"), runtimes, settings, self.changes, self.events, spawned)

    async def begin(self) -> Resident:
        first = self.resident(1)
        self.residency.add(first)
        await until_changed(self.changes, lambda: first.ready)
        return first

    async def ask(self, version: str = "") -> Any:
        """The revision that answers."""
        inputs = (InputMeta("x", "FP32", (1, 2)),)
        contents = (Contents(Form.RAW, (bytes(8),), -1),)
        call = Call("neg", version, "", inputs, (), contents, signature=inputs)
        return (await self.service.infer(call, PATIENCE_S, as_it_is)).revision

    def recorded(self) -> list[str]:
        return [f"{event.code} {event.details.get('revision')}" for event in self.events.after(0)]


@pytest.fixture
async def bench(tmp_path: Path) -> Any:
    made = Bench(tmp_path)
    yield made
    await made.repository.stop()
    await made.residency.stop()


async def refusal(what: Any) -> EdgedError:
    with pytest.raises(EdgedError) as raised:
        await what
    return raised.value


async def test_an_unloaded_model_gives_its_memory_back_and_says_so(bench: Bench) -> None:
    first = await bench.begin()
    await bench.repository.unload("neg")
    assert psutil.Process().children() == []
    assert (first.state, first.ready, bench.service.model_ready("neg", "")) == (State.UNAVAILABLE, False, False)
    for version in ("", "1"):
        error = await refusal(bench.ask(version))
        assert error.code is Code.MODEL_UNAVAILABLE
        why = "somebody asked for that; `edgectl load neg` has it serve again"
        assert error.message == f"model 'neg' is unavailable: {why}"
    assert bench.recorded() == ["model_ready 1", "model_unloaded 1"]
    # What nobody wants loaded is no reason to call the device not ready.
    assert bench.service.ready()


async def test_what_was_unloaded_is_loaded_again(bench: Bench) -> None:
    first = await bench.begin()
    for _ in range(2):
        await bench.repository.unload("neg")
        await bench.repository.load("neg", None)
        assert (first.state, await bench.ask()) == (State.READY, 1)
    assert bench.service.queue(first).statistics.inference_count == 2


async def test_unloading_twice_is_unloading(bench: Bench) -> None:
    await bench.begin()
    await asyncio.gather(*(bench.repository.unload("neg") for _ in range(3)))
    assert bench.recorded() == ["model_ready 1", "model_unloaded 1"]


async def test_loading_what_serves_changes_nothing(bench: Bench) -> None:
    first = await bench.begin()
    pid = first.worker.pid
    for revision in (None, 1):
        await bench.repository.load("neg", revision)
    assert first.worker.pid == pid


async def test_another_revision_takes_over_when_it_is_ready_and_nobody_is_refused(bench: Bench) -> None:
    first = await bench.begin()
    second = bench.resident(2)
    bench.residency.know(second)
    answers: set[int] = set()
    done = False

    async def keep_asking() -> None:
        while not done:
            answers.add(await bench.ask())

    callers = [asyncio.create_task(keep_asking()) for _ in range(4)]
    await bench.repository.load("neg", 2)
    assert await bench.ask() == 2
    done = True
    await asyncio.gather(*callers)
    assert answers == {1, 2}
    assert (first.state, second.state) == (State.UNAVAILABLE, State.READY)
    assert first.reason == "revision 2 took its place"
    assert (await refusal(bench.ask("1"))).code is Code.REVISION_NOT_SERVED
    assert len(psutil.Process().children()) == 1
    await bench.repository.load("neg", 1)
    assert await bench.ask() == 1


async def test_a_revision_that_does_not_load_changes_nothing(bench: Bench) -> None:
    first = await bench.begin()
    bad = bench.resident(2, model=b"\xff" * 100)
    bench.residency.know(bad)
    error = await refusal(bench.repository.load("neg", 2))
    assert error.code is Code.LOAD_FAILED
    assert error.message.startswith("revision 2 of model 'neg' is not ready: no variant can run here: cpu: ")
    assert error.hint == "revision 1 serves on"
    assert (await bench.ask(), first.state, bad.state) == (1, State.READY, State.UNAVAILABLE)
    assert bad.reason.startswith("no variant can run here")
    assert bench.residency.routes["neg"].loaded == (1,)
    assert bench.service.ready()


async def test_a_model_that_failed_is_tried_again_when_somebody_asks(bench: Bench) -> None:
    bad = bench.resident(1, model=b"\xff" * 100)
    bench.residency.add(bad)
    await until_changed(bench.changes, lambda: bad.state is State.FAILED)
    assert (await refusal(bench.repository.load("neg", None))).code is Code.LOAD_FAILED
    assert (bad.state, len(bad.choice.passed_over)) == (State.FAILED, 1)
    assert bench.recorded().count("model_failed 1") == 2


async def test_what_is_not_here_cannot_be_loaded(bench: Bench) -> None:
    await bench.begin()
    bench.residency.know(bench.resident(3))
    assert (await refusal(bench.repository.load("nobody", None))).code is Code.MODEL_NOT_FOUND
    assert (await refusal(bench.repository.unload("nobody"))).code is Code.MODEL_NOT_FOUND
    error = await refusal(bench.repository.load("neg", 2))
    assert (error.code, error.hint) == (Code.REVISION_NOT_FOUND, "it has 1, 3")


async def test_what_an_update_has_on_trial_does_not_serve_before_it_has_passed(bench: Bench) -> None:
    await bench.begin()
    second = bench.resident(2)
    bench.residency.add_on_trial(second)
    error = await refusal(bench.repository.load("neg", 2))
    assert (error.code, error.message) == (
        Code.REVISION_NOT_SERVED,
        "an update has revision 2 of model 'neg' on trial",
    )
    assert await bench.ask() == 1
    assert not second.leaving, "its trial goes on"
    bench.residency.flip("neg", 2)
    await bench.repository.load("neg", 1)
    bench.residency.withdraw("neg", 2)
    await bench.repository.load("neg", 2)
    assert await bench.ask() == 2, "it has served, and may again while it goes"


async def test_loading_another_revision_ends_no_trial(bench: Bench) -> None:
    await bench.begin()
    tried = bench.resident(2)
    bench.residency.add_on_trial(tried)
    await until_changed(bench.changes, lambda: tried.ready)
    pid = tried.worker.pid
    await bench.repository.load("neg", None)
    bench.residency.know(bench.resident(3))
    await bench.repository.load("neg", 3)
    assert (tried.ready, tried.leaving, tried.worker.pid) == (True, False, pid)
    assert await bench.ask() == 3
    assert "model_unloaded 1" in bench.recorded(), "the one that served has gone"


async def test_what_waits_is_answered_before_the_worker_goes(bench: Bench) -> None:
    first = await bench.begin()
    callers = [asyncio.create_task(bench.ask()) for _ in range(50)]
    await asyncio.sleep(0)
    unloading = asyncio.create_task(bench.repository.unload("neg"))
    assert await asyncio.gather(*callers) == [1] * 50
    await unloading
    assert first.state is State.UNAVAILABLE


async def test_what_comes_while_it_drains_is_refused(bench: Bench) -> None:
    first = await bench.begin()
    waiting = asyncio.create_task(bench.ask())
    await asyncio.sleep(0)
    unloading = asyncio.create_task(bench.repository.unload("neg"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert first.state is State.UNLOADING
    error = await refusal(bench.ask())
    assert error.code is Code.MODEL_UNAVAILABLE
    assert "is unloading: it answers what it took, then goes" in error.message
    await unloading
    assert await waiting == 1


async def test_a_worker_that_dies_while_it_drains_is_not_missed(bench: Bench) -> None:
    first = await bench.begin()
    first.leave("it goes")
    first.worker.kill()
    await until_changed(bench.changes, lambda: first.worker is None)
    await bench.repository.unload("neg")
    await first.stop()
    assert (first.state, first.restarts, psutil.Process().children()) == (State.UNAVAILABLE, 0, [])


async def test_an_order_goes_on_when_its_giver_has_gone(bench: Bench) -> None:
    first = await bench.begin()
    giver = asyncio.create_task(bench.repository.unload("neg"))
    await asyncio.sleep(0)
    giver.cancel()
    await until_changed(bench.changes, lambda: first.state is State.UNAVAILABLE)
    await settle()


async def test_orders_are_bounded(bench: Bench) -> None:
    await bench.begin()
    bench.residency.know(bench.resident(2))
    orders = [asyncio.create_task(bench.repository.load("neg", 2)) for _ in range(100)]
    await asyncio.sleep(0)
    found = await asyncio.gather(*orders, return_exceptions=True)
    refused = [each for each in found if isinstance(each, EdgedError)]
    assert {each.code for each in refused} == {Code.OVERLOADED}
    assert len(refused) == 100 - 64


async def test_the_daemons_end_ends_orders(bench: Bench) -> None:
    await bench.begin()
    bench.residency.know(bench.resident(2))
    order = asyncio.create_task(bench.repository.load("neg", 2))
    await asyncio.sleep(0)
    await bench.repository.stop()
    with pytest.raises(asyncio.CancelledError):
        await order
