"""Two downloads that there is room for one of: neither takes what the other has fetched again and again."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
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
from edged.update.line import Download, line, stand_in_line
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
        self.chunks_a_time = chunks_a_time
        self.lacks: set[str] = set()
        """Models of which the last half is not there, and never will be."""
        self.away = False
        """It does not even give a manifest."""
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
        if self.away:
            raise EdgedError(Code.DOWNLOAD_FAILED, "it cannot be reached")
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
            if given == self.chunks_a_time:
                raise EdgedError(Code.DOWNLOAD_FAILED, "the link gives no more today")
            if order.model in self.lacks and 2 * places[digest] >= manifest.files[0].size:
                raise EdgedError(Code.DOWNLOAD_FAILED, "it is not there")
            given += 1
            self.fetched[order.model] += 1
            return self.contents[order.model][places[digest] :][:length]

        Assembly(order.staging, manifest, lambda _: Path("/nothing"), fetch, Space(room=order.room_bytes)).run(())


class Device:
    """Two models that are fetched one after the other, each given up at the first failure until the next look."""

    def __init__(self, folder: Path, repository: Metered, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(policy, "FETCH_ATTEMPTS", 1)
        self.repository = repository
        self.shop = make_shop(folder, fetcher=repository)
        self.shop.library.store.quota_bytes = ROOM_CHUNKS * CHUNK_BYTES + CHUNK_BYTES // 2  # and the manifests
        self._stages: dict[str, Stages] = {}
        self.states: dict[str, State] = {}
        for model in repository.contents:
            self.states[model] = self.shop.ledger.journal.states().get(model, State(model=model))
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

    async def look_at_all(self, looks: int) -> set[str]:
        """So many looks, each of which tries what is not whole yet; gives what is at last. It makes room for others."""
        whole = set[str]()
        for _ in range(looks):
            for model in sorted(self.states.keys() - whole):
                if not await self.look(model):
                    whole.add(model)
                    self.shop.library.store.quota_bytes += CHUNKS * CHUNK_BYTES
        return whole

    def step(self, model: str, happened: Happened) -> None:
        """Something happens to its update."""
        before = self.states[model]
        after, _ = step(before, happened)
        self.states[model] = after
        self.shop.ledger.journal.record(after, row(model, before, happened.event, after))


def row(model: str, before: State, event: Event, after: State) -> Transition:
    return Transition(at=NOW, model=model, revision=1, before=before.phase, event=event, after=after.phase)


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


class TestOneThatNeverEnds:
    async def test_holds_nobody_up_for_ever(self, tmp_path: Path, monkeypatch):
        repository = Metered("ab", 2)
        repository.lacks = {"a"}
        device = Device(tmp_path, repository, monkeypatch)
        assert await device.look_at_all(CHUNKS) == {"b"}
        assert repository.fetched["b"] == CHUNKS
        await device.shop.ledger.close()

    async def test_has_its_turn_once_the_other_has_come(self, tmp_path: Path, monkeypatch):
        repository = Metered("ab", 2)
        repository.lacks = {"a"}
        device = Device(tmp_path, repository, monkeypatch)
        assert await device.look_at_all(CHUNKS) == {"b"}
        repository.lacks = set()
        assert await device.look_at_all(CHUNKS) >= {"a"}
        await device.shop.ledger.close()

    async def test_stands_behind_over_a_restart_too(self, tmp_path: Path, monkeypatch):
        repository = Metered("ab", 2)
        repository.lacks = {"a"}
        device = Device(tmp_path, repository, monkeypatch)
        for _ in range(CHUNKS):
            if not repository.fetched["b"]:
                await device.look_at_all(1)
        await device.shop.ledger.close()
        device = Device(tmp_path, repository, monkeypatch)
        why = await device.look("a")
        assert "it waits for room that model b revision 1 takes, whose download comes first" in why
        await device.shop.ledger.close()

    async def test_that_another_revision_is_wanted_of_has_its_place_again(self, tmp_path: Path, monkeypatch):
        device = Device(tmp_path, Metered("ab", 0), monkeypatch)
        for _ in range(3):
            await device.look("a")
        await device.look("b")
        assert (await stand_in_line(device.shop, "b")).ahead == ()
        device.states["a"] = State(model="a", phase=Phase.FETCHING, target=Ref(2, ""))
        device.shop.ledger.journal.record(
            device.states["a"], row("a", State(model="a"), Event.WANTED, device.states["a"])
        )
        store, manifest = device.shop.library.store, device.repository.manifest("a")
        make_folder(store.staging("a", 2))
        durable.write(store.staging("a", 2) / MANIFEST_NAME, encode(msgspec.structs.replace(manifest, revision=2)))
        assert [each.key for each in (await stand_in_line(device.shop, "b")).ahead] == [("a", 2)]
        await device.shop.ledger.close()


class TestARepositoryThatIsAway:
    async def test_costs_nobody_what_has_come(self, tmp_path: Path, monkeypatch):
        repository = Metered("ab", 2)
        device = Device(tmp_path, repository, monkeypatch)
        await device.look("a")
        repository.away = True
        assert await device.look_at_all(CHUNKS) == set()
        repository.away = False
        assert await device.look_at_all(3 * CHUNKS) == {"a", "b"}
        assert repository.fetched == {"a": CHUNKS, "b": CHUNKS}
        await device.shop.ledger.close()

    @pytest.mark.parametrize("away", [1, 2, 5])
    async def test_but_for_its_manifests_now_and_again_keeps_nobody_from_coming(
        self, tmp_path: Path, monkeypatch, away: int
    ):
        repository = Metered("ab", 2)
        device = Device(tmp_path, repository, monkeypatch)
        whole = set[str]()
        for _ in range(4 * CHUNKS):
            for repository.chunks_a_time in (2, *(away * [0])):
                whole |= await device.look_at_all(1) if whole != {"a", "b"} else set()
        assert whole == {"a", "b"}
        await device.shop.ledger.close()


def test_however_a_link_comes_and_goes_two_take_each_others_part_seldom():
    """The most of all courses that tries can take, of which each brings something or nothing where it may begin."""
    start, most = Two(), 32
    reached = {start: 0}
    for count in range(1, most + 1):
        taken: dict[Two, int] = {}
        for two, times in reached.items():
            for after, more in (*two.tries(0), *two.tries(1)):
                taken[after] = max(taken.get(after, 0), times + more)
        reached = taken
        assert max(reached.values()) <= 2 * math.log2(count)
    assert max(reached.values()) > 2, "it does happen"


class Two(msgspec.Struct, frozen=True):
    """Two downloads of which one fits: fruitless tries and chunks of each; no chunks: not even its manifest is here."""

    fruitless: tuple[int, int] = (0, 0)
    chunks: tuple[int | None, int | None] = (None, None)

    def tries(self, this: int) -> Iterator[tuple[Two, int]]:
        """What may come of the next try of one: something, or nothing; and whether it took what the other had."""
        chunks, other = list(self.chunks), 1 - this
        chunks[this], had = chunks[this] or 0, chunks[other]
        lacks = None if had is None else CHUNKS - had
        one = Download(("ab"[other], 1), had or 0, lacks, self.fruitless[other])
        if line("ab"[this], [one], CHUNKS, self.fruitless[this]).ahead:
            yield msgspec.structs.replace(self, chunks=tuple(chunks)), 0
            return
        chunks[other] = None if had else had
        fruitless = list(self.fruitless)
        fruitless[this] += 1
        nothing = Two(tuple(fruitless), tuple(chunks))
        fruitless[this], chunks[this] = 0, 1
        yield Two(tuple(fruitless), tuple(chunks)), bool(had)
        yield nothing, bool(had)


def test_a_link_that_gives_each_a_little_and_then_nothing_has_them_take_turns_ever_later():
    two, times, count = Two(), 0, 2000
    for each in range(count):
        begun = two.chunks[each % 2]
        something, *nothing = two.tries(each % 2)
        two, more = nothing[0] if begun and nothing else something
        times += more
    assert 2 < times <= 2 * math.log2(count)


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
