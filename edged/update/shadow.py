"""The shadow: copies of live requests, run by the revision on trial and held against the answers that were given.

One at a time, for a share of the time only, and dropped where they would wait: nobody is slowed by a comparison.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from edged import clock
from edged.bundle.manifest import Golden, Manifest
from edged.errors import Code, EdgedError
from edged.types import Comparison, Sample
from edged.update.reasons import Reason
from edged.worker.messages import InputPart, OutputPart, RunShadow
from edged.worker.process import Worker

_WAITING = 4
_MAX_SAMPLE_BYTES = 16 * 2**20

# The revision on trial may compute for this share of the time at most.
_DUTY = 0.2

# Fewer samples show nothing.
LEAST_SAMPLES = 10


class Agreement(msgspec.Struct):
    """How far the answers agree, output by output."""

    samples: int = 0
    failed: int = 0
    dropped: int = 0
    skipped: int = 0
    """Too large to be copied."""
    agreeing: dict[str, int] = {}
    counted: dict[str, int] = {}

    def add(self, comparisons: Sequence[Comparison], labelled: frozenset[str]) -> None:
        """Counts one sample. A class is compared by the largest element, anything else as close or as largest."""
        self.samples += 1
        for found in comparisons:
            if found.output in labelled:
                agreeing, counted = found.agreeing_rows, found.rows
            else:
                wide = found.rows and found.elements // found.rows > 1
                by_class = found.agreeing_rows / found.rows if wide else 0.0
                within = 1 - found.outside / found.elements if found.elements else 1.0
                agreeing, counted = round(max(by_class, within) * found.rows), found.rows
            self.agreeing[found.output] = self.agreeing.get(found.output, 0) + agreeing
            self.counted[found.output] = self.counted.get(found.output, 0) + counted

    @property
    def share(self) -> float:
        """Of the output that agrees least; a sample that could not be run agrees in nothing."""
        shares = [self.agreeing[name] / counted for name, counted in self.counted.items() if counted]
        worst = min(shares, default=1.0)
        total = self.samples + self.failed
        return worst * self.samples / total if total else 1.0

    def evidence(self) -> dict[str, Any]:
        """The numbers."""
        return {
            "samples": self.samples,
            "failed": self.failed,
            "dropped": self.dropped,
            "agreement": round(self.share, 4),
        }


class Shadow:
    """Takes samples without ever waiting, and runs them."""

    def __init__(self, manifest: Manifest, worker: Worker) -> None:
        self.agreement = Agreement()
        self._manifest = manifest
        self._worker = worker
        self._samples: asyncio.Queue[Sample] = asyncio.Queue(_WAITING)
        self._labelled = frozenset(spec.name for spec in manifest.outputs if spec.labels)
        golden = manifest.acceptance.goldens[0] if manifest.acceptance.goldens else Golden(file="-")
        self._atol, self._rtol = golden.atol, golden.rtol

    def take(self, sample: Sample) -> None:
        """Takes a sample, or drops it."""
        if sum(map(len, sample.contents)) + sum(map(len, sample.expected)) > _MAX_SAMPLE_BYTES:
            self.agreement.skipped += 1
        elif self._samples.full():
            self.agreement.dropped += 1
        else:
            self._samples.put_nowait(sample)

    async def run(self, limit_s: float) -> str:
        """Compares as many samples as the manifest asks for, or as come in `limit_s`; says why there were too few.

        Raises EdgedError when the worker ends or hangs.
        """
        wanted = self._manifest.acceptance.shadow.samples
        try:
            async with asyncio.timeout(limit_s):
                while self.agreement.samples + self.agreement.failed < wanted:
                    sample = await self._samples.get()
                    began = clock.monotonic()
                    await self._compare(sample)
                    await asyncio.sleep((clock.monotonic() - began) * (1 / _DUTY - 1))
        except TimeoutError:
            found = self.agreement.samples + self.agreement.failed
            if found < min(LEAST_SAMPLES, wanted):
                return f"{found} requests could be copied in {limit_s:g} s"
        return ""

    async def _compare(self, sample: Sample) -> None:
        asked = RunShadow(
            inputs=sample.inputs,
            parts=tuple(
                InputPart(shape, len(content), form)
                for shape, content, form in zip(sample.shapes, sample.contents, sample.forms, strict=True)
            ),
            outputs=sample.outputs,
            expected=tuple(
                OutputPart(shape, len(raw)) for shape, raw in zip(sample.expected_shapes, sample.expected, strict=True)
            ),
            atol=self._atol,
            rtol=self._rtol,
        )
        try:
            compared = await self._worker.shadow(asked, [*sample.contents, *sample.expected])
        except EdgedError as error:
            if error.code in (Code.WORKER_CRASHED, Code.WORKER_HANG):
                raise
            self.agreement.failed += 1
        else:
            self.agreement.add(compared.outputs, self._labelled)

    def verdict(self) -> tuple[Reason | None, str]:
        """Whether the answers agree as the manifest demands; the reason where they do not, and in words."""
        floor, share = self._manifest.acceptance.shadow.agreement, self.agreement.share
        found = f"{share:.1%} of {self.agreement.samples + self.agreement.failed} copied requests agree"
        if share < floor:
            return Reason.SHADOW_DISAGREEMENT, f"{found}; the least allowed share is {floor:.1%}"
        return None, found
