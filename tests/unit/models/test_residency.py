"""What is loaded, with real workers: the best variant that loads serves, is kept up, and is ended when asked."""

import asyncio
import functools
import os
import signal
from pathlib import Path

import msgspec
import psutil
import pytest
from onnx import helper
from support.bundles import identity_bundle, onnx_model
from support.polling import PATIENCE_S, until_async, until_changed
from support.slow import VERY_LONG, counting_bundle
from support.standins import Clock, settle

from edged.bundle import acceptance
from edged.bundle.folder import pack, read_manifest
from edged.bundle.manifest import Requires, Variant
from edged.changes import Changes
from edged.config.settings import Workers
from edged.errors import Code, EdgedError
from edged.events import EventLog
from edged.models import resident as under_test
from edged.models.loading import Terms, run_golden, start_worker
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.models.routes import Route
from edged.models.states import Source, State
from edged.runtimes.base import ENGINES
from edged.system.hardware import Hardware
from edged.worker.child import Exit
from edged.worker.messages import InputPart, Loaded
from edged.worker.process import Batch, LostError
from edged.worker.templates import spawned
from edged.worker.usage import Usage

DIGITS = Path(__file__).resolve().parents[3] / "bootc/models/digits/1"
QUICK = Workers(restart_min_s=0.01, restart_max_s=60)

TENSOR = [("x", "FP32", [-1, 2])]
GOOD = onnx_model([helper.make_node("Neg", ["x"], ["y"])], TENSOR, [("y", "FP32", [-1, 2])])
OTHER = onnx_model([helper.make_node("Neg", ["x"], ["y"])], [("x", "FP32", [-1, 3])], [("y", "FP32", [-1, 3])])
GARBAGE = b"\xff" * 100


def variants_bundle(folder, **variants):
    """A bundle `neg` of these variants, best first, each with the bytes of its file."""
    folder.mkdir(parents=True)
    text = 'name = "neg"\nrevision = 1\nmax_batch_size = 4\n'
    text += '[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [-1, 2]\n'
    text += '[[outputs]]\nname = "y"\ndatatype = "FP32"\nshape = [-1, 2]\n'
    for name, content in variants.items():
        (folder / f"{name}.onnx").write_bytes(content)
        text += f'[[variants]]\nname = "{name}"\nruntime = "onnxruntime"\nfile = "{name}.onnx"\n'
    (folder / "bundle.toml").write_text(text)
    pack(folder)
    return folder


def counting(turns):
    """The batch of a request to count so far."""
    return Batch(("turns",), ("counted",), [(InputPart((1,), 8, 0),)], [[turns]], (0,))


class Bench:
    """Residents, what changed, and what was recorded."""

    def __init__(self):
        self.changes = Changes()
        self.events = EventLog(100)
        self.residents = []

    def resident(self, folder, settings=QUICK, hardware=None, manifest=None):
        runtimes = {name: engine.version() for name, engine in ENGINES.items()}
        source = Source(folder, manifest or read_manifest(folder), "factory")
        made = Resident(source, hardware or Hardware("generic"), runtimes, settings, self.changes, self.events, spawned)
        self.residents.append(made)
        return made

    def started(self, folder, **options):
        made = self.resident(folder, **options)
        made.start()
        return made

    async def until(self, condition):
        """Waits, from change to change, until it holds."""
        await until_changed(self.changes, condition)

    def recorded(self):
        return [event.code for event in self.events.after(0)]

    async def end(self):
        await asyncio.gather(*(resident.stop() for resident in self.residents))


@pytest.fixture
async def bench():
    made = Bench()
    yield made
    await made.end()


def passed_over(resident):
    return [(each.variant, each.code) for each in resident.choice.passed_over]


async def child():
    """The one process that this one has started."""
    return (await until_async(psutil.Process().children, "a process is started", again_s=0))[0]


