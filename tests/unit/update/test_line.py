"""Two downloads that there is room for one of: neither takes what the other has fetched again and again."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.courses import NOW, make_shop

from edged import durable
from edged.bundle.manifest import MANIFEST_NAME, Chunk, File, Manifest, Variant, encode
from edged.errors import Code, EdgedError
from edged.models.files import make_folder
from edged.types import Datatype, TensorSpec
from edged.update import policy
from edged.update.assemble import Assembly, Space
from edged.update.collecting import collect
from edged.update.fetcher import Order
from edged.update.line import Download, line
from edged.update.machine import Event, Happened, Phase, Ref, State, step
from edged.update.reasons import Reason
from edged.update.records import Transition
from edged.update.stages import Stages

CHUNK_BYTES, CHUNKS = 2**16, 8
ROOM_CHUNKS = 12


class Metered:
    """A repository of one revision of each model, over a link that gives a few chunks at a time and then no more."""

    def __init__(self, models: str, chunks_a_time: int) -> None:
        self.contents = {model: random.Random(model).randbytes(CHUNKS * CHUNK_BYTES) for model in models}
        self.fetched: dict[str, int] = dict.fromkeys(models, 0)
        self._most = chunks_a_time
        self.asked: Callable[[str], None] = lambda _: None
        """Is told of each model whose manifest is asked for."""

    def manifest(self, model: str) -> Manifest:
        """As it is published."""
        content, tensor = self.contents[model], (TensorSpec("x", Datatype.FP32, (-1,)),)
        parts = [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)]
        chunks = [
            Chunk(offset=number * CHUNK_BYTES, length=CHUNK_BYTES, sha256=hashlib.sha256(part).hexdigest())
            for number, part in enumerate(parts)
        ]
        sha256 = hashlib.sha256(content).hexdigest()
        file = File(path="model.onnx", size=len(content), sha256=sha256, chunks=tuple(chunks))
        variant = Variant(name="cpu", runtime="onnxruntime", file=file.path)
        return Manifest(name=model, revision=1, inputs=tensor, outputs=tensor, variants=(variant,), files=(file,))

    async def bring_manifest(self, _: object, model: str, __: int, into: Path, *___: object) -> Manifest:
        """Comes at once."""
        self.asked(model)
        make_folder(into)
        durable.write(into / MANIFEST_NAME, encode(self.manifest(model)))
        return self.manifest(model)

    async def bring_revision(self, _: object, order: Order, __: object) -> None:
        """As the fetcher puts it together."""
        given, manifest = 0, self.manifest(order.model)
        places = {chunk.sha256: chunk.offset for chunk in manifest.files[0].chunks}

        def fetch(digest: str, length: int) -> bytes:
            nonlocal given
            if given == self._most:
                raise EdgedError(Code.DOWNLOAD_FAILED, "the link gives no more today")
            given += 1
            self.fetched[order.model] += 1
            return self.contents[order.model][places[digest] :][:length]

        Assembly(order.staging, manifest, lambda _: Path("/nothing"), fetch, Space(room=order.room_bytes)).run(())


class Device:
    """Two models that are fetched one after the other, each given up at the first failure until the next look."""

    def __init__(self, folder: Path, repository: Metered, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(policy, "FETCH_ATTEMPTS", 1)
        self.shop = make_shop(folder, fetcher=repository)
        self.shop.library.store.quota_bytes = ROOM_CHUNKS * CHUNK_BYTES + CHUNK_BYTES // 2  # and the manifests
        self._stages: dict[str, Stages] = {}
        self.states: dict[str, State] = {}
        for model in repository.contents:
            self.states[model] = State(model=model)
            terms = SimpleNamespace(origin=lambda: None, told=None)
            self._stages[model] = Stages(self.shop, terms, lambda _: None)  # type: ignore[arg-type]
            monkeypatch.setattr(self._stages[model], "_foresee", self._foresee)

    async def _foresee(self, *_: object) -> str:
        return ""

    async def look(self, model: str) -> str:
        """Tries to fetch it; gives why it was not."""
        self.step(model, Happened(Event.WANTED, target=Ref(1, "")))
        try:
            await self._stages[model].fetch(self.states[model])
        except EdgedError as error:
            self.step(model, Happened(Event.FAILED, str(error), Reason(error.code.value)))
            return f"{error.code.value}: {error}"
        return ""

    def step(self, model: str, happened: Happened) -> None:
        """Something happens to its update."""
        before = self.states[model]
        after, _ = step(before, happened)
        self.states[model] = after
        row = Transition(at=NOW, model=model, revision=1, before=before.phase, event=happened.event, after=after.phase)
        self.shop.ledger.journal.record(after, row)


@pytest.mark.parametrize("order", ["ab", "ba"])
async def test_one_of_two_comes_and_the_other_waits_for_its_room(tmp_path: Path, monkeypatch, order: str):
    repository = Metered("ab", 2)
    device = Device(tmp_path, repository, monkeypatch)
    why = {"a": "not looked", "b": "not looked"}
    for _ in range(CHUNKS):
        for model in order:
            if why[model]:
                why[model] = await device.look(model)
    assert not why["a"]
    assert "model b" not in why["b"]
    assert "storage_full" in why["b"]
    lost = repository.fetched["b"]
    assert repository.fetched == {"a": CHUNKS, "b": lost}
    assert lost <= 2, "what it had before the other one began"
    await device.shop.ledger.close()


async def test_who_waits_says_for_what(tmp_path: Path, monkeypatch):
    repository = Metered("ab", 2)
    device = Device(tmp_path, repository, monkeypatch)
    await device.look("a")
    why = await device.look("b")
    assert "storage_full" in why
    assert "it waits for room that model a revision 1 takes, whose download comes first" in why
    assert repository.fetched["b"] == 0
    await device.shop.ledger.close()


async def test_what_two_have_room_for_comes_side_by_side(tmp_path: Path, monkeypatch):
    repository = Metered("ab", 2)
    device = Device(tmp_path, repository, monkeypatch)
    device.shop.library.store.quota_bytes *= 2
    for _ in range(CHUNKS // 2):
        for model in "ab":
            why = await device.look(model)
    assert not why
    assert repository.fetched == {"a": CHUNKS, "b": CHUNKS}
    await device.shop.ledger.close()


A, B, D = (Download((name, 1), 10, 90) for name in "abd")


class TestALine:
    def test_goes_by_name_as_far_as_there_is_room(self):
        found = line("c", [D, B, A], 150)
        assert (found.ahead, found.behind, found.lacking_bytes) == ((A,), (B, D), 90)

    def test_has_nobody_ahead_who_would_not_fit_alone(self):
        assert line("c", [A], 99).behind == (A,)
        assert line("c", [A], 100).ahead == (A,)

    def test_has_nobody_ahead_of_whom_nothing_is_known(self):
        unknown = Download(("a", 1), 10, None)
        assert line("c", [unknown], 1000).behind == (unknown,)

    @pytest.mark.parametrize("name", ["a", "d"])
    def test_takes_nothing_that_is_whole(self, name: str):
        whole = Download((name, 1), 100, 0)
        assert whole not in line("c", [whole], 1000).behind


async def test_a_finished_download_that_is_not_journaled_yet_is_not_taken(tmp_path: Path, monkeypatch):
    """Its journal still says fetching: the row of what came of it follows."""
    repository = Metered("ab", CHUNKS)
    device = Device(tmp_path, repository, monkeypatch)
    assert not await device.look("b")
    assert "storage_full" in await device.look("a")
    assert device.states["b"].phase is Phase.FETCHING
    store = device.shop.library.store
    assert store.lacking_bytes("b", 1) == 0
    assert store.take_in(store.staging("b", 1)).name == "b"
    await device.shop.ledger.close()


# How an update goes on from its download until it serves.
ON = [Event.FETCHED, Event.TAKEN_IN, Event.PASSED, Event.PASSED, Event.PASSED, Event.SETTLED]
PHASES = [Phase.FETCHING, Phase.STAGED, Phase.TRIAL, Phase.SHADOW, Phase.SOAKING, Phase.COMMITTED, Phase.IDLE]


@pytest.mark.parametrize("so_far", range(len(ON) + 1))
async def test_who_finds_no_room_takes_no_revision_that_is_installed(tmp_path: Path, monkeypatch, so_far: int):
    """It was here already, as one that is gone back to: its update says fetching, and goes on while others look."""
    repository = Metered("ab", CHUNKS)
    device = Device(tmp_path, repository, monkeypatch)
    assert not await device.look("b")
    store = device.shop.library.store
    manifest = store.take_in(store.staging("b", 1))

    def go_on(_: str) -> None:
        repository.asked = lambda _: None
        for event in ON[:so_far]:
            device.step("b", Happened(event))

    repository.asked = go_on
    assert "storage_full" in await device.look("a")
    assert device.states["b"].phase is PHASES[so_far]
    assert store.revisions("b") == [1]
    assert (store.path("b", 1) / manifest.files[0].path).read_bytes() == repository.contents["b"]
    await device.shop.ledger.close()


@pytest.mark.parametrize("so_far", range(len(ON) + 1))
async def test_a_collection_gives_up_what_is_fetched_and_nothing_else(tmp_path: Path, monkeypatch, so_far: int):
    device = Device(tmp_path, Metered("b", CHUNKS), monkeypatch)
    await device.look("b")
    for event in ON[:so_far]:
        device.step("b", Happened(event))
    store = device.shop.library.store
    await collect(device.shop, [("b", 1)])
    assert store.staging("b", 1).exists() is (so_far > 0)
    await device.shop.ledger.close()
