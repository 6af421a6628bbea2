"""Lighter variants beside the best, rest for what nobody asks, and room in memory, with real workers."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys

import psutil
import pytest
from sim import sysfs
from support.standins import settle

from edged.config.pressure import Pressure
from edged.errors import Code, EdgedError
from edged.models.heartbeat import beat
from edged.models.states import Lost, State
from edged.pressure.acting import Acting
from edged.pressure.room import Room
from edged.types import Level, Limits, ModelLimits

MIB = 2**20
LIGHTER = Limits(level=Level.CRITICAL, models={"m": ModelLimits(variant="lighter")})


def acting(models, idle_limit_s=60.0):
    return Acting(models.residency, models.idle_s, idle_limit_s)


@contextlib.asynccontextmanager
async def running(part):
    task = asyncio.create_task(part.run())
    try:
        yield part
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class TestTheLighterVariant:
    async def test_takes_the_place_of_the_best_which_serves_until_then(self, models):
        resident = models.add("m", best="", lighter="")
        await models.ready(resident)
        acts, first = acting(models), resident.worker
        acts.take(LIGHTER)
        assert resident.worker is first, "it serves until the other is ready"
        was_ready = []
        models_ready = asyncio.ensure_future(models.until(lambda: was_ready.append(resident.ready)))
        await models.until(lambda: resident.variant.name == "lighter")
        models_ready.cancel()
        assert all(was_ready)
        assert resident.degraded
        await models.until(lambda: first.ended.done() or resident.worker is not first)
        await asyncio.wait([first.ended])
        acts.take(Limits())
        await models.until(lambda: resident.variant.name == "best")
        down, up = models.recorded("variant_changed")
        assert down.endswith("is ready instead of best: the device's pressure is critical")
        assert up.endswith("is ready instead of lighter: nothing speaks against it any more")
        assert resident.restarts == 0

    async def test_waits_for_what_the_worker_has(self, models):
        resident = models.add("m", best="", lighter="")
        await models.ready(resident)
        first = resident.worker
        psutil.Process(first.pid).suspend()
        asked = asyncio.create_task(beat(first, resident.manifest))
        await settle()
        acting(models).take(LIGHTER)
        await models.until(lambda: resident.variant.name == "lighter")
        assert not first.ended.done()
        psutil.Process(first.pid).resume()
        assert await asked > 0
        await asyncio.wait([first.ended])

    async def test_is_not_taken_where_memory_refuses_it_and_that_is_told(self, models):
        resident = models.add("m", best="", lighter="")
        await models.ready(resident)
        first = resident.worker

        @contextlib.asynccontextmanager
        async def refuse(_):
            raise EdgedError(Code.MEMORY_SHORT, "there is none")
            yield

        models.memory.ask = refuse
        acting(models).take(LIGHTER)
        await models.until(lambda: not resident._changing and models.recorded("variant_kept"))
        assert (resident.worker, resident.variant.name, resident.ready) == (first, "best", True)
        assert models.recorded("variant_kept") == [
            "revision 1 stays with variant best; lighter does not load: there is none"
        ]

    async def test_is_asked_for_again_where_memory_refused_it(self, models):
        resident = models.add("m", best="", lighter="")
        await models.ready(resident)
        given, refusals = models.memory.ask, []

        @contextlib.asynccontextmanager
        async def refuse(_):
            refusals.append(1)
            raise EdgedError(Code.MEMORY_SHORT, "there is none")
            yield

        models.memory.ask = refuse
        acting(models).take(LIGHTER)
        async with asyncio.timeout(30):
            while len(refusals) < 3:
                await settle()
        assert len(models.recorded("variant_kept")) == 1
        models.memory.ask = given
        await models.until(lambda: resident.ready and resident.variant.name == "lighter")

    async def test_that_no_model_has_changes_nothing(self, models):
        resident = models.add("m", best="")
        await models.ready(resident)
        first = resident.worker
        acting(models).take(LIGHTER)
        await settle()
        assert (resident.worker, resident.ready) == (first, True)

    async def test_is_loaded_at_once_by_what_begins_under_pressure(self, models):
        resident = models.add("m", best="", lighter="", start=False)
        acting(models).take(LIGHTER)
        resident.start()
        await models.ready(resident)
        assert resident.variant.name == "lighter"

    async def test_is_loaded_by_what_comes_later(self, models):
        acts = acting(models)
        acts.take(LIGHTER)
        resident = models.add("m", best="", lighter="")
        acts.prefer()
        await models.ready(resident)
        assert resident.variant.name == "lighter"

    async def test_is_for_no_revision_on_trial_until_that_serves(self, models):
        resident = models.add("m", best="", lighter="", start=False)
        models.residency.add_on_trial(resident)
        acts = acting(models)
        acts.take(LIGHTER)
        await models.ready(resident)
        assert resident.choice.variant.name == resident.variant.name == "best"
        models.residency.flip("m", 1)
        acts.prefer()
        await models.until(lambda: resident.variant.name == "lighter")

    async def test_is_stopped_in_the_middle_of_its_way_and_nothing_is_left(self, models):
        resident = models.add("m", best="", lighter="")
        await models.ready(resident)
        acting(models).take(LIGHTER)
        while len(psutil.Process().children()) < 2:
            await settle()
        await resident.stop()
        assert psutil.Process().children() == []
        resident.start()
        await models.ready(resident)


class TestRest:
    async def test_is_for_those_that_nobody_asks(self, models):
        asked, idle = models.add("asked"), models.add("idle")
        await models.ready(asked, idle)
        models.idle = {"idle": 61.0}
        async with running(acting(models)) as acts:
            acts.take(Limits(level=Level.CRITICAL, unload_idle=True))
            await models.until(lambda: models.recorded("model_rests"))
            assert (idle.state, idle.worker, idle.resting) == (State.UNAVAILABLE, None, True)
            why = "nobody has asked for 61 s, and the device's pressure is critical"
            assert idle.reason == f"{why}; the next request brings it back"
            assert asked.ready
            acts.take(Limits())
            await models.ready(idle)

    async def test_of_what_made_room_for_another_outlasts_the_pressure(self, models):
        idle, minor = models.add("idle"), models.add("minor")
        await models.ready(idle, minor)
        models.idle = {"idle": 61.0}
        async with running(acting(models)) as acts:
            acts.take(Limits(level=Level.CRITICAL, unload_idle=True))
            await models.until(lambda: idle.state is State.UNAVAILABLE)
            minor.rest("it made room in memory for model 'major'")
            await models.until(lambda: minor.state is State.UNAVAILABLE)
            acts.take(Limits())
            await models.ready(idle)
            assert minor.resting
            assert minor.state is State.UNAVAILABLE

    async def test_for_room_is_not_ended_by_relief_where_it_had_rested_for_idleness(self, models):
        resident = models.add("m")
        await models.ready(resident)
        models.idle = {"m": 61.0}
        async with running(acting(models)) as acts:
            acts.take(Limits(level=Level.CRITICAL, unload_idle=True))
            await models.until(lambda: resident.state is State.UNAVAILABLE)
            models.idle = {}
            resident.wake()
            await models.ready(resident)
            resident.rest("it made room in memory for model 'major'")
            await models.until(lambda: resident.state is State.UNAVAILABLE)
            acts.take(Limits())
            await settle()
            assert resident.resting

    async def test_ends_when_somebody_asks(self, models):
        resident = models.add("m")
        await models.ready(resident)
        resident.rest("a test says so")
        await models.until(lambda: resident.resting and resident.variant is None)
        assert resident.expected
        resident.wake()
        assert resident.expected
        await models.ready(resident)

    async def test_begins_again_and_again(self, models):
        resident = models.add("m")
        for _ in range(3):
            await models.ready(resident)
            resident.rest("a test says so")
            await settle()
            resident.wake()
        await models.ready(resident)

    async def test_of_one_that_dies_before_it_can_is_nothing(self, models):
        resident = models.add("m")
        await models.ready(resident)
        resident.worker.kill()
        await asyncio.wait([resident.worker.ended])
        resident.rest("a test says so")
        await models.until(lambda: resident.restarts == 1 and resident.ready)
        assert not resident.resting


def frees(resident, device, left_mib):
    """Has it give so much memory back when it rests."""
    rest = resident.rest

    def rests(why):
        device.memory(4000, left_mib)
        return rest(why)

    resident.rest = rests


class TestRoom:
    @pytest.fixture
    def device(self, models, tmp_path):
        """A device with 4000 MiB, of which a test says how many are left; 100 MiB are kept."""
        tree = sysfs.Sysfs(tmp_path / "root")
        tree.memory(4000, 4000)
        settings = Pressure(memory_reserve_mib=100)
        room = Room(tree.root, models.residency, models.idle_s, models.events, settings)
        models.memory.ask = room.ask
        return tree

    async def test_is_made_by_what_matters_less(self, models, device):
        minor, other = models.add("minor", priority=90), models.add("other", priority=10)
        await models.ready(minor, other)
        device.memory(4000, 300)
        frees(minor, device, 350)
        major = models.add("major", priority=20, cpu="requires = { memory_mib = 201 }")
        await models.ready(major)
        assert minor.resting
        assert other.ready
        (made,) = models.recorded("memory_made")
        assert "model 'major' takes 201 MiB at its peak; 300 of 4000 MiB are left" in made
        assert "minor revision 1 made room" in made

    async def test_is_looked_for_again_when_what_was_to_make_it_has_gone(self, models, device):
        """Sizes are estimates, and a worker that is lost keeps what it had."""
        least, minor = models.add("least", priority=95), models.add("minor", priority=90)
        await models.ready(least, minor)
        device.memory(4000, 300)
        frees(minor, device, 350)
        major = models.add("major", priority=20, cpu="requires = { memory_mib = 201 }")
        await models.ready(major)
        assert (least.resting, minor.resting) == (True, True)
        first, second = models.recorded("memory_made")
        assert "least revision 1 made room" in first
        assert "300 of 4000 MiB are left" in second
        assert "minor revision 1 made room" in second

    async def test_that_nobody_has_made_in_the_end_is_refused(self, models, device):
        minor = models.add("minor", priority=90)
        await models.ready(minor)
        device.memory(4000, 300)
        major = models.add("major", priority=20, cpu="requires = { memory_mib = 201 }")
        await models.until(lambda: models.recorded(Code.MEMORY_SHORT))
        assert (minor.resting, major.ready) == (True, False)
        (told,) = models.recorded(Code.MEMORY_SHORT)
        assert "1 MiB are missing, and nothing matters less" in told

    async def test_that_cannot_be_made_is_refused_with_the_numbers_and_asked_for_again(self, models, device):
        device.memory(4000, 300)
        refused = models.add("m", cpu="requires = { memory_mib = 201 }")
        await models.until(lambda: models.recorded(Code.MEMORY_SHORT))
        assert (refused.settled, refused.ready) == (True, False)
        (told,) = models.recorded(Code.MEMORY_SHORT)
        numbers = "model 'm' takes 201 MiB at its peak; 300 of 4000 MiB are left, and 100 MiB are kept in reserve"
        assert f"{numbers}; 1 MiB are missing, and nothing matters less" in told
        device.memory(4000, 4000)
        await models.ready(refused)
        assert refused.reason == ""

    async def test_that_a_lighter_variant_needs_less_of_is_given_to_that_one_until_there_is_more(self, models, device):
        device.memory(4000, 300)
        large, small = (f"requires = {{ memory_mib = {mib} }}" for mib in (201, 200))
        resident = models.add("m", best=large, worse=large, small=small)
        await models.ready(resident)
        assert resident.variant.name == "small"
        assert "201 MiB at its peak" in resident.choice.because
        (told,) = models.recorded(Code.MEMORY_SHORT)
        assert "model 'm' takes 201 MiB" in told
        device.memory(4000, 4000)
        await models.until(lambda: resident.ready and resident.variant.name == "best")
        assert resident.choice.because == ""

    def test_that_the_settings_allow_is_shared_with_templates(self, models, tmp_path):
        settings = Pressure(memory_limit_mib=10_000, memory_reserve_mib=0)
        code = "held = bytearray(64 * 2**20); print(flush=True); input()"
        template = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            template.stdout.readline()
            left = []
            for pids in ({}, {"onnxruntime": template.pid}):
                room = Room(tmp_path, models.residency, models.idle_s, models.events, settings, pids.copy)
                left.append(room._left(*room._read(room._pids())).left_bytes)
            assert left[0] - left[1] >= 64 * MIB
        finally:
            template.communicate("", timeout=30)

    async def test_that_the_settings_allow_is_shared_with_workers_that_were_lost(self, models, tmp_path):
        settings = Pressure(memory_limit_mib=10_000, memory_reserve_mib=0)
        room = Room(tmp_path, models.residency, models.idle_s, models.events, settings)
        resident = models.add("m")
        await models.ready(resident)
        assert room._pids().count(resident.worker.pid) == 1
        worker, resident.worker = resident.worker, None
        resident.lost.append(Lost(resident.variant, worker))
        try:
            assert room._pids().count(worker.pid) == 1
        finally:
            resident.lost.clear()
            resident.worker = worker

    async def test_that_was_promised_to_one_is_not_given_to_another(self, models, device):
        device.memory(4000, 300)
        need = models.memory.need(models.add("m", start=False).manifest, models.residency.known()[0].choice.variant, 0)
        assert need.peak_bytes == 0
        room = models.memory.ask
        async with room(type(need)(need.manifest, need.variant, 150 * MIB)):
            with pytest.raises(EdgedError, match="150 MiB are promised to what loads now") as caught:
                async with room(type(need)(need.manifest, need.variant, 51 * MIB)):
                    pass
        assert caught.value.code is Code.MEMORY_SHORT
        async with room(type(need)(need.manifest, need.variant, 200 * MIB)):
            pass

    async def test_is_asked_for_as_measured_once_a_worker_was_seen(self, models):
        declared = models.add("m", cpu="requires = { memory_mib = 900 }")
        await models.ready(declared)
        (variant,) = declared.manifest.variants
        need = models.memory.need(declared.manifest, variant, 4000 * MIB)
        assert 0 < need.peak_bytes < 900 * MIB
        assert need.peak_bytes >= declared.worker.usage().private_bytes // 2
