"""An operating system that is updated and goes back as a whole, by OSTree: models neither suffer nor are blamed."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import container, ostree, vm
from support.container import run, scratch
from support.daemon import REPO
from support.fleet import NAME, Fleet
from support.ostree import Sysroot
from support.updating import QUICK, scale_bundle
from support.vm import Machine

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(ostree.missing()), reason=ostree.missing() or "there is one")]

SETTINGS = (
    f'[device]\nfleet = "{NAME}"\n[update]\nrepository = "file:///usr/share/fleet"\npoll_s = 86400\nreserve_mib = 0\n'
    "[pressure]\nstorage_reserve_mib = 1\n"
)
SITE = "usr/lib/edged/venv/lib/python3.13/site-packages"


class Device:
    """A disk with release 1 of an operating system, and in its repository 2, whose engine is broken, and 3, older."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        root = folder / "root"
        container.make_root(root, *ostree.PACKAGES)
        run("sh", REPO / "bootc/install.sh", root)
        engine = self._engine(root)
        fleet = Fleet(folder / "fleet")
        needs = f'requires = {{ runtime = ">={engine}" }}\n'
        fleet.publish(scale_bundle(folder / "bundles", 2, factor=3.0, extra=needs + QUICK))
        fleet.plan("scale", 2)
        vm.furnish(root, [scale_bundle(folder / "bundles", 1, factor=2.0)], SETTINGS)
        shutil.copytree(fleet.repository, root / "usr/share/fleet")
        (root / "usr/share/edged/trust").mkdir(parents=True)
        shutil.copyfile(fleet.root, root / "usr/share/edged/trust/root.json")
        ostree.add_greenboot(root)
        ostree.make_tree(root, folder)
        self.disk = folder / "disk.img"
        self.first_root = folder / "first.cpio"
        self._install(root, engine)

    def _install(self, root: Path, engine: str) -> None:
        sysroot = Sysroot(self.folder / "sysroot")
        sysroot.commit("edged/1", root)
        broken = self.folder / "broken" / SITE / "onnxruntime"
        broken.mkdir(parents=True)
        (broken / "__init__.py").write_text("raise ImportError('libmissing.so.1: cannot open shared object file')\n")
        shutil.rmtree(root / SITE / "onnxruntime/__pycache__")
        sysroot.commit("edged/2", root, self.folder / "broken")

        self._replace_engine(root, f"onnxruntime<{engine}")
        ostree.compile_all(root)
        sysroot.commit("edged/3", root)
        sysroot.deploy("edged/1")
        shutil.rmtree(root)
        sysroot.to_disk(self.disk, 2048)

    def _engine(self, root: Path) -> str:
        """The version of its engine, `major.minor`."""
        (told,) = (root / SITE).glob("onnxruntime-*.dist-info")
        found = re.search(r"-([0-9]+\.[0-9]+)\.", told.name)
        assert found
        return found[1]

    def _replace_engine(self, root: Path, wanted: str) -> None:
        """Puts another version in the engine's place, from its wheel."""
        for old in (root / SITE).glob("onnxruntime*"):
            shutil.rmtree(old)
        container.wheel(wanted, self.folder)
        (wheel,) = self.folder.glob("onnxruntime-*.whl")
        zipfile.ZipFile(wheel).extractall(root / SITE)

    def boot(self) -> Machine:
        """Boots the entry that is next."""
        words = f"{ostree.next_entry(self.disk)} {vm.NO_STALLS}"
        root = f"file={self.disk},format=raw,cache=unsafe"
        return Machine(self.folder, (vm.vmlinuz(), self.first_root), root, words=words)


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with scratch("ostree") as folder:
        yield Device(folder)


def answer(machine: Machine) -> int:
    """The revision that serves, which its answer shows to be what it says it is."""
    told = json.loads(machine.run("echo '[[1, 2]]' | edgectl --timeout 60 --json infer scale -"))
    revision = int(told["revision"])
    assert np.allclose(np.ravel(told["outputs"][0]["data"]), [revision + 1, 2 * revision + 2])
    return revision


def rolled_back(machine: Machine) -> str:
    """What the fleet is told of the way back, once greenboot's verdict and the helper's look are known."""
    machine.wait("edgectl --json events | grep -q os_rolled_back", vm.BOOT_S)
    events = json.loads(machine.run("edgectl --json events"))["events"]
    (message,) = (str(event["message"]) for event in events if event["code"] == "os_rolled_back")
    return message


def test_an_update_of_the_system_that_cannot_serve_goes_back_by_itself_and_says_why(device: Device) -> None:
    machine = device.boot()
    try:
        machine.settled()
        machine.wait("journalctl -b -u greenboot-healthcheck --output=cat | grep -q 'this boot is green'")
        machine.run("edgectl update --watch")
        assert answer(machine) == 2
        machine.run(ostree.deploying("edged/2"), vm.BOOT_S)
    finally:
        machine.stop()

    machine = device.boot()
    machine.ends()  # by its own red boot

    machine = device.boot()
    try:
        machine.settled()
        machine.wait("journalctl -b -u greenboot-healthcheck --output=cat | grep -q 'this boot is green'")
        assert answer(machine) == 2
        machine.run("edgectl store verify")
        (red,) = json.loads(machine.run("edgectl --json boot evidence --show"))["red_boots"]
        assert any("under the last deployment" in each for each in red["wrong"])
        assert "libmissing.so.1" in "\n".join(red["log"])
        assert "model 'scale' served under the last deployment" in rolled_back(machine)
        machine.run(f"ostree admin set-default 1 && {ostree.deploying('edged/3')}", vm.BOOT_S)
    finally:
        machine.stop()

    machine = device.boot()
    try:
        machine.settled()
        machine.wait("journalctl -b -u greenboot-healthcheck --output=cat | grep -q 'this boot is green'")
        assert answer(machine) == 1  # its engine is older than revision 2 needs
    finally:
        machine.stop()