class TestWhichVariantServes:
    async def test_the_best(self, bench):
        resident = bench.started(DIGITS)
        assert (resident.state, resident.ready, resident.loading) == (State.LOADING, False, True)
        await bench.until(lambda: not resident.loading)
        assert (resident.state, resident.reason, resident.variant.name) == (State.READY, "", "fp32")
        assert not resident.degraded
        assert resident.choice.passed_over == []
        assert psutil.Process(resident.worker.pid).ppid() == os.getpid()

    @pytest.mark.parametrize("name", ["fp32", "int8"])
    async def test_each_of_the_digits_bundle_is_as_its_goldens_say(self, name):
        manifest = read_manifest(DIGITS)
        worker = await start_worker(DIGITS, manifest, manifest.variant(name), Terms(QUICK))
        try:
            (golden,) = (each for each in manifest.acceptance.goldens if each.variants == (name,))
            compared = await run_golden(worker, manifest, golden)
        finally:
            await worker.stop(PATIENCE_S)
        assert acceptance.judge(golden, compared.outputs).ok

    async def test_the_first_that_loads(self, bench, tmp_path):
        folder = variants_bundle(tmp_path / "neg", garbage=GARBAGE, other=OTHER, fits=GOOD, spare=GOOD)
        resident = bench.started(folder)
        await bench.until(lambda: not resident.loading)
        assert (resident.state, resident.variant.name, resident.degraded) == (State.READY, "fits", True)
        assert passed_over(resident) == [
            ("garbage", Code.LOAD_FAILED),
            ("other", Code.INCOMPATIBLE_SIGNATURE),
        ]
        assert (
            "garbage.onnx" in resident.choice.passed_over[0].reason
            or "not an ONNX model" in resident.choice.passed_over[0].reason
        )
        assert "'x' is declared [-1, 2], the model has [-1, 3]" in resident.choice.passed_over[1].reason

    async def test_none_whose_bytes_are_not_those_that_were_packed(self, bench, tmp_path):
        folder = variants_bundle(tmp_path / "neg", flipped=GOOD, whole=GOOD)
        content = bytearray(GOOD)
        content[len(content) // 2] ^= 1
        (folder / "flipped.onnx").write_bytes(content)
        resident = bench.started(folder)
        await bench.until(lambda: not resident.loading)
        assert resident.variant.name == "whole"
        assert passed_over(resident) == [("flipped", Code.DIGEST_MISMATCH)]
        assert "the file was changed or damaged after it was packed" in resident.choice.passed_over[0].reason

    async def test_none_whose_file_has_gone(self, bench, tmp_path):
        folder = variants_bundle(tmp_path / "neg", gone=GOOD, here=GOOD)
        manifest = read_manifest(folder)
        (folder / "gone.onnx").unlink()
        resident = bench.started(folder, manifest=manifest)
        await bench.until(lambda: not resident.loading)
        assert passed_over(resident) == [("gone", Code.LOAD_FAILED)]
        assert "gone.onnx cannot be read: No such file" in resident.choice.passed_over[0].reason

    async def test_none_that_takes_longer_than_it_may_while_there_is_another(self, bench, tmp_path):
        folder = variants_bundle(tmp_path / "neg", slow=GOOD, other=GOOD)
        resident = bench.started(folder, settings=Workers(load_s=0.001, first_inference_s=0.001))
        await bench.until(lambda: resident.choice.passed_over and resident.settled)
        assert passed_over(resident) == [("slow", Code.WORKER_HANG)]
        assert "loading took longer than 0.002 s" in resident.choice.passed_over[0].reason

    async def test_one_whose_process_dies_as_it_loads_is_tried_again(self, bench, tmp_path):
        folder = variants_bundle(tmp_path / "neg", dies=GOOD, other=GOOD)
        resident = bench.started(folder)
        (await child()).kill()
        await bench.until(lambda: resident.ready)
        assert (resident.variant.name, resident.choice.passed_over, resident.restarts) == ("dies", [], 1)
        assert resident.last_exit.endswith("killed by SIGKILL")

    async def test_one_that_the_device_cannot_start_a_process_for_now_is_tried_again(
        self, bench, tmp_path, monkeypatch
    ):
        spawn, refused = os.posix_spawn, []

        def no_process(*arguments, **options):
            if len(refused) < 2:
                refused.append(arguments)
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return spawn(*arguments, **options)

        folder = variants_bundle(tmp_path / "neg", only=GOOD)
        monkeypatch.setattr(os, "posix_spawn", no_process)
        resident = bench.started(folder)
        await bench.until(lambda: resident.settled)
        assert "Resource temporarily unavailable" in resident.reason
        await bench.until(lambda: resident.ready)
        assert (len(refused), resident.choice.passed_over) == (2, [])

    async def test_what_is_passed_over_is_told_in_the_bundles_order(self, bench, tmp_path):
        folder = variants_bundle(tmp_path / "neg", fails=GARBAGE, elsewhere=GOOD, fits=GOOD)
        manifest = read_manifest(folder)
        first, second, third = manifest.variants
        elsewhere = Variant(
            name=second.name, runtime=second.runtime, file=second.file, requires=Requires(accelerator="nvidia")
        )
        manifest = type(manifest)(
            **{name: getattr(manifest, name) for name in manifest.__struct_fields__}
            | {"variants": (first, elsewhere, third)}
        )
        resident = bench.started(folder, manifest=manifest)
        await bench.until(lambda: not resident.loading)
        assert passed_over(resident) == [
            ("fails", Code.LOAD_FAILED),
            ("elsewhere", Code.INCOMPATIBLE_HARDWARE),
        ]


class TestAModelThatCannotServe:
    async def test_has_failed_and_gives_all_reasons(self, bench, tmp_path):
        folder = variants_bundle(tmp_path / "neg", garbage=GARBAGE, other=OTHER)
        resident = bench.started(folder)
        await bench.until(lambda: not resident.loading)
        assert (resident.state, resident.ready, resident.worker) == (State.FAILED, False, None)
        assert resident.reason.startswith("no variant can run here: garbage: ")
        assert "; other: other.onnx is not what the manifest says" in resident.reason
        assert bench.recorded() == [Code.LOAD_FAILED, Code.INCOMPATIBLE_SIGNATURE, "model_failed"]
        assert psutil.Process().children() == []

    async def test_has_failed_when_no_variant_is_for_this_device(self, bench, tmp_path):
        folder = identity_bundle(tmp_path, "FP32")
        resident = bench.resident(folder)
        resident.choice.runnable.clear()
        resident.start()
        await bench.until(lambda: not resident.loading)
        assert resident.state is State.FAILED

    async def test_because_of_a_defect_of_ours_has_failed_too(self, bench, tmp_path, monkeypatch):
        async def defect(*_):
            raise RuntimeError("what nobody thought of")

        monkeypatch.setattr(under_test, "start_worker", defect)
        resident = bench.started(identity_bundle(tmp_path, "FP32"))
        await bench.until(lambda: not resident.loading)
        assert (resident.state, resident.reason) == (State.FAILED, "a defect of edged; its log says more")
        assert bench.recorded() == ["model_failed"]


class TestOneThatStandsBy:
    async def test_and_has_nothing_that_could_run_takes_nothing_in(self, bench, tmp_path):
        folder = identity_bundle(tmp_path, "FP32")
        resident = bench.resident(folder, hardware=Hardware("generic"))
        resident.choice.pass_over(resident.choice.variant, EdgedError(Code.LOAD_FAILED, "it is broken"))
        resident.start_standing_by("another has its memory")
        await bench.until(lambda: resident.state is State.FAILED)
        assert (resident.resting, resident.expected) == (False, False)
        resident.wake(takes_over=True)
        assert resident.state is State.FAILED

    async def test_and_had_failed_takes_requests_in_and_loads_once_it_takes_over(self, bench, tmp_path):
        folder = variants_bundle(tmp_path / "neg", only=GOOD)
        resident = bench.resident(folder)
        (folder / "only.onnx").unlink()
        resident.start()
        await bench.until(lambda: resident.state is State.FAILED)
        assert await resident.stand_by("another takes its place")
        await settle()
        assert (resident.state, resident.resting, resident.expected) == (State.UNAVAILABLE, True, True)
        assert bench.recorded() == [Code.LOAD_FAILED, "model_failed"], "it has not failed again"
        (folder / "only.onnx").write_bytes(GOOD)
        resident.wake(takes_over=True)
        await bench.until(lambda: resident.ready)

    async def test_and_had_failed_since_nothing_of_it_is_for_this_device_has_made_way(self, bench, tmp_path):
        manifest = read_manifest(folder := identity_bundle(tmp_path, "FP32"))
        variants = [msgspec.structs.replace(each, hardware_classes=("another",)) for each in manifest.variants]
        resident = bench.started(folder, manifest=msgspec.structs.replace(manifest, variants=tuple(variants)))
        await bench.until(lambda: resident.state is State.FAILED)
        assert await resident.stand_by("another takes its place")
        await settle()
        assert (resident.state, resident.resting, resident.expected) == (State.FAILED, False, False)
        assert bench.recorded() == ["model_failed"], "once"

    async def test_is_none_whose_worker_still_has_something_to_answer(self, bench, tmp_path):
        """It goes by itself once it has answered; who wants its place then asks again."""
        resident = bench.started(counting_bundle(tmp_path))
        await bench.until(lambda: resident.ready)
        worker = resident.worker
        os.kill(worker.pid, signal.SIGSTOP)  # so that it has not answered before it is told to
        asked = asyncio.create_task(worker.infer(counting((1).to_bytes(8, "little")), lambda _, parts: parts))
        await settle()
        assert resident.rest("it is replaced")
        await bench.until(lambda: resident.worker is None)
        resident.wake()
        assert not await resident.stand_by("another takes its place")
        os.kill(worker.pid, signal.SIGCONT)
        [[counted]] = await asked
        assert bytes(counted) == (1).to_bytes(8, "little")
        await bench.until(lambda: resident.ready)
        assert resident.restarts == 0
        assert resident.rest("it is idle"), "it is as steady as ever"


class TestAStop:
    async def test_whose_caller_gives_up_is_carried_out_and_not_hidden_from_that(self, bench, tmp_path):
        """A caller who goes on all the same would start what the daemon's end has stopped."""
        resident = bench.started(identity_bundle(tmp_path, "FP32"))
        await bench.until(lambda: resident.ready)
        os.kill(resident.worker.pid, signal.SIGSTOP)  # so that its end takes a moment
        stopping = asyncio.create_task(resident.stop())
        await bench.until(lambda: resident.state is State.UNLOADING)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        await resident.stop()
        assert (resident.state, resident.worker) == (State.UNAVAILABLE, None)
        assert psutil.Process().children() == []


class TestAStart:
    async def test_while_its_worker_goes_to_rest_leaves_one_that_can_be_told_to_rest_again(self, bench, tmp_path):
        resident = bench.started(identity_bundle(tmp_path, "FP32"))
        await bench.until(lambda: resident.ready)
        before = resident.worker
        os.kill(before.pid, signal.SIGSTOP)  # so that its end takes a moment
        assert resident.rest("it is idle")
        await bench.until(lambda: resident.worker is None)
        resident.start()
        os.kill(before.pid, signal.SIGCONT)
        await bench.until(lambda: resident.ready)
        assert resident.worker is not before
        assert resident.steady


class TestAWorkerThatEnds:
    async def test_is_told_and_replaced(self, bench, tmp_path):
        resident = bench.started(identity_bundle(tmp_path, "FP32"))
        await bench.until(lambda: resident.ready)
        first = resident.worker
        os.kill(first.pid, signal.SIGKILL)
        await bench.until(lambda: not resident.ready)
        assert (resident.state, resident.loading, resident.worker) == (State.LOADING, True, None)
        assert resident.reason == "its worker ended (killed by SIGKILL); it is started again now"
        await bench.until(lambda: resident.ready)
        assert (resident.reason, resident.restarts, resident.last_exit) == ("", 1, "killed by SIGKILL")
        assert resident.worker.pid != first.pid
        assert resident.choice.passed_over == []
        ready, crashed, again = bench.events.after(0)
        assert (ready.code, crashed.code, again.code) == ("model_ready", Code.WORKER_CRASHED, "model_ready")
        assert crashed.message == "the worker of revision 1 ended: killed by SIGKILL"
        assert crashed.details == {"revision": "1", "variant": "cpu", "restart_s": "0.0"}
        assert again.details["pid"] == str(resident.worker.pid)

    async def test_takes_no_other_model_along(self, bench, tmp_path):
        one, other = (bench.started(identity_bundle(tmp_path, datatype)) for datatype in ("FP32", "INT8"))
        await bench.until(lambda: one.ready and other.ready)
        untouched = other.worker.pid
        os.kill(one.worker.pid, signal.SIGKILL)
        await bench.until(lambda: not one.ready)
        await bench.until(lambda: one.ready)
        assert (other.ready, other.worker.pid, other.restarts) == (True, untouched, 0)

    async def test_because_it_hung_is_told_with_what_it_did_not_answer(self, bench, tmp_path):
        resident = bench.started(counting_bundle(tmp_path, extra="caps = { inference_s = 0.1 }\n"))
        await bench.until(lambda: resident.ready)
        turns = VERY_LONG.to_bytes(8, "little")
        with pytest.raises(EdgedError, match=r"an inference took longer than 0\.1 s") as caught:
            await resident.worker.infer(counting(turns), lambda *_: None)
        assert caught.value.code is Code.WORKER_HANG
        await bench.until(lambda: resident.loading)
        assert "an inference took longer than 0.1 s (killed by SIGKILL)" in resident.reason
        await bench.until(lambda: resident.ready)

    async def test_and_dies_again_while_it_comes_up_is_tried_again(self, bench, tmp_path):
        """It served before: what kills it now, such as a lack of memory, may pass."""
        resident = bench.started(identity_bundle(tmp_path, "FP32"))
        await bench.until(lambda: resident.ready)
        os.kill(resident.worker.pid, signal.SIGKILL)
        await bench.until(lambda: not resident.ready)
        (await child()).kill()
        await bench.until(lambda: "while it was asked for loading" in resident.reason)
        assert resident.state is State.LOADING
        await bench.until(lambda: resident.ready)
        assert resident.restarts == 2
        assert resident.choice.passed_over == []

    async def test_and_whose_file_has_changed_meanwhile_is_not(self, bench, tmp_path):
        folder = identity_bundle(tmp_path, "FP32")
        resident = bench.started(folder)
        await bench.until(lambda: resident.ready)
        (folder / "model.onnx").write_bytes(GOOD)
        os.kill(resident.worker.pid, signal.SIGKILL)
        await bench.until(lambda: resident.state is State.FAILED)
        assert passed_over(resident) == [("cpu", Code.DIGEST_MISMATCH)]


class DyingWorker:
    """A worker without a process, which ends when the test says so."""

    pid = 0

    def __init__(self):
        self.loaded = Loaded(0.0, 0.0)
        self.made = "made up"
        self.verdict = None
        self.excused = False
        self.ended = asyncio.get_running_loop().create_future()
        self.gone = asyncio.get_running_loop().create_future()

    async def stop(self, _):
        return await self.ended

    def usage(self):
        return Usage()


class TestTheDelayBeforeAWorkerIsStartedAgain:
    """On a clock that only the test moves."""

    @pytest.fixture
    def clock(self, monkeypatch):
        self.workers = []

        async def start_worker(*_):
            self.workers.append(DyingWorker())
            return self.workers[-1]

        monkeypatch.setattr(under_test, "start_worker", start_worker)
        return Clock

    async def die(self):
        self.workers[-1].ended.set_result(Exit("exit status 1"))
        await settle()

    def delays(self, bench):
        return [
            float(event.details["restart_s"]) for event in bench.events.after(0) if event.code == Code.WORKER_CRASHED
        ]

    async def test_doubles_up_to_its_maximum(self, bench, tmp_path, clock):
        clock = clock()
        resident = bench.started(
            identity_bundle(tmp_path, "FP32"), settings=Workers(restart_min_s=100, restart_max_s=1000)
        )
        await settle()
        await self.die()
        assert self.delays(bench) == [0], "the first is started again at once"
        await settle()
        for expected in (100, 200, 400, 800, 1000, 1000):
            assert resident.ready
            await self.die()
            assert self.delays(bench)[-1] == expected
            assert f"it is started again in {expected} s" in resident.reason
            clock.forward(expected - 50)
            await settle()
            assert resident.loading, "not yet"
            clock.forward(50)
            await settle()
        assert resident.ready
        assert resident.restarts == 7
        await self.finish(resident)

    async def test_begins_anew_for_one_that_has_answered(self, bench, tmp_path, clock):
        clock = clock()
        resident = bench.started(
            identity_bundle(tmp_path, "FP32"), settings=Workers(restart_min_s=100, restart_max_s=1000)
        )
        await settle()
        for _ in range(4):
            await self.die()
            clock.forward(1000)
            await settle()
        resident.answered()
        for _ in range(2):
            await self.die()
            clock.forward(1000)
            await settle()
        assert self.delays(bench) == [0, 100, 200, 400, 0, 100]
        await self.finish(resident)

    async def test_does_not_grow_with_time_alone(self, bench, tmp_path, clock):
        """A worker that stands for hours and has answered nobody has proven nothing."""
        clock = clock()
        resident = bench.started(
            identity_bundle(tmp_path, "FP32"), settings=Workers(restart_min_s=100, restart_max_s=1000)
        )
        await settle()
        for _ in range(3):
            await self.die()
            clock.forward(100_000)
            await settle()
        assert self.delays(bench) == [0, 100, 200]
        await self.finish(resident)

    async def test_is_none_for_a_death_that_is_excused(self, bench, tmp_path, clock):
        clock()
        resident = bench.started(
            identity_bundle(tmp_path, "FP32"), settings=Workers(restart_min_s=100, restart_max_s=1000)
        )
        await settle()
        for _ in range(9):
            self.workers[-1].excused = True
            await self.die()
            await settle()
            assert resident.ready
        assert self.delays(bench) == [0] * 9
        await self.finish(resident)

    async def test_follows_the_settings(self, bench, tmp_path, clock):
        clock = clock()
        resident = bench.started(
            identity_bundle(tmp_path, "FP32"), settings=Workers(restart_min_s=100, restart_max_s=1000)
        )
        await settle()
        resident.settings = Workers(restart_min_s=100, restart_max_s=150)
        for _ in range(4):
            await self.die()
            clock.forward(1000)
            await settle()
        assert self.delays(bench) == [0, 100, 150, 150]
        await self.finish(resident)

    async def test_is_told_as_a_crash_loop_when_there_are_too_many(self, bench, tmp_path, clock):
        clock = clock()
        resident = bench.started(identity_bundle(tmp_path, "FP32"), settings=Workers(restart_min_s=1, restart_max_s=1))
        await settle()
        for deaths in range(1, 8):
            await self.die()
            assert ("in a crash loop" in resident.reason) == (deaths >= 5)
            clock.forward(1)
            await settle()
        assert resident.ready
        await self.finish(resident)

    async def test_comes_to_an_end_where_there_is_a_next_variant(self, bench, tmp_path, clock):
        clock = clock()
        resident = bench.started(variants_bundle(tmp_path / "neg", dies=GOOD, lives=GOOD))
        await settle()
        for _ in range(5):
            assert (resident.variant.name, resident.degraded) == ("dies", False)
            await self.die()
            clock.forward(1000)
            await settle()
        assert (resident.state, resident.variant.name, resident.degraded) == (State.READY, "lives", True)
        (passed,) = resident.choice.passed_over
        assert (passed.variant, passed.code) == ("dies", Code.CRASH_LOOP)
        assert passed.reason.startswith("5 workers ended in a row without an answer between; the last: ")
        assert "exit status 1" in passed.reason
        await self.finish(resident)

    async def test_of_one_that_is_lost_is_for_ever(self, bench, tmp_path, clock):
        """What it holds stays its own: it is neither started again nor forgotten, until it goes after all."""
        clock()
        resident = bench.started(variants_bundle(tmp_path / "neg", stuck=GOOD, lives=GOOD))
        await settle()
        stuck = self.workers[-1]
        stuck.ended.set_result(Exit("lost: still there 5 s after SIGKILL", lost=True))
        await settle()
        assert (resident.variant.name, [lost.worker for lost in resident.lost]) == ("lives", [stuck])
        assert resident.lost[0].variant.name == "stuck"
        count = resident.changes.count
        stuck.gone.set_result(None)
        await settle()
        assert resident.lost == []
        assert resident.changes.count > count
        assert passed_over(resident) == [("stuck", Code.WORKER_CRASHED)]
        await self.finish(resident)

    async def test_of_one_that_did_not_even_load_is_for_ever_too(self, bench, tmp_path, monkeypatch):
        stuck, lives = DyingWorker(), DyingWorker()
        stuck.ended.set_result(Exit("lost: still there 5 s after SIGKILL", lost=True))

        async def start_worker(_folder, _manifest, variant, _terms):
            if variant.name == "lives":
                return lives
            raise LostError(stuck, EdgedError(Code.WORKER_HANG, "loading took longer than 1 s"))

        monkeypatch.setattr(under_test, "start_worker", start_worker)
        resident = bench.started(variants_bundle(tmp_path / "neg", stuck=GOOD, lives=GOOD))
        await settle()
        assert (resident.variant.name, [lost.worker for lost in resident.lost]) == ("lives", [stuck])
        assert passed_over(resident) == [("stuck", Code.WORKER_HANG)]
        stopping = asyncio.create_task(resident.stop())
        await settle()
        lives.ended.set_result(Exit("lost: still there 5 s after SIGKILL", lost=True))
        await stopping
        assert [lost.worker for lost in resident.lost] == [stuck, lives], "nor is one that did not unload"

    async def test_is_waited_for_by_requests_only_where_it_is_short(self, bench, tmp_path, clock):
        clock = clock()
        resident = bench.started(
            identity_bundle(tmp_path, "FP32"), settings=Workers(restart_min_s=1.5, restart_max_s=1000)
        )
        assert not resident.expected, "it never served"
        await settle()
        expected = []
        for _ in range(4):
            await self.die()
            expected.append((resident.ready, resident.expected))
            clock.forward(1000)
            await settle()
            assert resident.expected
        assert expected == [(True, True), (False, True), (False, False), (False, False)], "0, 1.5, 3, 6 s"
        await self.finish(resident)

    async def finish(self, resident):
        self.workers[-1].ended.set_result(Exit("exit status 0"))
        await resident.stop()


class TestStop:
    async def test_ends_the_worker(self, bench):
        resident = bench.started(DIGITS)
        await bench.until(lambda: resident.ready)
        process = psutil.Process(resident.worker.pid)
        await resident.stop()
        assert not process.is_running()
        assert (resident.state, resident.worker, resident.ready) == (State.UNAVAILABLE, None, False)

    async def test_ends_a_worker_that_is_at_work(self, bench, tmp_path, monkeypatch):
        monkeypatch.setattr(under_test, "_STOP_GRACE_S", 0.01)
        resident = bench.started(counting_bundle(tmp_path))
        await bench.until(lambda: resident.ready)
        process = psutil.Process(resident.worker.pid)
        asked = asyncio.create_task(resident.worker.infer(counting(VERY_LONG.to_bytes(8, "little")), lambda *_: None))
        await settle()
        await resident.stop()
        assert not process.is_running()
        with pytest.raises(EdgedError):
            await asked

    async def test_ends_a_worker_that_is_still_loading(self, bench, tmp_path):
        resident = bench.started(identity_bundle(tmp_path, "FP32"))
        process = await child()
        await resident.stop()
        assert not process.is_running()
        assert resident.state is State.UNAVAILABLE
        assert bench.recorded() == []

    async def test_before_the_next_worker_is_started_leaves_none(self, bench, tmp_path):
        resident = bench.started(identity_bundle(tmp_path, "FP32"), settings=Workers(restart_min_s=60))
        await bench.until(lambda: resident.ready)
        os.kill(resident.worker.pid, signal.SIGKILL)
        await bench.until(lambda: resident.loading)
        await resident.stop()
        assert resident.state is State.UNAVAILABLE
        assert psutil.Process().children() == []

    async def test_of_one_that_was_never_started_or_has_failed_does_no_harm(self, bench, tmp_path):
        never = bench.resident(identity_bundle(tmp_path, "FP32"))
        failed = bench.started(variants_bundle(tmp_path / "neg", garbage=GARBAGE))
        await bench.until(lambda: failed.state is State.FAILED)
        for resident in (never, failed):
            await resident.stop()
            await resident.stop()
            assert resident.state is State.UNAVAILABLE


class TestResidency:
    async def test_the_highest_revision_serves_and_each_may_be_named(self, bench, tmp_path):
        residents = Residency(bench.changes)
        made = {}
        for revision in (3, 12, 7):
            folder = counting_bundle(tmp_path / str(revision), revision=revision)
            made[revision] = bench.resident(folder)
            made[revision].start = functools.partial(setattr, made[revision], "begun", True)
            residents.add(made[revision])
        assert residents.routes == {"counts": Route(serving=12, loaded=(3, 7, 12), known=(3, 7, 12))}
        assert residents.serving() == [made[12]]
        assert residents.all() == [made[3], made[7], made[12]]
        assert residents.get("counts", 7) is made[7]
        with pytest.raises(KeyError):
            residents.get("counts", 8)

    async def test_what_is_taken_in_is_started_and_all_are_stopped_together(self, bench, tmp_path):
        residents = Residency(bench.changes)
        for datatype in ("FP32", "INT8"):
            residents.add(bench.resident(identity_bundle(tmp_path, datatype)))
        await bench.until(lambda: all(resident.ready for resident in residents.all()))
        assert len(psutil.Process().children()) == 2
        await residents.stop()
        assert psutil.Process().children() == []
