"""The trial: what a revision must show on this device before any request reaches it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edged import clock
from edged.bundle import signature
from edged.bundle.acceptance import Verdict
from edged.bundle.exclusion import excludes
from edged.bundle.manifest import Manifest, Variant
from edged.errors import Code, EdgedError
from edged.models import restarts
from edged.models.loading import build, goldens_of, judge_golden, start_worker
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.models.states import State
from edged.update.reasons import Reason
from edged.worker.process import Worker

_STOP_GRACE_S = 2.0

# Goldens are run so often for a p99; the best of some rounds counts, since what else the device does slows them too.
_LATENCY_RUNS = 40
_LATENCY_ROUND_S = 2.0
_LATENCY_ROUNDS = 3

# A worker that ends while it loads may have met a device that was short; one that does so again is itself at fault.
_LOADS = 2

_REASONS: Mapping[str, Reason] = {
    Code.INCOMPATIBLE_HARDWARE: Reason.INCOMPATIBLE_HARDWARE,
    Code.INCOMPATIBLE_RUNTIME: Reason.INCOMPATIBLE_RUNTIME,
    Code.INCOMPATIBLE_SIGNATURE: Reason.INCOMPATIBLE_SIGNATURE,
    Code.DIGEST_MISMATCH: Reason.DIGEST_MISMATCH,
    Code.GOLDEN_MISMATCH: Reason.GOLDEN_MISMATCH,
    Code.WORKER_HANG: Reason.WORKER_HANG,
    Code.WORKER_CRASHED: Reason.CRASH_LOOP,
    Code.CRASH_LOOP: Reason.CRASH_LOOP,
    Code.INFERENCE_FAILED: Reason.GOLDEN_MISMATCH,
}


class FailedError(Exception):
    """The revision is not fit to serve here: why, and by which variant (empty: the revision itself)."""

    def __init__(self, reason: Reason, text: str, variant: str = "") -> None:
        super().__init__(reason, text, variant)
        self.reason = reason
        self.text = text
        self.variant = variant


class DiedError(FailedError):
    """Its worker ended on the way: the kernel may have ended it for what another took."""


def check_signature(old: Manifest | None, new: Manifest) -> None:
    """Whether callers of the serving revision can be served by the new one. Raises FailedError."""
    objections = signature.objections(old, new) if old is not None else []
    if objections:
        raise FailedError(Reason.INCOMPATIBLE_SIGNATURE, "; ".join(objections))


def check_runnable(resident: Resident) -> None:
    """Whether this device can run any variant. Raises FailedError."""
    if not resident.choice.runnable:
        first = resident.choice.passed_over[0]
        texts = "; ".join(f"{passed.variant}: {passed.reason}" for passed in resident.choice.passed_over)
        raise FailedError(_REASONS.get(first.code, Reason.LOAD_FAILED), f"no variant can run here: {texts}")


def check_accelerators(resident: Resident, residency: Residency) -> None:
    """Before a trial: passes over the spare variants whose accelerator is gone, as a start without it would.

    They show no goldens, so they do not serve when it is back either, before the revision is loaded again. Raises
    EdgedError (model_unavailable) where another has failed.
    """
    choice, failed = resident.choice, residency.failed
    for variant in choice.runnable[1:]:
        if (kind := variant.requires.accelerator) in residency.gone:
            choice.pass_over(variant, EdgedError(Code.INCOMPATIBLE_HARDWARE, failed[kind]))
    check_sound(resident.revision, choice.runnable, failed)


def check_taken(resident: Resident, residency: Residency) -> None:
    """Before a trial: passes over the variants whose device another model has; they show no goldens either.

    Not where a revision of its own model has such a device, which makes way. Raises EdgedError (device_unavailable)
    where no other variant is left.
    """
    choice, up = resident.choice, [(each.name, each.variant) for each in residency.all() if each.variant is not None]
    taken: list[tuple[Variant, EdgedError]] = []
    for variant in choice.runnable:
        holders = [name for name, held in up if excludes(variant, held)]
        if holders and resident.name not in holders:
            text = f"variant {variant.name} cannot be tried: model {holders[0]} has its device, which is one process's"
            taken.append((variant, EdgedError(Code.DEVICE_UNAVAILABLE, text, "where there are several, name them")))
    if taken and len(taken) == len(choice.runnable):
        raise taken[0][1]
    for variant, why in taken:
        choice.pass_over(variant, why)


def check_sound(revision: int, variants: Sequence[Variant], failed: Mapping[str, str]) -> None:
    """Whether what these variants run on works; `failed`: why not, by kind of accelerator. All of them are tried.

    Raises EdgedError (model_unavailable): that is no fault of the revision, and is not held against it.
    """
    for variant in variants:
        if why := failed.get(variant.requires.accelerator):
            text = f"variant {variant.name} of revision {revision} cannot be tried: {why}"
            raise EdgedError(Code.MODEL_UNAVAILABLE, text, "it is tried once that works; see `edgectl status`")


async def try_spares(resident: Resident) -> dict[str, Any]:
    """Tries the variants behind the best, each in a worker of its own that then ends. Raises FailedError."""
    evidence = {}
    for variant in resident.choice.runnable[1:]:
        try:
            worker = await start_worker(resident.source.folder, resident.manifest, variant, resident.terms)
        except (EdgedError, OSError) as error:
            if restarts.is_short(error) or restarts.is_want(error):
                raise
            if isinstance(error, EdgedError) and error.code is Code.WORKER_CRASHED:
                raise DiedError(Reason.LOAD_FAILED, f"{variant.name}: {error}", variant.name) from error
            raise _failed(error, variant.name, loading=True) from error
        try:
            evidence[variant.name] = await _goldens(worker, resident.manifest, variant)
        finally:
            await worker.stop(_STOP_GRACE_S)
    return evidence


async def build_best(resident: Resident) -> None:
    """Has the best variant built where it is derived, so that the resident loads just that. Raises FailedError.

    Raises EdgedError or OSError where it is the device that cannot now: memory_short, storage_full.
    """
    best, terms = resident.choice.runnable[0], resident.terms
    if not best.derived or terms.workshop is None:
        return
    try:
        await terms.workshop.check(resident.manifest, best)
        await build(resident.source.folder, resident.manifest, best, terms, at_once=True)
    except EdgedError as error:
        resident.lost.keep(best, error)
        if restarts.is_short(error):
            raise
        raise _failed(error, best.name, loading=True) from error


async def wait_loaded(resident: Resident) -> Worker:
    """The worker of a started resident's best variant. Raises FailedError when it does not come up.

    One that made room for another while its trial waited is asked by nobody else, and loads again. Raises EdgedError
    (memory_short, device_unavailable) where there is no room for it, or its device cannot be opened now.
    """
    best, passed = resident.choice.runnable[0], len(resident.choice.passed_over)
    while not resident.ready:
        resident.wake()
        count, short = resident.changes.count, resident.trouble
        if short is not None and restarts.is_want(short) and resident.settled:
            raise short
        given_up = resident.state is State.FAILED or resident.leaving or len(resident.choice.passed_over) > passed
        if given_up or resident.deaths.in_a_row >= _LOADS:
            trouble = resident.trouble or EdgedError(Code.LOAD_FAILED, resident.reason)
            raise _failed(trouble, best.name, loading=True)
        await resident.changes.after(count)
    if resident.worker is None or resident.variant is not best:
        if resident.trouble is not None and restarts.is_want(resident.trouble):
            raise resident.trouble  # the next variant has come up meanwhile
        raise FailedError(Reason.LOAD_FAILED, f"{best.name} does not load: {resident.trouble}", best.name)
    return resident.worker


async def try_best(worker: Worker, manifest: Manifest, variant: Variant, *, nominal: bool) -> dict[str, Any]:
    """Tries the worker that is to serve: goldens, then budgets, which count at level nominal. Raises FailedError."""
    evidence = await _goldens(worker, manifest, variant)
    budgets = manifest.acceptance.budgets
    load_s = worker.loaded.load_s + worker.loaded.warmup_s
    p99_ms = await _p99_ms(worker, manifest, variant, budgets.p99_ms)
    peak_mib = worker.usage().peak_bytes / 2**20
    evidence |= {"load_s": round(load_s, 3), "p99_ms": round(p99_ms, 3), "memory_mib": round(peak_mib, 1)}
    evidence["budgets"] = "judged" if nominal else "not judged: the device is under pressure"
    if not nominal:
        return evidence
    if budgets.load_s and load_s > budgets.load_s:
        found = f"{variant.name} loads in {load_s:.2f} s, its budget is {budgets.load_s:g} s"
        raise FailedError(Reason.LATENCY_BUDGET, found, variant.name)
    if budgets.p99_ms and p99_ms > budgets.p99_ms:
        found = f"{variant.name} has a p99 of {p99_ms:.2f} ms, its budget is {budgets.p99_ms:g} ms"
        raise FailedError(Reason.LATENCY_BUDGET, found, variant.name)
    if budgets.memory_mib and peak_mib > budgets.memory_mib:
        found = f"{variant.name} takes {peak_mib:.0f} MiB, its budget is {budgets.memory_mib} MiB"
        raise FailedError(Reason.MEMORY_BUDGET, found, variant.name)
    return evidence


async def _goldens(worker: Worker, manifest: Manifest, variant: Variant) -> dict[str, Any]:
    """Raises FailedError."""
    goldens = goldens_of(manifest, variant)
    for golden in goldens:
        verdict, _ = await judge_golden(worker, manifest, golden)
        if not verdict.ok:
            raise _refused(verdict, variant)
    return {"goldens": len(goldens)}


async def _p99_ms(worker: Worker, manifest: Manifest, variant: Variant, budget_ms: float) -> float:
    """The 99th percentile of the worker's own time for a golden; 0 where there is none to run. Raises FailedError."""
    goldens = goldens_of(manifest, variant)
    if not goldens:
        return 0.0
    best = math.inf
    for _ in range(_LATENCY_ROUNDS):
        took: list[float] = []
        ends_s = clock.monotonic() + _LATENCY_ROUND_S
        while len(took) < _LATENCY_RUNS and (not took or clock.monotonic() < ends_s):
            verdict, infer_s = await judge_golden(worker, manifest, goldens[len(took) % len(goldens)])
            if not infer_s:
                raise _refused(verdict, variant)
            took.append(infer_s)
        best = min(best, percentile(took, 0.99) * 1e3)
        if not budget_ms or best <= budget_ms:
            break
    return best


def _refused(verdict: Verdict, variant: Variant) -> FailedError:
    kind = DiedError if verdict.code == Code.WORKER_CRASHED else FailedError
    code = verdict.code or Code.GOLDEN_MISMATCH
    return kind(_REASONS.get(code, Reason.GOLDEN_MISMATCH), f"{variant.name}: {verdict.text}", variant.name)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all are not above."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def _failed(error: EdgedError | OSError, variant: str, *, loading: bool) -> FailedError:
    code = error.code if isinstance(error, EdgedError) else Code.LOAD_FAILED
    reason = _REASONS.get(code, Reason.LOAD_FAILED)
    if loading and reason is Reason.CRASH_LOOP:
        reason = Reason.LOAD_FAILED
    return FailedError(reason, f"{variant}: {error}", variant)
