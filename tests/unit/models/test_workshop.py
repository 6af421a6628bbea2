"""What is built, for what, and when it is built again. The engine is the test's own."""

import asyncio
import hashlib
from pathlib import Path

import msgspec
import pytest
from support.standins import manifest

from edged.bundle.manifest import Options
from edged.changes import Changes
from edged.errors import Code, EdgedError
from edged.events import EventLog
from edged.models.cache import Cache
from edged.models.workshop import Platform, Workshop

PLATFORM = Platform({"openvino": "2026.4"}, "nvidia 1.0 debian 12", frozenset({"avx2", "sse"}))


def bundle(*names, revision=1, runtime="openvino", **fields):
    """A bundle of derived variants."""
    made = manifest(revision=revision, variants=names or ("best",))
    variants = [msgspec.structs.replace(each, runtime=runtime, derived=True, **fields) for each in made.variants]
    return msgspec.structs.replace(made, variants=tuple(variants))


class Engine:
    """Writes what it is told, and counts."""

    def __init__(self):
        self.content = b"built"
        self.times = 0
        self.at_once = 0
        self.most_at_once = 0
        self.error = None

    async def build(self, path: Path, most_bytes: int) -> None:
        self.times += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.error:
            raise self.error
        path.write_bytes(self.content[:most_bytes])  # noqa: ASYNC240 - some bytes


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def events():
    return EventLog(100)


@pytest.fixture
def workshop(tmp_path, events):
    return Workshop(Cache(tmp_path / "derived", 1000), PLATFORM, events, Changes())


async def take(workshop, engine, of):
    return await workshop.take(of, of.variants[0], engine.build)


async def test_it_is_built_once(workshop, engine, events, tmp_path):
    await workshop.open()
    one = bundle()
    assert "not built yet" in workshop.lacks(one, one.variants[0])
    derived = await take(workshop, engine, one)
    assert workshop.lacks(one, one.variants[0]) == ""
    assert await take(workshop, engine, one) == derived
    assert engine.times == 1
    assert derived.file.sha256 == hashlib.sha256(b"built").hexdigest()
    assert (Path(derived.folder) / derived.file.path).read_bytes() == b"built"
    again = Workshop(Cache(tmp_path / "derived", 1000), PLATFORM)
    assert again.lacks(one, one.variants[0])
    await again.open()
    assert await take(again, engine, one) == derived
    assert engine.times == 1
    assert [event.code for event in events.after(0)] == ["variant_built"]


def test_what_is_not_derived_lacks_nothing(workshop):
    one = manifest()
    assert [workshop.lacks(one, variant) for variant in one.variants] == ["", ""]


@pytest.mark.parametrize(
    "platform",
    [
        Platform({"openvino": "2026.5"}, PLATFORM.system, PLATFORM.instruction_sets),
        Platform(PLATFORM.runtimes, "nvidia 1.1 debian 12", PLATFORM.instruction_sets),
        Platform(PLATFORM.runtimes, PLATFORM.system, frozenset({"avx2", "avx512f", "sse"})),
    ],
    ids=["engine", "system", "processor"],
)
async def test_another_device_has_it_built_again(workshop, engine, tmp_path, platform):
    one = bundle()
    await take(workshop, engine, one)
    other = Workshop(Cache(tmp_path / "derived", 1000), platform)
    await other.open()
    assert other.lacks(one, one.variants[0])
    await take(other, engine, one)
    assert engine.times == 2


async def test_another_file_or_option_is_another_thing_and_another_revision_is_not(workshop, engine):
    one = bundle()
    await take(workshop, engine, one)
    again = bundle(revision=2)
    assert not workshop.lacks(again, again.variants[0])
    half = bundle(options=Options(precision="fp16"))
    assert workshop.lacks(half, half.variants[0])
    (file,) = one.files
    changed = msgspec.structs.replace(one, files=(msgspec.structs.replace(file, sha256="1" * 64),))
    assert workshop.lacks(changed, changed.variants[0])


