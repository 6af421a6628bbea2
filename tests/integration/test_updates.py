"""Updates, from a published bundle to a route that flipped, by a real daemon from a real repository."""

from __future__ import annotations

import pytest
from support.daemon import Daemon
from support.fleet import Fleet
from support.updating import Updating, scale_bundle


@pytest.fixture
def fleet(tmp_path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def device(tmp_path, fleet):
    """A daemon whose image brought revision 1."""
    root = tmp_path / "root"
    first = scale_bundle(tmp_path / "factory", 1, factor=1.0)
    with Daemon(root, [first], fleet.trusted_by(root)) as daemon:
        yield daemon.start()


def test_a_published_revision_is_fetched_tried_and_served(tmp_path, fleet, device):
    updating = Updating(device)
    assert updating.answers() == ([1.0, 2.0], 1)
    fleet.publish(scale_bundle(tmp_path / "bundles", 2, factor=2.0))
    fleet.plan("scale", 2)
    updating.look()
    updating.wait_idle_at(2)
    assert updating.answers() == ([2.0, 4.0], 2)
    phases = [step.after for step in updating.history()]
    assert phases == ["fetching", "staged", "trial", "shadow", "soaking", "committed", "idle"]
