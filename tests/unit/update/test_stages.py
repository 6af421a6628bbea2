"""Stages where memory holds one of two revisions, and where nothing is left to go back to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import msgspec
import pytest
from support.courses import NOW, ONE, TWO, Conditions, make_shop
from support.polling import until_async

from edged.bundle.manifest import Requires, Variant
from edged.errors import Code, EdgedError
from edged.models.choosing import Choice
from edged.models.routes import Route
from edged.system.hardware import Hardware
from edged.update import swap, trial
from edged.update.course import Course
from edged.update.fetcher import Order
from edged.update.machine import Event, Happened, Phase, State
from edged.update.reasons import Reason
from edged.update.records import Transition
from edged.update.shadow import Shadow
from edged.update.stages import Stages

SHORT = EdgedError(Code.MEMORY_SHORT, "100 MiB are missing")
TRYING = State(model="m", phase=Phase.TRIAL, serving=ONE, target=TWO, swaps="one has room")


class Swapping:
    """Stages of a swap, with a new revision that finds no room; what was done is kept."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shop = make_shop(folder)
        self.stages = Stages(self.shop, Conditions(), lambda _: None)  # type: ignore[arg-type]
        self.did: list[str] = []
        self.foreseen: EdgedError | None = None
        monkeypatch.setattr(self.stages, "make", self._make)
        monkeypatch.setattr(self.stages, "resident", lambda _, ref: SimpleNamespace(revision=ref.revision))
        monkeypatch.setattr(self.stages, "swap_back", self._swap_back)
        monkeypatch.setattr(self.stages, "_try", self._try)
        monkeypatch.setattr(swap, "reason", self._reason)
        monkeypatch.setattr(swap, "step_aside", self._step_aside)

    async def _make(self, *_: object) -> object:
        return SimpleNamespace(revision=2, choice=SimpleNamespace(runnable=[]))

    async def _reason(self, *_: object) -> str:
        if self.foreseen:
            raise self.foreseen
        return "one has room"

    async def _step_aside(self, *_: object) -> None:
        self.did.append("step aside")

    async def _swap_back(self, _: State) -> None:
        self.did.append("swap back")

    async def _try(self, _: object) -> dict[str, object]:
        raise SHORT


class TestASwap:
    async def test_is_not_begun_where_the_room_has_been_taken_meanwhile(self, tmp_path: Path, monkeypatch):
        swapping = Swapping(tmp_path, monkeypatch)
        swapping.foreseen = SHORT
        with pytest.raises(EdgedError, match="are missing") as raised:
            await swapping.stages.swap(TRYING)
        assert raised.value.code is Code.MEMORY_SHORT
        assert swapping.did == []
        await swapping.shop.ledger.close()

    async def test_blames_the_revision_when_there_was_no_room_for_the_second_time(self, tmp_path: Path, monkeypatch):
        swapping = Swapping(tmp_path, monkeypatch)
        with pytest.raises(EdgedError, match="are missing"):
            await swapping.stages.swap(TRYING)
        with pytest.raises(trial.FailedError, match="even alone") as raised:
            await swapping.stages.swap(TRYING)
        assert raised.value.reason is Reason.MEMORY_BUDGET
        assert swapping.did == ["step aside", "swap back"] * 2
        await swapping.shop.ledger.close()


