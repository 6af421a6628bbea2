"""Starts a worker on a variant of a bundle, and has it run goldens: the same for serving, trials and `edgectl`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edged.bundle import acceptance, distribution
from edged.bundle.acceptance import Verdict
from edged.bundle.manifest import Drift, Golden, Manifest, Variant
from edged.config.settings import Workers
from edged.errors import Code, EdgedError
from edged.models.memory import Memory, Need
from edged.models.workshop import Build, Workshop
from edged.runtimes.base import SessionOptions
from edged.worker import cgroup, messages, process
from edged.worker.cgroup import Groups
from edged.worker.messages import Compared, Derived, FileRef, Load, RunGolden, WarmupRun, Watched
from edged.worker.templates import Maker, spawned

# A worker may take this share of the device's memory where neither variant nor settings say.
_MEMORY_SHARE = 0.5

# Where the device's memory is not known either.
_MEMORY_MIB = 1024

# Who builds gets no tensors, and is asked for nothing else.
_BUILDER_ARENA_BYTES = 4096
_STOP_GRACE_S = 2.0


class Terms(msgspec.Struct, frozen=True):
    """What a worker is started under: the settings, the device's memory, how it is made."""

    settings: Workers
    device_memory_mib: int = 0
    make: Maker = spawned
    max_answer_bytes: int = 0
    """What one answer may take; 0: no bound."""
    groups: Groups = cgroup.NONE
    memory: Memory = msgspec.field(default_factory=Memory)
    workshop: Workshop | None = None
    """Where derived variants are built; None: nowhere."""


def file_ref(manifest: Manifest, path: str) -> FileRef:
    """A file of the bundle as the link carries it."""
    file = manifest.file(path)
    return FileRef(file.path, file.size, file.sha256)


def need(manifest: Manifest, variant: Variant, terms: Terms) -> Need:
    """What a worker of `variant` will take."""
    return terms.memory.need(manifest, variant, _cap_bytes(variant, terms))


def _cap_bytes(variant: Variant, terms: Terms) -> int:
    half_mib = int(terms.device_memory_mib * _MEMORY_SHARE) or _MEMORY_MIB
    return (variant.caps.memory_mib or terms.settings.memory_mib or half_mib) * 2**20


def _watched(drift: Drift) -> Watched:
    found = distribution.bins(drift)
    limits = drift.review_below, drift.review_above
    return Watched(drift.output, drift.kind, found.edges, len(found.expected), found.of_class, *limits)


async def start_worker(folder: Path, manifest: Manifest, variant: Variant, terms: Terms) -> process.Worker:
    """Starts a worker that has loaded `variant`, which is built before where it is to be and is not yet.

    Raises EdgedError with the reason, or OSError.
    """
    if not variant.derived:
        return await _start(folder, manifest, variant, terms, None)
    workshop = _workshop(variant, terms)
    derived = await workshop.take(manifest, variant, _builder(folder, manifest, variant, terms))
    try:
        worker = await _start(folder, manifest, variant, terms, derived)
    except EdgedError as error:
        if error.code is not Code.DERIVED_UNUSABLE or await workshop.spoil(manifest, variant, error):
            raise
        text = f"what is built of {variant.file} cannot be used, though it was built twice: {error.message}"
        raise EdgedError(Code.LOAD_FAILED, text) from error
    worker.made += ", with what was built on this device"
    return worker


async def build(folder: Path, manifest: Manifest, variant: Variant, terms: Terms, *, at_once: bool) -> None:
    """Builds what `variant` loads, unless that is done; `at_once`: somebody waits, for whom the background makes way.

    Raises EdgedError with the reason, or OSError.
    """
    workshop, builder = _workshop(variant, terms), _builder(folder, manifest, variant, terms)
    if at_once:
        await workshop.take(manifest, variant, builder)
    else:
        await workshop.build(manifest, variant, builder)


