"""Results counted by a worker: every one in the bin where it belongs, and those out of range by their caller."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edged.bundle.distribution import bins
from edged.bundle.manifest import Drift
from edged.worker.messages import Infer, Watched
from edged.worker.observe import MOST_RESULTS, Observer, members

SCORES = arrays.arrays(np.float32, st.tuples(st.integers(1, 60), st.just(5)), elements=st.floats(-9, 9, width=32))


def watched(kind: str, reference: tuple[float, ...], below: float | None = None, above: float | None = None) -> Watched:
    found = bins(Drift(output="y", kind=kind, reference=reference))
    return Watched("y", kind, found.edges, len(found.expected), found.of_class, below, above)


def counts_of(observer: Observer, count: int) -> list[int]:
    found = [0] * count
    for each in observer.drain():
        for place, number in zip(each.bins, each.counts, strict=True):
            found[place] += number
    return found


@given(SCORES)
def test_every_class_is_counted(scores):
    observer = Observer([watched("classes", (1, 1, 1, 1, 1))], batched=True)
    assert observer.look(["y"], [scores]) == set()
    assert counts_of(observer, 5) == np.bincount(scores.argmax(1), minlength=5).tolist()
    assert observer.drain() == (), "it is told once"


@given(SCORES, st.floats(-9, 9), st.floats(-9, 9))
def test_a_confidence_out_of_its_range_is_found_at_its_row(scores, one, other):
    low, high = sorted((one, other))
    observer = Observer([watched("confidence", (-5, 0, 5), low, high)], batched=True)
    top = scores.max(1).astype(np.float64)
    assert observer.look(["y"], [scores]) == set(np.flatnonzero((top < low) | (top > high)).tolist())
    (found,) = observer.drain()
    assert (sum(found.counts), found.flagged) == (len(top), int(((top < low) | (top > high)).sum()))
    assert dict(zip(found.bins, found.counts, strict=True)) == {
        place: count for place, count in enumerate([int((top <= 0).sum()), int((top > 0).sum())]) if count
    }


@pytest.mark.parametrize("shape", [(4, 1000, 3), (3, MOST_RESULTS * 5), (1, 1), (2, 0)])
def test_of_many_results_some_are_looked_at_evenly(shape):
    observer = Observer([watched("value", (0, 1, 2), above=1.5)], batched=True)
    values = np.zeros(shape, np.float32)
    values[-1] = 2
    rows = observer.look(["y"], [values])
    looked_at = sum(counts_of(observer, 2))
    assert min(values.size, MOST_RESULTS // 2) <= looked_at <= MOST_RESULTS
    assert rows == ({len(values) - 1} if values.size else set())


@pytest.mark.parametrize("doubtful", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_in_no_range(doubtful):
    observer = Observer([watched("value", (0, 1), -10, 10)], batched=True)
    assert observer.look(["y"], [np.array([[1.0], [doubtful]])]) == {1}
    assert sum(counts_of(observer, 1)) == 2


def test_a_result_of_a_model_without_batches_is_its_only_row():
    observer = Observer([watched("confidence", (0, 1), below=0.5)], batched=False)
    assert observer.look(["y"], [np.array([0.1, 0.2])]) != set()
    assert observer.look(["y"], [np.array([0.1, 0.9])]) == set()
    assert sum(counts_of(observer, 1)) == 2


def test_an_axis_of_free_size_may_hold_more_classes_than_the_reference():
    observer = Observer([watched("classes", (1, 1))], batched=True)
    observer.look(["y"], [np.array([[0, 0, 0, 9.0]])])
    assert counts_of(observer, 2) == [0, 1]


def test_an_output_that_nobody_asked_for_is_not_there():
    observer = Observer([watched("classes", (1, 1))], batched=True)
    assert observer.look(["z"], [np.zeros((1, 2))]) == set()
    assert observer.drain() == ()
    assert not Observer([], batched=True)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.data())
def test_rows_belong_to_members(rows, data):
    owners = [member for member, count in enumerate(rows) for _ in range(count)]
    found = data.draw(st.sets(st.sampled_from(range(len(owners))))) if owners else set()
    assert members(rows, found) == sorted({owners[row] for row in found})


@pytest.mark.parametrize("together", [True, False])
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6), st.data())
def test_members_that_are_not_watched_are_neither_counted_nor_reviewed(together, given_members, data):
    elements = st.floats(-9, 9, width=32)
    answers = [data.draw(arrays.arrays(np.float32, (rows, 1), elements=elements)) for rows, _ in given_members]
    unwatched = tuple(place for place, (_, seen) in enumerate(given_members) if not seen)
    asked = Infer(("x",), ("y",), [], (-1,), ((-1, 0),), unwatched=unwatched)
    observer = Observer([watched("value", (0.0, 1.0), above=5.0)], batched=True)
    rows = [len(each) for each in answers]
    whole = [np.concatenate(answers)] if together and sum(rows) else []
    found = observer.review(asked, whole, rows, [[each] for each in answers])
    seen = [place for place in range(len(rows)) if place not in unwatched]
    assert list(found) == [place for place in seen if (answers[place] > 5).any()]
    assert sum(counts_of(observer, 9)) == sum(rows[place] for place in seen)
