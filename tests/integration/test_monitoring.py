"""What models answer is watched: a shift of the inputs shows in the windows, a doubtful result in its own answer."""

from __future__ import annotations

from pathlib import Path

import msgspec
from support.daemon import Daemon
from support.updating import QUICK, scale, scale_bundle

from edged.telemetry.drift import SHIFTED, SHIFTING
from edged.telemetry.messages import Telemetry
from edged.telemetry.spool import Spool
from edged.telemetry.window import OutputDrift

# The model doubles: inputs spread evenly over 0 to 1 give results over 0 to 2.
REFERENCE = [step / 5 for step in range(11)]
DRIFT = f'[[drift]]\noutput = "y"\nkind = "value"\nreference = {REFERENCE}\nreview_above = 2.0\n'
EVENLY = [(number + 0.5) / 300 for number in range(300)]


def daemon_in(folder: Path, extra: str = DRIFT) -> Daemon:
    root = folder / "root"
    bundles = [] if root.exists() else [scale_bundle(folder / "factory", 1, factor=2.0, extra=QUICK + extra)]
    return Daemon(root, bundles, "[telemetry]\nwindow_s = 3600\n")


def windows(daemon: Daemon) -> list[Telemetry]:
    """Of a daemon that has ended: it has stored the window that was open."""
    spool = Spool(daemon.root / "var/lib/edged/telemetry", 8 * 2**20, 0)
    rows = [row for row in spool.take(64, coarse=False) if row.kind == "window"]
    spool.close()
    return [msgspec.json.decode(row.payload, type=Telemetry) for row in rows]


def drifts(daemon: Daemon) -> list[OutputDrift]:
    return [drift for each in windows(daemon) for model in each.window.models for drift in model.drift]


def ask(daemon: Daemon, values: list[float]) -> list[bool]:
    """Asks in pairs; whether each answer was flagged."""
    pairs = zip(values[::2], values[1::2], strict=True)
    answers = [daemon.infer(scale(*pair)) for pair in pairs]
    return [answer.parameters["edged_review"].bool_param for answer in answers]


def test_a_shift_of_the_inputs_shows_in_the_window_and_a_doubtful_result_in_its_answer(tmp_path):
    with daemon_in(tmp_path) as daemon:
        daemon.start()
        assert not any(ask(daemon, EVENLY))
    with daemon_in(tmp_path) as daemon:
        daemon.start()
        shifted = [value * 0.5 + 0.75 for value in EVENLY]
        flagged = ask(daemon, shifted)
        daemon.stop()
        log = daemon.log()
    steady, moved = drifts(daemon)
    assert (steady.output, steady.kind, sum(steady.counts), steady.flagged) == ("y", "value", len(EVENLY), 0)
    assert steady.psi < SHIFTING < SHIFTED < moved.psi
    doubtful = [value * 2 > 2.0 for value in shifted]
    assert flagged == [one or other for one, other in zip(doubtful[::2], doubtful[1::2], strict=True)]
    assert moved.flagged == sum(doubtful)
    assert sum(moved.counts) == len(shifted)
    assert "output_drift" in log


def test_what_is_made_up_is_no_result_of_the_models(tmp_path):
    with daemon_in(tmp_path) as daemon:
        daemon.start()
        synthetic = scale(9.0, 9.0)
        synthetic.parameters["edged_synthetic"].bool_param = True
        assert not daemon.infer(synthetic).parameters["edged_review"].bool_param
        ask(daemon, [0.25, 0.5])
        daemon.stop()
    (found,) = drifts(daemon)
    assert (sum(found.counts), found.flagged) == (2, 0)


def test_the_answer_of_a_bundle_that_watches_nothing_says_nothing_of_review(tmp_path):
    with daemon_in(tmp_path, extra="") as daemon:
        daemon.start()
        answer = daemon.infer(scale(1.0, 2.0))
        assert "edged_review" not in answer.parameters
        daemon.stop()
    assert drifts(daemon) == []


def test_the_windows_hold_what_the_sensors_say_and_where_updates_stand(tmp_path):
    with daemon_in(tmp_path) as daemon:
        zone = daemon.root / "sys/class/thermal/thermal_zone0"
        zone.mkdir(parents=True)
        (zone / "type").write_text("cpu-thermal\n")
        (zone / "temp").write_text("47000\n")
        daemon.start()
        daemon.wait_for(lambda status: status.ready)
        daemon.stop()
    (found,) = windows(daemon)
    for name in ("temperature_c", "storage_free_mib"):
        assert found.window.readings[name].count >= 1
    assert found.window.readings["temperature_c"].last == 47
    assert found.window.update_phases == {"scale": "idle 1"}