def _workshop(variant: Variant, terms: Terms) -> Workshop:
    if terms.workshop is None:
        raise EdgedError(Code.NOT_BUILT, f"variant {variant.name} is derived, and nothing is built here")
    return terms.workshop


def _source(folder: Path, manifest: Manifest, variant: Variant, terms: Terms) -> messages.Source:
    wanted = variant.options
    options = SessionOptions(
        threads=wanted.threads or terms.settings.threads,
        precision=wanted.precision,
        device=wanted.device,
        max_batch_size=manifest.max_batch_size,
        shapes={tensor.name: tensor.shape for tensor in manifest.inputs},
    )
    return messages.Source(str(folder), file_ref(manifest, variant.file), variant.runtime, options)


def _builder(folder: Path, manifest: Manifest, variant: Variant, terms: Terms) -> Build:
    """How a variant is built: by a worker of its own, which ends then."""
    settings = terms.settings
    allowed = process.Caps(
        load_s=settings.build_s,
        first_inference_s=0,
        inference_s=settings.inference_s,
        memory_bytes=_cap_bytes(variant, terms),
        arena_bytes=_BUILDER_ARENA_BYTES,
    )

    async def run(output: Path, most_bytes: int) -> None:
        asked = messages.Build(
            source=_source(folder, manifest, variant, terms),
            output=str(output),
            most_bytes=most_bytes,
        )
        peak = terms.memory.need(manifest, variant, allowed.memory_bytes, building=True)
        async with terms.memory.ask(peak):
            with terms.memory.loading(variant):
                worker = await process.start(asked, allowed, terms.make, terms.groups)
                terms.memory.measure(manifest, variant, worker, building=True)
                if (await worker.stop(_STOP_GRACE_S)).lost:
                    text = f"the worker that built {variant.name} does not end"
                    raise process.LostError(worker, EdgedError(Code.WORKER_HANG, text))

    return run


async def _start(
    folder: Path, manifest: Manifest, variant: Variant, terms: Terms, derived: Derived | None
) -> process.Worker:
    caps, settings = variant.caps, terms.settings
    load = Load(
        source=_source(folder, manifest, variant, terms),
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        max_batch_size=manifest.max_batch_size,
        max_answer_bytes=terms.max_answer_bytes,
        derived=derived,
        watched=tuple(_watched(drift) for drift in manifest.drift),
        warmup=tuple(WarmupRun(file_ref(manifest, run.file), run.count) for run in manifest.warmup),
    )
    allowed = process.Caps(
        load_s=caps.load_s or settings.load_s,
        first_inference_s=caps.first_inference_s or settings.first_inference_s,
        inference_s=caps.inference_s or settings.inference_s,
        memory_bytes=_cap_bytes(variant, terms),
        arena_bytes=settings.arena_mib * 2**20,
    )
    async with terms.memory.ask(need(manifest, variant, terms)):
        with terms.memory.loading(variant):
            worker = await process.start(load, allowed, terms.make, terms.groups)
    terms.memory.measure(manifest, variant, worker)
    return worker


async def run_golden(worker: process.Worker, manifest: Manifest, golden: Golden) -> Compared:
    """Has a worker run one golden. Raises EdgedError."""
    return await worker.golden(RunGolden(file_ref(manifest, golden.file), golden.atol, golden.rtol))


async def judge_golden(worker: process.Worker, manifest: Manifest, golden: Golden) -> tuple[Verdict, float]:
    """Whether one golden holds for a worker, and how many seconds the inference took; 0 where it could not be run."""
    try:
        compared = await run_golden(worker, manifest, golden)
    except EdgedError as error:
        return Verdict(ok=False, code=error.code, text=f"{golden.file}: could not be run: {error}"), 0.0
    return acceptance.judge(golden, compared.outputs), compared.infer_s


def goldens_of(manifest: Manifest, variant: Variant) -> list[Golden]:
    """The goldens that hold for a variant."""
    goldens = manifest.acceptance.goldens
    return [golden for golden in goldens if not golden.variants or variant.name in golden.variants]
