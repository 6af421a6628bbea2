"""Power that goes at a step that a daemon makes: the steps are counted once, then it is cut off at any of them."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from support.hostile_site.power_site import CHANGES, WRITES
from support.interpreter import hostile_interpreter

_Step = TypeVar("_Step")

# Who may change the state folder. A new one belongs here only when it survives the cuts below.
WRITERS = {
    "edged.system.current.remember",
    "edged.config.last_good.remember",
    "edged.models.files.make_folder",
    "edged.models.files.remove_tree",
    "edged.models.store._assemble",
    "edged.models.store._mend",
    "edged.models.store._remove",
    "edged.models.store._take_blob",
    "edged.models.store.collect",
    "edged.models.store.discard",
    "edged.system.folders.make_folder",
    "edged.update.fetcher._make_scratch",
    "edged.update.journal._transaction",
    "edged.update.journal_file.is_writable",
    "edged.update.markers.put",
    "edged.update.markers.remove",
}
# Who may change the cache folder, of which the same holds.
CACHE_WRITERS = {
    "edged.models.cache.begin",
    "edged.models.cache.keep",
    "edged.models.cache.look",
    "edged.models.files.make_folder",
    "edged.models.files.remove_tree",
}


class Power:
    """An interpreter whose edged says each step that it makes, and ends, as by kill -9, before one that is named."""

    def __init__(self, folder: Path, watched: str = "var/lib/edged") -> None:
        """It is laid out in `folder`; `watched`: what of a device is to be a step when it changes."""
        self.interpreter = hostile_interpreter(folder / "python", "power_site")
        self._watched = watched

    def environment(self, root: Path, cut: str, *, changes: bool = False) -> dict[str, str]:
        """That of a daemon below `root`, cut off at a step, or never; `changes`: those in its memory are steps too."""
        control = root.with_suffix(".json")
        given = {"state": str(root / self._watched), "steps": str(_steps(root)), "cut": cut, "changes": changes}
        control.write_text(json.dumps(given))
        return {"EDGED_TEST_POWER": str(control)}

    def steps(self, root: Path) -> list[str]:
        """Those that it made, each once; the spool of telemetry, cut by tests of its own, writes when windows end."""
        return [step for step in _steps(root).read_text().splitlines() if " by edged.telemetry." not in step]

    def was_cut(self, root: Path, step: str) -> bool:
        """Whether it came to that step: how often something is tried differs from life to life."""
        return step in self.steps(root)


def moments(folder: Path, copies: Path, act: Callable[[], object]) -> list[Path]:
    """Copies of what lies in `folder` before each thing that `act` does to it: what a power cut may leave there.

    It is done in a child of this process, since whoever follows an interpreter (its audit events) does so to its end.
    """
    copies.mkdir()

    def follow(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            changes = str(arguments[0]).startswith(str(folder)) and arguments[2] & WRITES
        elif event in CHANGES:
            by_descriptor = event in ("os.remove", "os.rmdir") and arguments[1] != -1  # as shutil.rmtree does
            changes = by_descriptor or any(str(each).startswith(str(folder)) for each in arguments[:2])
        else:
            return
        if changes and folder.is_dir():
            shutil.copytree(folder, copies / f"{len(list(copies.iterdir())):04}", symlinks=True)

    child = os.fork()
    if child == 0:
        status = 1
        try:
            sys.addaudithook(follow)
            act()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return sorted(copies.iterdir())


def check_cut(cut: Sequence[bool]) -> None:
    """Raises AssertionError where many lives came to their end uncut, and so showed nothing."""
    assert sum(cut) >= 0.9 * len(cut), f"{sum(cut)} of {len(cut)} were cut"


def _steps(root: Path) -> Path:
    return root.with_suffix(".steps")


def writers(steps: Iterable[str]) -> set[str]:
    """Who makes them."""
    return {re.sub(r"^.* by (\S+).*$", r"\1", step) for step in steps}


def kind(step: str) -> str:
    """A step but for how often it was made; each commit is a step of its own."""
    return step if "commit" in step else re.sub(r" \d+$", "", step)


def sampled(steps: Sequence[_Step], count: int) -> list[_Step]:
    """Some of them, by a seed that is printed."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - to run it again
    return random.Random(seed).sample(steps, count)