class Unsound(Swapping):
    """Stages of a revision of which one variant runs on an accelerator that has failed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
        super().__init__(folder, monkeypatch)
        runnable = [Variant(name="cpu", runtime="r", file="f")]
        runnable.insert(place, Variant(name="tpu", runtime="r", file="f", requires=Requires(accelerator="edgetpu")))
        self._resident = SimpleNamespace(revision=2, choice=SimpleNamespace(runnable=runnable))
        monkeypatch.setattr(self.stages, "_check", lambda *_: None)
        self.shop.residency.avoid({"edgetpu": "accelerator edgetpu has failed: its device node is gone"})

    async def _make(self, *_: object) -> object:
        return self._resident

    async def _reason(self, *_: object) -> str:
        return ""

    async def _try(self, _: object) -> dict[str, object]:
        self.did.append("try")
        return {}


@pytest.mark.parametrize("place", [0, 1])
class TestATrialOnAnAcceleratorThatHasFailed:
    async def test_waits_and_is_not_held_against_the_revision(self, tmp_path: Path, monkeypatch, place: int):
        unsound = Unsound(tmp_path, monkeypatch, place)
        state = msgspec.structs.replace(TRYING, swaps="")
        course = Course(state, unsound.shop, Conditions())  # type: ignore[arg-type]
        course.stages = unsound.stages
        running = asyncio.create_task(course.run())
        course.post(Happened(Event.STARTED))
        await until_async(lambda: course.state.deferred, "it is put off")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert "variant tpu of revision 2 cannot be tried: accelerator edgetpu has failed" in course.state.deferred
        assert (course.state.phase, unsound.did) == (Phase.TRIAL, [])
        unsound.shop.residency.avoid({})
        assert (await unsound.stages.attempt(state)).happened.event is Event.PASSED
        await unsound.shop.ledger.close()

    async def test_has_nobody_step_aside_for_it(self, tmp_path: Path, monkeypatch, place: int):
        unsound = Unsound(tmp_path, monkeypatch, place)
        with pytest.raises(EdgedError, match="variant tpu of revision 2 cannot be tried"):
            await unsound.stages.swap(TRYING)
        assert unsound.did == []
        unsound.shop.residency.avoid({})
        await unsound.stages.swap(TRYING)
        assert unsound.did == ["step aside", "try"]
        await unsound.shop.ledger.close()


GONE = {"edgetpu": "accelerator edgetpu has failed: its device node is gone"}


@pytest.mark.parametrize("place", [0, 1])
async def test_a_spare_waits_for_no_accelerator_that_is_gone_and_the_evidence_says_so(
    tmp_path: Path, monkeypatch, place: int
):
    variants = [Variant(name="cpu", runtime="r", file="f")]
    variants.insert(place, Variant(name="tpu", runtime="r", file="f", requires=Requires(accelerator="edgetpu")))
    manifest: Any = SimpleNamespace(variants=variants)
    choice = Choice(manifest, Hardware("generic", accelerators=frozenset({"edgetpu"})), {"r": "1"}, lambda: None)
    resident: Any = SimpleNamespace(
        name="m", revision=2, choice=choice, leaving=False, resting=False, manifest=manifest
    )
    shop = make_shop(tmp_path)
    stages = Stages(shop, Conditions(), lambda _: None)  # type: ignore[arg-type]

    async def goes_well(*_: object, **__: object) -> dict[str, object]:
        return {}

    for name in ("try_spares", "build_best", "wait_loaded", "try_best"):
        monkeypatch.setattr(trial, name, goes_well)
    monkeypatch.setattr(shop.residency, "add_on_trial", lambda _: None)
    shop.residency.avoid(GONE)
    with pytest.raises(EdgedError, match="tpu of revision 2 cannot be tried"):  # it may be back at once
        trial.check_accelerators(resident, shop.residency)
    shop.residency.avoid(GONE, ["edgetpu"])
    if place == 0:
        with pytest.raises(EdgedError, match="tpu of revision 2 cannot be tried"):
            trial.check_accelerators(resident, shop.residency)
    else:
        trial.check_accelerators(resident, shop.residency)
        assert (await stages._try(resident))[
            "not_tried"
        ] == f"tpu: {EdgedError(Code.INCOMPATIBLE_HARDWARE, GONE['edgetpu'])}"
        shop.residency.avoid({})
        assert [each.name for each in choice.runnable] == ["cpu"], "it has shown nothing, though it is back"
    await shop.ledger.close()


@pytest.mark.parametrize("at", ["try_spares", "build_best", "wait_loaded", "try_best"])
@pytest.mark.parametrize("fails", [True, False])
async def test_what_an_accelerator_did_that_failed_during_the_trial_is_not_held_against_the_revision(
    tmp_path: Path, monkeypatch, at: str, fails: bool
):
    """Though it is not among the variants any more; and it is tried by a resident that has them all again."""
    variants = [
        Variant(name="cpu", runtime="r", file="f"),
        Variant(name="tpu", runtime="r", file="f", requires=Requires(accelerator="edgetpu")),
    ]
    choice = SimpleNamespace(runnable=variants, objections="")
    resident: Any = SimpleNamespace(name="m", revision=2, choice=choice, leaving=False, resting=False, manifest=None)
    shop = make_shop(tmp_path)
    monkeypatch.setattr(shop.residency, "add_on_trial", lambda _: None)
    stages, ended = Stages(shop, Conditions(), lambda _: None), []  # type: ignore[arg-type]

    async def goes_well(*_: object, **__: object) -> dict[str, object]:
        return {}

    async def goes_wrong(*_: object, **__: object) -> NoReturn:
        if fails:
            shop.residency.avoid({"edgetpu": "accelerator edgetpu has failed: its device node is gone"})
        choice.runnable = variants[:1]
        raise trial.FailedError(Reason.WORKER_HANG, "it hangs", "tpu")

    async def end(*asked: object) -> None:
        ended.append(asked)

    for name in ("try_spares", "build_best", "wait_loaded", "try_best"):
        monkeypatch.setattr(trial, name, goes_wrong if name == at else goes_well)
    monkeypatch.setattr(stages, "end", end)
    with pytest.raises(EdgedError if fails else trial.FailedError) as raised:
        await stages._try(resident)
    assert ended == ([("m", 2)] if fails else [])
    if fails:
        assert raised.value.code is Code.MODEL_UNAVAILABLE
    await shop.ledger.close()


@pytest.mark.parametrize("resting", [True, False])
async def test_a_worker_that_made_room_for_another_on_its_trial_is_not_held_against_the_revision(
    tmp_path: Path, monkeypatch, resting: bool
):
    choice = SimpleNamespace(runnable=[Variant(name="cpu", runtime="r", file="f")], objections="")
    resident: Any = SimpleNamespace(
        name="m", revision=2, choice=choice, leaving=False, resting=False, reason="it made room", manifest=None
    )
    shop = make_shop(tmp_path)
    monkeypatch.setattr(shop.residency, "add_on_trial", lambda _: None)

    async def goes_well(*_: object, **__: object) -> dict[str, object]:
        return {}

    async def goes_wrong(*_: object, **__: object) -> NoReturn:
        resident.resting = resting
        raise trial.FailedError(Reason.CRASH_LOOP, "its worker is gone", "cpu")

    for name in ("try_spares", "build_best", "wait_loaded"):
        monkeypatch.setattr(trial, name, goes_well)
    monkeypatch.setattr(trial, "try_best", goes_wrong)
    stages = Stages(shop, Conditions(), lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(EdgedError if resting else trial.FailedError, match="it made room" if resting else "is gone"):
        await stages._try(resident)
    await shop.ledger.close()


@pytest.mark.parametrize("resting", [True, False])
async def test_a_worker_that_made_room_for_another_while_it_was_compared_is_tried_again(
    tmp_path: Path, monkeypatch, resting: bool
):
    manifest = SimpleNamespace(acceptance=SimpleNamespace(shadow=SimpleNamespace(samples=9), goldens=()), outputs=())
    choice = SimpleNamespace(runnable=[Variant(name="cpu", runtime="r", file="f")])
    resident: Any = SimpleNamespace(
        ready=True, choice=choice, worker=object(), leaving=False, resting=False, reason="made room", manifest=manifest
    )

    async def run(*_: object) -> NoReturn:
        resident.resting = resting
        raise EdgedError(Code.WORKER_CRASHED, "the worker ended before it answered")

    monkeypatch.setattr(Shadow, "run", run)
    shop = make_shop(tmp_path, traffic=SimpleNamespace(shadow=lambda *_: None))
    stages = Stages(shop, Conditions(), lambda _: None)  # type: ignore[arg-type]
    monkeypatch.setattr(stages, "resident", lambda *_: resident)
    state = State(model="m", phase=Phase.SHADOW, serving=ONE, target=TWO)
    assert (await stages.shadow(state)).happened.event is Event.RETRY
    if resting:  # as often as that is so
        assert (await stages.shadow(state)).happened.event is Event.RETRY
    else:
        with pytest.raises(trial.FailedError, match="before it answered"):
            await stages.shadow(state)
    await shop.ledger.close()


@pytest.mark.parametrize("ending", ["end", "end_trial", "settle"])
async def test_nothing_ends_what_the_route_names(tmp_path: Path, ending: str):
    shop = make_shop(tmp_path)
    source = SimpleNamespace(origin="factory")
    resident = SimpleNamespace(name="m", revision=2, begun=True, loaded=True, leaving=False, source=source)
    shop.residency._residents["m", 2] = resident
    shop.residency.routes["m"] = Route(2, (2,), (1, 2))
    stages = Stages(shop, Conditions(), lambda _: None)  # type: ignore[arg-type]
    if ending == "settle":  # a start had to fall back on what served before
        await stages.settle(State(model="m", phase=Phase.COMMITTED, serving=TWO, previous=TWO))
    elif ending == "end_trial":
        await stages.end_trial("m", 2, ONE)
    else:
        await stages.end("m", 2)
    assert shop.residency.serving() == [resident]
    await shop.ledger.close()


@pytest.mark.parametrize("expected", [True, False])
async def test_what_waits_for_one_that_is_gone_back_on_is_handed_to_the_one_before_where_that_answers(
    tmp_path: Path, expected: bool
):
    """Where it does not, as when an administrator has unloaded it, the new one answers what it has before it ends."""
    handed_on: list[object] = []
    shop = make_shop(tmp_path, traffic=SimpleNamespace(hand_on=handed_on.append))
    old, new = (
        SimpleNamespace(name="m", revision=revision, begun=True, loaded=True, leaving=False, expected=expected)
        for revision in (1, 2)
    )
    shop.residency._residents.update({("m", 1): old, ("m", 2): new})
    shop.residency.routes["m"] = Route(2, (1, 2), (1, 2), fallback=1)
    soaking = State(model="m", phase=Phase.SOAKING, serving=TWO, previous=ONE, target=TWO)
    await Stages(shop, Conditions(), lambda _: None).flip_back(soaking, ONE)  # type: ignore[arg-type]
    assert shop.residency.routes["m"].serving == 1
    assert handed_on == ([new] if expected else [])
    await shop.ledger.close()


async def test_the_pause_between_two_tries_of_a_download_ends_for_somebody_who_asks(tmp_path: Path, monkeypatch):
    brought = asyncio.Event()

    async def bring_manifest(*_: object) -> None:
        brought.set()
        raise SHORT

    monkeypatch.setattr("edged.update.policy.fetch_delay_s", lambda *_: 3600.0)
    shop = make_shop(tmp_path, fetcher=SimpleNamespace(bring_manifest=bring_manifest))
    terms = SimpleNamespace(origin=lambda: None, told=None)
    stages = Stages(shop, terms, lambda _: None)  # type: ignore[arg-type]
    fetching = asyncio.create_task(stages.fetch(State(model="m", phase=Phase.FETCHING, target=TWO, attempts=1)))
    await until_async(lambda: stages._hurried._waiters, "it pauses")
    assert not brought.is_set()
    stages.hurry()
    with pytest.raises(EdgedError, match="are missing"):
        await fetching
    await shop.ledger.close()


class TestADownloadThatFindsNoRoom:
    FETCHING = State(model="m", phase=Phase.FETCHING, target=TWO)

    @contextlib.asynccontextmanager
    async def stages(self, folder: Path, monkeypatch, needs_bytes: int) -> AsyncIterator[tuple[Stages, list[int]]]:
        """A store that is full of two downloads that ended; gives also how much room each try had."""
        rooms: list[int] = []

        async def bring_manifest(*_: object) -> None:
            return None

        async def bring_revision(_: object, order: Order, __: object) -> None:
            rooms.append(order.room_bytes)
            if order.room_bytes < needs_bytes:
                raise EdgedError(Code.STORAGE_FULL, "bytes are missing")

        async def foresee(*_: object) -> str:
            return ""

        fetcher = SimpleNamespace(bring_manifest=bring_manifest, bring_revision=bring_revision)
        shop = make_shop(folder, fetcher=fetcher)
        store = shop.library.store
        for model, revision in (("kept", 1), ("unwanted", 1), ("m", TWO.revision)):
            staging = store.staging(model, revision)
            staging.mkdir(parents=True)
            (staging / "part").write_bytes(bytes(2**16))
        store.quota_bytes = store.used_bytes()
        for state in (self.FETCHING, State(model="kept", kept=ONE), State(model="unwanted")):
            row = Transition(at=NOW, model=state.model, revision=1, before="", event="", after="")
            shop.ledger.journal.record(state, row)
        stages = Stages(shop, SimpleNamespace(origin=lambda: None, told=None), lambda _: None)  # type: ignore[arg-type]
        monkeypatch.setattr(stages, "_foresee", foresee)
        yield stages, rooms
        await shop.ledger.close()

    async def test_takes_that_of_downloads_that_ended_and_goes_on_where_it_was(self, tmp_path: Path, monkeypatch):
        async with self.stages(tmp_path, monkeypatch, needs_bytes=2**17) as (stages, rooms):
            assert (await stages.fetch(self.FETCHING)).happened.event is Event.FETCHED
            store = stages._shop.library.store
            assert (rooms[0], len(rooms)) == (0, 2)
            assert store.keys() == {("m", TWO.revision)}
            assert (store.staging("m", TWO.revision) / "part").exists()

    async def test_is_put_off_where_there_is_none_even_then(self, tmp_path: Path, monkeypatch):
        async with self.stages(tmp_path, monkeypatch, needs_bytes=2**40) as (stages, rooms):
            with pytest.raises(EdgedError, match="bytes are missing") as raised:
                await stages.fetch(self.FETCHING)
            assert raised.value.code is Code.STORAGE_FULL
            assert len(rooms) == 2
