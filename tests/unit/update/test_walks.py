"""Whole devices, whatever happens to them in whatever order: see `support.walks` for what is to hold."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.walks import Step, walk
from support.walksteps import draw

from edged.update.machine import Phase

# What walks have met once, cut down to what it takes.
MET: dict[str, Sequence[Step]] = {
    "back to what served before a soak": [
        ("sleep", (2.0,)),
        ("plan", ("a", 2)),
        ("until", ("a", Phase.SOAKING)),
        ("pin", ("a", 1)),
        ("sleep", (40.0,)),
    ],
    "a start with a slow disk, of a model that has nothing yet and others": [
        ("sleep", (2.0,)),
        ("fault", ("fetch", "hangs")),
        ("pin", ("c", 1)),
        ("sleep", (2.0,)),
        ("fault", ("job_s", 0.05)),
        ("cut", ()),
        ("sleep", (2.0,)),
    ],
    "two who unpin": [("sleep", (2.0,)), ("pin", ("a", 1)), ("sleep", (0.1,)), ("unpin", ("a",)), ("unpin", ("a",))],
    "an unloaded model whose soak ends": [
        ("sleep", (2.0,)),
        ("plan", ("a", 2)),
        ("fault", ("release_s", 0.1)),
        ("until", ("a", Phase.SOAKING)),
        ("unload", ("a",)),
        ("turns", (2,)),
        ("pin", ("a", 3)),
        ("sleep", (2.0,)),
    ],
    "what is about to end, loaded": [
        ("sleep", (2.0,)),
        ("plan", ("a", 2)),
        ("fault", ("release_s", 3.0)),
        ("until", ("a", Phase.COMMITTED)),
        ("load", ("a", 1)),
        ("sleep", (10.0,)),
    ],
    "a commit of what the next start cannot run": [
        ("sleep", (2.0,)),
        ("fault", ("release_s", 8.0)),
        ("plan", ("a", 2)),
        ("until", ("a", Phase.COMMITTED)),
        ("break", ("a", 2)),
        ("cut", ()),
        ("sleep", (2.0,)),
    ],
    "a soak that ends while nothing can be written": [
        ("sleep", (2.0,)),
        ("plan", ("a", 2)),
        ("until", ("a", Phase.SOAKING)),
        ("fault", ("journal_fails", "rows")),
        ("plan", ("a", 1)),
        ("sleep", (5.0,)),
    ],
    "what failed while nothing could be written, wanted again": [
        ("sleep", (2.0,)),
        ("plan", ("a", 3)),
        ("until", ("a", Phase.SOAKING)),
        ("fault", ("journal_fails", "rows")),
        ("ask", ("a", False)),
        ("sleep", (10.0,)),
    ],
    "a model unloaded on the trial of another revision": [
        ("sleep", (2.0,)),
        ("plan", ("a", 2)),
        ("until", ("a", Phase.TRIAL)),
        ("unload", ("a",)),
        ("sleep", (10.0,)),
    ],
    "a revision unloaded while it is compared": [
        ("sleep", (2.0,)),
        ("plan", ("b", 2)),
        ("until", ("b", Phase.SHADOW)),
        ("load", ("b", 1)),
        ("sleep", (1.0,)),
        ("ask", ("b", True)),
        ("sleep", (1.0,)),
    ],
    "an order to load what an update has begun anew": [
        ("sleep", (2.0,)),
        ("plan", ("a", 2)),
        ("until", ("a", Phase.SOAKING)),
        ("fault", ("release_s", 8.0)),
        ("load", ("a", 0)),
        ("load", ("a", 0)),
        ("plan", ("a", 1)),
        ("turns", (40,)),
        ("sleep", (0.6,)),
        ("plan", ("a", 2)),
        ("turns", (40,)),
    ],
    "a soak while another revision is meant": [
        ("sleep", (2.0,)),
        ("plan", ("b", 3)),
        ("until", ("b", Phase.COMMITTED)),
        ("sleep", (2.0,)),
        ("break", ("b", 3)),
        ("cut", ()),
        ("sleep", (2.0,)),
        ("plan", ("b", 2)),
        ("until", ("b", Phase.SOAKING)),
        ("break", ("b", 3)),
        ("cut", ()),
        ("sleep", (2.0,)),
    ],
    "a floor that is raised above what is under way": [
        ("sleep", (2.0,)),
        ("fault", ("fetch_s", 5.0)),
        ("pin", ("b", 2)),
        ("floor", ("b", 3)),
        ("look", ()),
        ("sleep", (5.1,)),
        ("sleep", (40.0,)),
    ],
}


@pytest.mark.parametrize("steps", MET.values(), ids=MET.keys())
def test_a_walk_that_went_wrong_once_goes_well(tmp_path: Path, steps: Sequence[Step]):
    walk(tmp_path, steps)


@pytest.mark.parametrize("count", [20, pytest.param(5000, marks=pytest.mark.slow)])
def test_whatever_happens_a_device_serves_what_it_may_and_everything_comes_to_an_end(tmp_path: Path, count: int):
    first = random.SystemRandom().randrange(2**32)
    for seed in range(first, first + count):
        chance = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            walk(folder, draw(chance, chance.randint(15, 60)), seed)
        except Exception as error:
            error.add_note(f"the seed was {seed}")
            raise
        shutil.rmtree(folder)
