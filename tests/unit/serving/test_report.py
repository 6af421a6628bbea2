"""What the daemon says of itself: a word, reasons, and the line that `systemctl status` shows."""

import pytest
from support.standins import Resident, manifest

from edged.changes import Changes
from edged.models.residency import Residency
from edged.models.states import Lost, State
from edged.serving import report
from edged.serving.report import Mode
from edged.system.life import Life, Phase
from edged.worker.usage import Usage

EVERY_STATE = sorted(State)


def resident(name, state=State.READY, reason="", *, variant=0):
    made = Resident(manifest(name=name), state=state, reason=reason)
    made.variant = made.manifest.variants[variant]
    return made


def daemon(*residents, phase=Phase.RUNNING, degraded=()):
    changes = Changes()
    life, residency = Life(changes), Residency(changes)
    for each in residents:
        residency.add(each)
    for reason in degraded:
        life.degrade(reason)
    life.enter(phase)
    return life, residency


class Stuck:
    """A worker that does not end."""

    pid = 812

    def usage(self):
        return Usage(charged_bytes=45 * 2**20)


class TestMode:
    @pytest.mark.parametrize("state", EVERY_STATE)
    def test_before_the_first_loads_have_ended_it_starts(self, state):
        assert report.mode(*daemon(resident("a", state, "why"), phase=Phase.STARTING)) is Mode.STARTING

    @pytest.mark.parametrize("state", EVERY_STATE)
    def test_at_the_end_it_drains(self, state):
        assert report.mode(*daemon(resident("a", state, "why"), phase=Phase.DRAINING)) is Mode.DRAINING

    @pytest.mark.parametrize(
        ("residents", "mode"),
        [
            pytest.param([], Mode.SERVING, id="no models: nothing is missing"),
            pytest.param([resident("a"), resident("b")], Mode.SERVING, id="all ready"),
            pytest.param([resident("a", variant=1)], Mode.DEGRADED, id="a lesser variant"),
            pytest.param([resident("a"), resident("b", State.FAILED, "why")], Mode.DEGRADED, id="one failed"),
            pytest.param([resident("a", State.LOADING, "its worker ended")], Mode.DEGRADED, id="one comes again"),
            pytest.param([resident("a", State.LOADING)], Mode.DEGRADED, id="one is very slow to come"),
            pytest.param([resident("a", State.UNAVAILABLE, "unloaded")], Mode.DEGRADED, id="one is gone"),
        ],
    )
    def test_in_between_it_serves_or_is_degraded(self, residents, mode):
        assert report.mode(*daemon(*residents)) is mode

    def test_a_worker_that_does_not_end_degrades_it(self):
        holds = resident("a")
        holds.lost.append(Lost(holds.variant, Stuck()))
        life, residency = daemon(holds, resident("b"))
        assert report.mode(life, residency) is Mode.DEGRADED
        (reason,) = report.degraded_reasons(life, residency)
        assert reason.startswith("a worker of model a, variant best, process 812, does not end and holds 45 MiB ")
        assert reason.endswith("; a restart of this device frees them")

    def test_a_reason_of_the_daemons_own_degrades_it_too(self):
        assert report.mode(*daemon(resident("a"), degraded=["the settings are wrong"])) is Mode.DEGRADED


class TestReasons:
    @pytest.mark.parametrize(
        ("one", "reasons"),
        [
            (resident("a"), []),
            (resident("a", variant=1), ["model a is served by variant lesser instead of best"]),
            (resident("a", State.FAILED, "no file"), ["model a is failed: no file"]),
            (resident("a", State.UNAVAILABLE, "unloaded"), ["model a is unavailable: unloaded"]),
            (resident("a", State.UNLOADING, "the daemon stops"), []),
            (resident("a", State.LOADING, "its worker ended"), ["model a is loading: its worker ended"]),
            (resident("a", State.LOADING), ["model a is loading: its first worker is still on the way"]),
        ],
    )
    def test_of_a_model(self, one, reasons):
        assert report.degraded_reasons(*daemon(one)) == reasons

    def test_a_first_load_is_none_while_the_daemon_starts(self):
        assert report.degraded_reasons(*daemon(resident("a", State.LOADING), phase=Phase.STARTING)) == []

    def test_the_daemons_own_come_first_then_the_models_by_name(self):
        residents = [resident("b", variant=1), resident("a", State.FAILED, "no file")]
        assert report.degraded_reasons(*daemon(*residents, degraded=["the settings are wrong"])) == [
            "the settings are wrong",
            "model a is failed: no file",
            "model b is served by variant lesser instead of best",
        ]

    def test_only_the_revision_that_serves_counts(self):
        older = Resident(manifest(name="a", revision=1), state=State.UNAVAILABLE, reason="unloaded")
        assert report.degraded_reasons(*daemon(older, Resident(manifest(name="a", revision=2)))) == []


class TestSummary:
    @pytest.mark.parametrize(
        ("of", "line"),
        [
            (daemon(), "serving, no models"),
            (daemon(resident("a"), resident("b")), "serving, 2 of 2 models ready"),
            (daemon(resident("a", State.LOADING), phase=Phase.STARTING), "starting, 0 of 1 models ready"),
            (daemon(resident("a"), phase=Phase.DRAINING), "draining, 1 of 1 models ready"),
            (
                daemon(resident("a"), resident("b", State.FAILED, "no file")),
                "degraded, 1 of 2 models ready: model b is failed: no file",
            ),
            (
                daemon(resident("a", State.FAILED, "no file"), degraded=["one", "two"]),
                "degraded, 0 of 1 models ready: one (and 2 more)",
            ),
        ],
    )
    def test_is_one_line(self, of, line):
        assert report.summary(*of) == line
