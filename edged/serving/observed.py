"""The results of one revision, counted in the bins of their reference until somebody collects them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from edged.bundle import distribution
from edged.bundle.manifest import Manifest
from edged.facts import OutputCounts
from edged.worker.messages import Counted

# More results than any batch has.
_MOST = 2**31


class Observed:
    """Counts by variant: a worker tells those of each batch, and only of live requests."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._sizes = [len(distribution.bins(drift).expected) for drift in manifest.drift]
        self._counts: dict[tuple[str, int], Counter[int]] = {}
        self._flagged: Counter[tuple[str, int]] = Counter()

    def take(self, variant: str, counted: Sequence[Counted]) -> None:
        """What one batch gave, as its worker says; what cannot be is passed over."""
        for each in counted:
            if not self._can_be(each):
                continue
            key = (variant, each.watched)
            counts = self._counts.setdefault(key, Counter())
            for place, count in zip(each.bins, each.counts, strict=True):
                counts[place] += count
            self._flagged[key] += each.flagged

    def _can_be(self, each: Counted) -> bool:
        """A worker runs what a bundle brought: it is not believed."""
        if not 0 <= each.watched < len(self._sizes) or len(each.bins) != len(each.counts):
            return False
        bins = range(self._sizes[each.watched])
        numbers = (*each.counts, each.flagged)
        return all(place in bins for place in each.bins) and all(0 <= number <= _MOST for number in numbers)

    def collect(self) -> Iterator[OutputCounts]:
        """All since the last time, as facts."""
        counted, flagged = self._counts, self._flagged
        self._counts, self._flagged = {}, Counter()
        for (variant, number), counts in counted.items():
            drift = self._manifest.drift[number]
            expected = distribution.bins(drift).expected
            yield OutputCounts(
                model=self._manifest.name,
                revision=self._manifest.revision,
                variant=variant,
                output=drift.output,
                kind=drift.kind,
                expected=tuple(round(share, 6) for share in expected),
                counts=tuple(counts[place] for place in range(len(expected))),
                flagged=flagged[variant, number],
            )
