"""Leases of applications: over the daemon's lives, and no longer than they may."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.walks import Step, Walk, walked

from edged.errors import Code, EdgedError
from edged.intents import Hold
from edged.update import agent as agents
from edged.update.holds import Lease
from edged.update.machine import Phase
from edged.update.obeying import Obeying

_BEGUN: list[Step] = [("sleep", (2.0,))]
_ENDS = pytest.mark.parametrize("ends", ["cut", "restart"])


def take(found: Walk, seconds: float, lease: str = "") -> Lease:
    """An application's lease of model `a`."""
    return found.life.loop.run_until_complete(found.life.agent.holds.take("somebody", "a", seconds, lease))


def wait(found: Walk, seconds: float) -> tuple[Phase, int]:
    """Where the model stands so long after revision 2 was wanted, or a start."""
    found.take(("sleep", (seconds,)))
    state = found.life.agent.courses["a"].state
    assert state.serving is not None
    return state.phase, state.serving.revision


def written(found: Walk, patch: pytest.MonkeyPatch) -> list[str]:
    """What facts are written from now on."""
    journal, names = found.life.journal, list[str]()
    keep = journal.keep_fact
    patch.setattr(journal, "keep_fact", lambda *fact: (names.append(fact[0]), keep(*fact)))
    return names


@_ENDS
def test_one_holds_after_a_start_and_is_renewed_and_ends(tmp_path: Path, ends: str):
    with walked(tmp_path, _BEGUN) as found:
        lease = take(found, 300)
        found.take(("plan", ("a", 2)))
        assert wait(found, 60.0) == (Phase.SHADOW, 1)
        found.take((ends, ()))
        assert wait(found, 200.0) == (Phase.SHADOW, 1)
        assert take(found, 300, lease.id).owner == "somebody"
        assert wait(found, 280.0) == (Phase.SHADOW, 1)
        assert wait(found, 60.0)[1] == 2
        found.finish()


@_ENDS
def test_one_that_was_released_holds_nothing_after_a_start(tmp_path: Path, ends: str):
    with walked(tmp_path, _BEGUN) as found:
        lease = take(found, 3600)
        found.take(("plan", ("a", 2)))
        assert wait(found, 40.0) == (Phase.SHADOW, 1)
        assert found.life.loop.run_until_complete(found.life.agent.holds.release(lease.id))
        found.take((ends, ()))
        assert wait(found, 60.0)[1] == 2


def test_one_ends_where_power_cuts_go_on(tmp_path: Path):
    with walked(tmp_path, _BEGUN) as found:
        poll_s = found.life.shop.settings.poll_s
        take(found, 4 * poll_s)
        for _ in range(8):
            found.take(("sleep", (1.5 * poll_s,)))
            found.take(("cut", ()))
        found.take(("sleep", (2.0,)))
        assert found.life.agent.holds.on("a", found.life.loop.now_s) is None


def test_one_ends_where_the_power_is_cut_more_often_than_the_device_looks(tmp_path: Path):
    with walked(tmp_path, _BEGUN) as found:
        life_s = 2 * agents._KEEP_S
        assert life_s < found.life.shop.settings.poll_s
        take(found, 4 * agents._KEEP_S)
        for _ in range(5):
            found.take(("sleep", (life_s,)))
            found.take(("cut", ()))
        found.take(("sleep", (2.0,)))
        assert found.life.agent.holds.on("a", found.life.loop.now_s) is None


def test_one_that_is_renewed_is_written_once_and_where_it_is_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with walked(tmp_path, _BEGUN) as found:
        names = written(found, monkeypatch)
        lease = take(found, 60)
        for _ in range(5):
            found.take(("sleep", (30.0,)))
            take(found, 60, lease.id)
        assert names.count("leases") == 1
        take(found, 600, lease.id)
        assert names.count("leases") == 2
        found.take(("cut", ()))
        found.take(("sleep", (500.0,)))
        assert found.life.agent.holds.on("a", found.life.loop.now_s) is not None


def test_none_costs_no_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with walked(tmp_path, _BEGUN) as found:
        names = written(found, monkeypatch)
        found.take(("sleep", (7200.0,)))
        assert "leases" not in names


def test_one_holds_though_nothing_can_be_kept(tmp_path: Path):
    with walked(tmp_path, _BEGUN) as found:
        found.outside.journal_fails = "rows"
        take(found, 600)
        found.outside.journal_fails = ""
        found.take(("plan", ("a", 2)))
        assert wait(found, 60.0) == (Phase.SHADOW, 1)


def test_a_command_takes_none_for_longer_than_the_settings_allow(tmp_path: Path):
    with walked(tmp_path, _BEGUN) as found:
        agent, run = found.life.agent, found.life.loop.run_until_complete
        longest_s = int(agent.shop.settings.hold_max_s)
        with pytest.raises(EdgedError, match=r"update\.hold_max_s") as caught:
            run(Obeying(agent).carry_out(Hold("a", longest_s + 1)))
        assert caught.value.code is Code.INVALID_ARGUMENT
        assert agent.holds.on("a", found.life.loop.now_s) is None
        run(Obeying(agent).carry_out(Hold("a", longest_s)))
        assert agent.holds.on("a", found.life.loop.now_s + longest_s - 1) is not None
