"""The operating system goes back to an older engine: a revision that still runs serves, and nothing is condemned."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from support.daemon import Daemon
from support.fleet import Fleet
from support.updating import QUICK, Updating, scale_bundle

from edged._pb.edged.v1 import update_pb2 as up


def older_engine(folder: Path) -> dict[str, str]:
    """The environment of a daemon whose image has an older ONNX Runtime: its version is what an image installs."""
    installed = folder / "onnxruntime-1.0.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 1.0.0\n")
    return {"PYTHONPATH": str(folder)}


def test_a_revision_that_runs_serves_and_the_newer_one_again_once_its_engine_is_back(tmp_path: Path) -> None:
    fleet, root = Fleet(tmp_path / "fleet"), tmp_path / "root"
    needing = f'requires = {{ runtime = ">={version("onnxruntime")}" }}\n' + QUICK
    fleet.publish(scale_bundle(tmp_path / "bundles", 2, factor=3.0, extra=needing))
    fleet.plan("scale", 2)
    with Daemon(root, [scale_bundle(tmp_path / "factory", 1)], fleet.trusted_by(root)) as daemon:
        updating = Updating(daemon.start())
        updating.look()
        updating.wait_idle_at(2)
        daemon.stop()
        daemon.told.clear()

        daemon.start(environment=older_engine(tmp_path / "older"))
        assert updating.answers() == ([2.0, 4.0], 1)
        (reason,) = [each for each in daemon.status().degraded_reasons if "instead of 2" in each]
        assert "onnxruntime" in reason
        quarantine = updating.call("ListQuarantine", up.ListQuarantineRequest(), up.ListQuarantineResponse)
        assert not quarantine.quarantined
        runs_nowhere = f'requires = {{ runtime = "<0.1" }}\n{QUICK}'
        fleet.publish(scale_bundle(tmp_path / "bundles", 3, factor=3.0, extra=runs_nowhere))
        fleet.plan("scale", 3)
        updating.look()  # it cannot run either, and what is recorded of that must not make revision 1 what is meant
        updating.wait(lambda _: updating.last_reason() == "incompatible_runtime")
        daemon.stop()
        daemon.told.clear()

        daemon.start()
        assert updating.answers() == ([3.0, 6.0], 2)