@pytest.mark.parametrize(("runtime", "is_another"), [("openvino", False), ("tensorrt", True)])
async def test_other_sizes_and_gpus_are_another_thing_where_the_engine_builds_for_them(
    workshop, engine, tmp_path, runtime, is_another
):
    one = bundle(runtime=runtime)
    await take(workshop, engine, one)
    larger = msgspec.structs.replace(one, max_batch_size=one.max_batch_size + 1)
    (first, *others) = one.inputs
    wider = msgspec.structs.replace(first, shape=(*first.shape[:-1], first.shape[-1] + 1))
    for changed in (larger, msgspec.structs.replace(one, inputs=(wider, *others))):
        assert bool(workshop.lacks(changed, changed.variants[0])) is is_another
    there = Platform(PLATFORM.runtimes, PLATFORM.system, PLATFORM.instruction_sets, ("NVIDIA L4", ""))
    other = Workshop(Cache(tmp_path / "derived", 1000), there)
    await other.open()
    assert bool(other.lacks(one, one.variants[0])) is is_another


async def test_one_thing_is_built_at_a_time_and_no_thing_twice(workshop, engine):
    one, other = bundle(), bundle(options=Options(device="GPU"))
    await asyncio.gather(*(take(workshop, engine, of) for of in (one, other, one, other)))
    assert (engine.times, engine.most_at_once) == (2, 1)
    assert workshop.wanted == 0


@pytest.mark.parametrize("error", [EdgedError(Code.WORKER_HANG, "it took too long"), OSError("no process")])
async def test_what_cannot_be_built_is_told_and_leaves_nothing(workshop, engine, events, tmp_path, error):
    engine.error = error
    one = bundle()
    with pytest.raises(type(error)):
        await take(workshop, engine, one)
    assert workshop.lacks(one, one.variants[0])
    assert workshop.wanted == 0
    (event,) = events.after(0)
    assert (event.code, event.details["variant"]) == ("build_failed", "best")
    assert event.details["reason"] == (error.code if isinstance(error, EdgedError) else "load_failed")
    assert list((tmp_path / "derived").iterdir()) == []
    engine.error = None
    await take(workshop, engine, one)


async def test_what_is_spoiled_is_forgotten_and_worth_while_once(workshop, engine, events, tmp_path):
    one = bundle()
    await take(workshop, engine, one)
    why = EdgedError(Code.DERIVED_UNUSABLE, "it is damaged")
    assert await workshop.spoil(one, one.variants[0], why)
    assert workshop.lacks(one, one.variants[0])
    assert list((tmp_path / "derived").iterdir()) == []
    await take(workshop, engine, one)
    assert not await workshop.spoil(one, one.variants[0], why)
    assert [event.code for event in events.after(0)] == ["variant_built", "derived_unusable"] * 2


async def test_what_is_damaged_is_found_before_a_trial(workshop, engine):
    one = bundle()
    await workshop.check(one, one.variants[0])
    derived = await take(workshop, engine, one)
    await workshop.check(one, one.variants[0])
    assert not workshop.lacks(one, one.variants[0])
    file = Path(derived.folder) / derived.file.path
    file.chmod(0o600)
    file.write_bytes(b"built!")
    await workshop.check(one, one.variants[0])
    assert workshop.lacks(one, one.variants[0])


async def test_what_made_room_is_missing_at_once(tmp_path, engine):
    one, other = bundle(), bundle(options=Options(device="GPU"))
    engine.content = b"x" * 600
    used = [one]
    workshop = Workshop(Cache(tmp_path / "derived", 1000), PLATFORM, in_use=lambda: used)
    await take(workshop, engine, one)
    used.clear()
    await take(workshop, engine, other)
    assert workshop.lacks(one, one.variants[0])
    assert not workshop.lacks(other, other.variants[0])


async def test_a_cache_that_cannot_be_read_is_told(tmp_path, events):
    class Unreadable(Cache):
        def look(self):
            raise PermissionError(13, "Permission denied")

    workshop = Workshop(Unreadable(tmp_path / "derived", 1000), PLATFORM, events)
    await workshop.open()
    (event,) = events.after(0)
    assert (event.code, event.subject) == ("not_permitted", "cache")
    assert "Permission denied" in event.message
