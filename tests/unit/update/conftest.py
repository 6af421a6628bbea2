"""Fleets are slow to make, each role being written durably: one is made, and copied."""

import pytest
from support.fleets import Device, copy_fleet, make_fleet, served
from support.quick_disk import short_pauses, unsynced

from edged.fleet import roles


@pytest.fixture(scope="session")
def made_fleet(tmp_path_factory):
    return make_fleet(tmp_path_factory.mktemp("fleet") / "shops")


@pytest.fixture(scope="session")
def whole_fleet(tmp_path_factory):
    """With as many bins as a real one has."""
    return make_fleet(tmp_path_factory.mktemp("fleet") / "whole", bits=roles.BITS)


@pytest.fixture
def fleet(made_fleet, tmp_path):
    """A fleet that the test may change."""
    return copy_fleet(made_fleet, tmp_path / "shops")


@pytest.fixture
def device(made_fleet, tmp_path):
    """A device that fetches from the fleet's folder, which is not to be changed."""
    return Device(tmp_path / "device", made_fleet.root, made_fleet.url)


@pytest.fixture
def online(fleet, tmp_path):
    """A server, and a device that fetches there."""
    with served(fleet, tmp_path / "device") as both:
        yield both


__all__ = ["short_pauses", "unsynced"]
