"""Power that goes at each step of updates where memory holds one of two revisions: one of them, whole, serves then."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from support.daemon import PATIENCE_S, Daemon
from support.fleet import Fleet
from support.powercuts import WRITERS, Power, check_cut, sampled, writers
from support.swapping import limit_for_one_mib
from support.updating import MODEL, QUICK, Updating, large_model, scale_bundle

from edged._pb.edged.v1 import update_pb2 as up

# What a worker of a model with a table of so many MiB takes while it loads, and a little more: what it says it needs.
LARGE_MIB, NEED_MIB = 64, 300

NEEDS = f"requires = {{ memory_mib = {NEED_MIB} }}\n"
LONG = "[acceptance]\nshadow = { samples = 0 }\nsoak = { min_requests = 50, max_s = 600 }\n"
FACTORS = {1: 2.0, 2: 3.0, 3: 5.0, 4: 7.0}
WRONG, SOAKING = 3, 4


class Move(NamedTuple):
    """An update, from the revision that serves before it to the one that does in the end."""

    before: int
    wanted: int
    after: int

    @property
    def may_serve(self) -> list[tuple[list[float], int]]:
        """What may be answered at any time of it, and by which revision; never by one that is wrong."""
        return [right(revision) for revision in {*self} - {WRONG}]


MOVES = {"to commit": Move(1, 2, 2), "to be refused": Move(2, WRONG, 2), "to be gone back on": Move(2, SOAKING, 2)}


def right(revision: int) -> tuple[list[float], int]:
    """What a revision answers when it is asked for 1 and 2."""
    return [FACTORS[revision], 2 * FACTORS[revision]], revision


class Swaps:
    """Devices that make one move after the other; each of those is cut off on a device as the one before left it."""

    def __init__(self, folder: Path) -> None:
        self._fleet, self._power = Fleet(folder / "fleet"), Power(folder)
        bundles = folder / "bundles"
        goldens = {WRONG: 6.0}
        made = {
            revision: scale_bundle(
                bundles,
                revision,
                factor=factor,
                golden_factor=goldens.get(revision),
                model=large_model(LARGE_MIB, factor),
                extra=NEEDS + (LONG if revision == SOAKING else QUICK),
            )
            for revision, factor in FACTORS.items()
        }
        self._fleet.publish(*(made[revision] for revision in FACTORS if revision > 1))
        ready = folder / "ready"
        settings = self._fleet.trusted_by(ready) + "[pressure]\nmemory_reserve_mib = 0\n"
        with Daemon(ready, [made[1]], settings, self._power.interpreter) as daemon:
            assert Updating(daemon.start()).answers() == right(1)
            daemon.write_settings(settings + f"memory_limit_mib = {limit_for_one_mib(daemon, NEED_MIB)}\n")
        self._ready: dict[str, Path] = {}
        self.steps: list[tuple[str, str]] = []
        for called in MOVES:
            self._ready[called], ready = ready, folder / called.replace(" ", "-")
            self.steps += [(called, step) for step in self._live(called, "", ready)]

    def _live(self, called: str, cut: str, root: Path) -> list[str]:
        """Makes a move on a device that is ready for it, unless the power is cut before; gives the steps of that."""
        move = MOVES[called]
        subprocess.run(["cp", "-a", self._ready[called], root], check=True)  # with its hard links
        self._fleet.plan(MODEL, move.wanted)
        with Daemon(root, interpreter=self._power.interpreter) as daemon:
            try:
                daemon.start(environment=self._power.environment(root, cut, changes=True))
                self._make(move, Updating(daemon))
            except (grpc.RpcError, AssertionError):
                if not cut:
                    raise
                daemon.process.wait(PATIENCE_S)  # for that it ended
        return self._power.steps(root)

    @staticmethod
    def _make(move: Move, updating: Updating) -> None:
        """Waits for the end of a move, whose revision a soak is gone back from by hand."""
        ends = {WRONG: "golden_mismatch", SOAKING: "operator"}
        if reason := ends.get(move.wanted):
            found = updating.wait(lambda model: model.phase == "soaking" or updating.last_reason() == reason)
            if found.phase == "soaking":
                updating.call("RollBack", up.RollBackRequest(model=MODEL), up.RollBackResponse)
        updating.wait_idle_at(move.after)
        assert updating.answers() == right(move.after)
        updating.daemon.wait_for(lambda status: [each.revision for each in status.workers] == [move.after])
        changed = {step.revision for step in updating.history() if step.event == "swaps"}
        assert move.wanted in changed, "memory holds both"

    def cut_at(self, called: str, step: str, root: Path) -> bool:
        """Cuts the power at a step, starts again, and looks at what serves, and whether the move comes to its end.

        Says whether it came to that step.
        """
        move = MOVES[called]
        self._live(called, step, root)
        was_cut = self._power.was_cut(root, step)
        with Daemon(root, interpreter=self._power.interpreter) as daemon:
            updating = Updating(daemon.start())
            assert updating.answers() in move.may_serve
            self._make(move, updating)
        shutil.rmtree(root)
        return was_cut


@pytest.fixture(scope="module")
def swaps(tmp_path_factory) -> Swaps:
    return Swaps(tmp_path_factory.mktemp("swaps"))


def test_the_state_is_changed_by_whom_we_know_where_revisions_change_places(swaps):
    durable = [step for _, step in swaps.steps if not step.startswith("change ")]
    assert writers(durable) <= WRITERS


def test_the_power_goes_at_some_steps_where_revisions_change_places(swaps, tmp_path):
    for number, (called, step) in enumerate(sampled(swaps.steps, 2)):
        print(called, step)  # noqa: T201
        swaps.cut_at(called, step, tmp_path / str(number))


@pytest.mark.slow
@pytest.mark.parametrize("called", MOVES)
def test_the_power_goes_at_every_step_where_revisions_change_places(swaps, tmp_path, called):
    cut = []
    for number, step in enumerate(step for move, step in swaps.steps if move == called):
        print(called, step)  # noqa: T201
        cut.append(swaps.cut_at(called, step, tmp_path / str(number)))
    check_cut(cut)
