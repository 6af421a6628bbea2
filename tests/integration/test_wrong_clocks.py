"""A whole device whose clock says 1970, then 2100, then the truth: it serves all the while and believes no expiry."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from support.daemon import Daemon
from support.fleet import Fleet
from support.interpreter import hostile_interpreter
from support.updating import MODEL, Updating, scale_bundle


def test_a_clock_that_is_wrong_both_ways_costs_no_answer_and_ends_with_the_right_time(tmp_path: Path) -> None:
    fleet, root = Fleet(tmp_path / "fleet"), tmp_path / "root"
    first = scale_bundle(tmp_path / "factory", 1, factor=2.0)
    fleet.publish(scale_bundle(tmp_path / "bundles", 2, factor=3.0), scale_bundle(tmp_path / "bundles", 3, factor=4.0))
    fleet.plan(MODEL, 2)
    interpreter = hostile_interpreter(tmp_path / "python", "impatient_site", "clock_site")
    (packages,) = (tmp_path / "python").glob("lib/python3*/site-packages")
    wall = packages / "wall"

    def says(year: int) -> None:
        part = wall.with_suffix(".part")
        part.write_text(str(datetime(year, 1, 1, tzinfo=UTC).timestamp()))
        part.replace(wall)

    says(1970)
    with Daemon(root, [first], fleet.trusted_by(root), interpreter) as daemon:
        updating = Updating(daemon.start())
        updating.wait_idle_at(2)  # by what was signed last, it is not 1970
        assert updating.history()[0].at.ToDatetime().year == 1970, "that was its clock"

        fleet.plan(MODEL, 3)
        says(2100)
        with pytest.raises(grpc.RpcError, match="expired") as raised:
            updating.look()
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert updating.answers() == ([3.0, 6.0], 2)
        daemon.stop()
        daemon.told.clear()
        daemon.start()  # a start at that time serves too, and keeps nothing of it
        assert updating.answers() == ([3.0, 6.0], 2)

        wall.unlink()
        updating.look()
        updating.wait_idle_at(3)
        assert updating.answers() == ([4.0, 8.0], 3)
