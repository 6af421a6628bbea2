"""Whether a bundle is good: its description, and each variant that can run here, loaded and shown its goldens."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edged.bundle import folder, paths
from edged.bundle.acceptance import Verdict
from edged.bundle.manifest import Manifest, Variant, digest
from edged.config.settings import Workers
from edged.ctl.output import Column, Table
from edged.ctl.words import count, duration, mib
from edged.document import DocumentError, Place, Problem
from edged.errors import Code, EdgedError
from edged.models.cache import Cache
from edged.models.loading import Terms, goldens_of, judge_golden, start_worker
from edged.models.selection import PassedOver, select
from edged.models.workshop import Platform, Workshop
from edged.system.hardware import Hardware

# How long a worker that is asked for nothing may take to go.
_STOP_GRACE_S = 2.0


class Tried(msgspec.Struct, frozen=True):
    """One variant: either passed over, or started with what came of it; an empty `fault` means that it loaded."""

    variant: str
    passed_over: PassedOver | None = None
    fault: str = ""
    load_s: float = 0.0
    peak_bytes: int = 0
    verdicts: tuple[tuple[str, Verdict], ...] = ()

    @property
    def good(self) -> bool:
        """Nothing that was tried went wrong."""
        return not self.fault and all(verdict.ok for _, verdict in self.verdicts)


class Checked(msgspec.Struct, frozen=True):
    """All that is known of a bundle; without a manifest it is not usable at all, and `problems` say why."""

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()
    manifest: Manifest | None = None
    tried: tuple[Tried, ...] = ()

    @property
    def verdict(self) -> str:
        """In a line, why it is not good; empty when it is."""
        if self.problems:
            return count(len(self.problems), "problem")
        bad = [tried.variant for tried in self.tried if not tried.good]
        if bad:
            return f"{count(len(bad), 'variant')} failed: {', '.join(bad)}"
        if all(tried.passed_over for tried in self.tried):
            return "no variant can run on this device, so none was tried"
        return ""


async def check(at: Path, hardware: Hardware, runtimes: Mapping[str, str | None], settings: Workers) -> Checked:
    """Checks the bundle in the folder `at`, its variants under `settings`; its files are only read. Raises nothing."""
    try:
        warnings = folder.check(at)
        described = (at / paths.DESCRIPTION_NAME).is_file()
        manifest = folder.describe(at) if described else folder.read_manifest(at)
    except DocumentError as error:
        return Checked(error.problems)
    except EdgedError as error:
        return Checked((Problem(Place(str(at)), "", error.message.removeprefix(f"{at}: "), error.hint),))
    runnable, passed_over = select(manifest, hardware, runtimes)
    tried = {passed.variant: Tried(passed.variant, passed) for passed in passed_over}
    with tempfile.TemporaryDirectory(prefix="edgectl-") as scratch:
        terms = Terms(settings, hardware.memory_mib, workshop=_workshop(Path(scratch), runtimes, settings))
        for variant in runnable:  # one after the other: each one's memory is to be seen, and the device may be small
            tried[variant.name] = await _try(at, manifest, variant, terms)
    return Checked((), tuple(warnings), manifest, tuple(tried[variant.name] for variant in manifest.variants))


def _workshop(scratch: Path, runtimes: Mapping[str, str | None], settings: Workers) -> Workshop:
    """What derived variants are built in, and lost with when all has been tried."""
    cache = Cache(scratch / "derived", settings.derived_mib * 2**20)
    return Workshop(cache, Platform(runtimes))


async def _try(at: Path, manifest: Manifest, variant: Variant, terms: Terms) -> Tried:
    try:
        worker = await start_worker(at, manifest, variant, terms)
    except EdgedError as error:
        return Tried(variant.name, fault=str(error))
    except OSError as error:
        return Tried(variant.name, fault=f"its worker cannot be started: {error.strerror or error}")
    try:
        verdicts = [
            (golden.file, (await judge_golden(worker, manifest, golden))[0]) for golden in goldens_of(manifest, variant)
        ]
        load_s = worker.loaded.load_s + worker.loaded.warmup_s
        return Tried(variant.name, None, "", load_s, worker.usage().peak_bytes, tuple(verdicts))
    finally:
        await worker.stop(_STOP_GRACE_S)


def table(checked: Checked) -> Table:
    """A line for each variant."""
    columns = (
        Column("VARIANT", wraps=True),
        Column("LOADS"),
        Column("GOLDENS"),
        Column("PEAK MIB", right=True),
    )
    return Table(columns, [_row(tried) for tried in checked.tried])


def _row(tried: Tried) -> tuple[str, ...]:
    if tried.passed_over:
        return (tried.variant, "passed over", "-", "-")
    if tried.fault:
        return (tried.variant, "no", "-", "-")
    failed = sum(not verdict.ok for _, verdict in tried.verdicts)
    passed = len(tried.verdicts) - failed
    goldens = [f"{number} {word}" for number, word in ((passed, "passed"), (failed, "failed")) if number]
    return (tried.variant, duration(tried.load_s), ", ".join(goldens) or "none", mib(tried.peak_bytes))


def notes(checked: Checked) -> list[str]:
    """What the table cannot say: why a variant was not tried, why it failed, what each golden showed."""
    found = []
    for tried in checked.tried:
        if tried.passed_over:
            found.append(f"{tried.variant} is passed over: {tried.passed_over.reason} ({tried.passed_over.code})")
        elif tried.fault:
            found.append(f"{tried.variant} does not load: {tried.fault}")
        found += [f"{tried.variant}: {verdict.text}" for _, verdict in tried.verdicts]
    return found


def data(checked: Checked) -> dict[str, Any]:
    """All of it for programs."""
    manifest = checked.manifest
    return {
        "good": not checked.verdict,
        "verdict": checked.verdict or "good",
        "name": manifest.name if manifest else None,
        "revision": manifest.revision if manifest else None,
        "digest": digest(manifest) if manifest else None,
        "problems": [_problem_data(problem) for problem in checked.problems],
        "warnings": [_problem_data(problem) for problem in checked.warnings],
        "variants": [_tried_data(tried) for tried in checked.tried],
    }


def _problem_data(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.place.file,
        "line": problem.place.line,
        "key": problem.key,
        "found": problem.found,
        "remedy": problem.remedy,
    }


def _tried_data(tried: Tried) -> dict[str, Any]:
    passed = tried.passed_over
    return {
        "variant": tried.variant,
        "passed_over": {"code": str(passed.code), "reason": passed.reason} if passed else None,
        "loads": not passed and not tried.fault,
        "fault": tried.fault,
        "load_s": round(tried.load_s, 3),
        "peak_bytes": tried.peak_bytes,
        "goldens": [
            {"file": file, "ok": verdict.ok, "code": verdict.code and Code(verdict.code).value, "text": verdict.text}
            for file, verdict in tried.verdicts
        ],
    }
