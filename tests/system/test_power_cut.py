"""A machine that is killed in the middle of updates, on a disk that loses what was not flushed."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper
from support import container, lost_writes, vm
from support.bundles import onnx_model
from support.container import run, scratch
from support.daemon import Daemon
from support.fleet import NAME, Fleet
from support.updating import Updating, scale_bundle
from support.vm import Machine

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(vm.missing()), reason=vm.missing() or "there is one")]

CUTS = 20
BALLAST_MIB = 4
SETTINGS = (
    f'[device]\nfleet = "{NAME}"\n[update]\nrepository = "file:///srv"\npoll_s = 86400\nreserve_mib = 0\n'
    "[pressure]\nstorage_reserve_mib = 1\n"
)


class Bench:
    """A fleet whose repository comes as a disk, and a device whose state lies on a disk of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = Fleet(folder / "fleet")
        self.newest = 1
        self.state, self.before, self.log = (folder / name for name in ("state.img", "before.img", "state.log"))
        root = folder / "root"
        container.make_root(root)
        self.factory = self.bundle(1)
        vm.furnish(root, [self.factory], SETTINGS)
        (root / "usr/share/edged/trust").mkdir(parents=True)
        shutil.copyfile(self.fleet.root, root / "usr/share/edged/trust/root.json")
        (root / "var/lib/edged").mkdir()
        (root / "etc/fstab").write_text("/dev/disk/by-id/virtio-state /var/lib/edged ext4 defaults 0 0\n")
        self.system = vm.make_disk(folder / "root.img", 800, root)
        shutil.rmtree(root)
        vm.make_disk(self.state, 128)
        self.first_root = vm.first_root(folder)

    def bundle(self, revision: int) -> Path:
        """Revision N multiplies by N."""
        ballast = np.random.default_rng(revision).random(BALLAST_MIB * 2**18, np.float32)
        factor = np.array(revision, np.float32)
        nodes = [
            helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(factor, "k")),
            helper.make_node("Constant", [], ["ballast"], value=numpy_helper.from_array(ballast, "ballast")),
            helper.make_node("Mul", ["x", "k"], ["y"]),
        ]
        model = onnx_model(nodes, [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])])
        return scale_bundle(self.folder / "bundles", revision, factor=float(revision), model=model)

    def publish(self, revision: int) -> Path:
        """Has the fleet run a revision; gives a disk with its repository."""
        self.newest = revision
        self.fleet.publish(self.bundle(revision))
        self.fleet.plan("scale", revision)
        return vm.make_disk(self.folder / "fleet.img", 8 + 2 * BALLAST_MIB * revision, self.fleet.repository)

    def boot(self, fleet: Path) -> Machine:
        """Boots the device; from here on its writes are logged."""
        shutil.copyfile(self.state, self.before)
        self.log.write_bytes(b"")
        options = [
            *lost_writes.drive("state", self.state, self.log),
            *("-blockdev", f"driver=file,node-name=fleet,filename={fleet},read-only=on"),
            *("-device", "virtio-blk-pci,drive=fleet,serial=fleet"),
        ]
        system = f"file={self.system},format=raw,snapshot=on,cache=unsafe"
        boot = (vm.vmlinuz(), self.first_root)
        self.machine = machine = Machine(self.folder, boot, system, words=vm.NO_STALLS, options=options)
        machine.wait("edgectl status --wait 60", vm.BOOT_S)
        assert machine.run("cat /sys/block/vdb/queue/write_cache") == "write back"
        return machine

    def update(self, machine: Machine, most: int | None = None) -> int:
        """Updates until so many bytes were logged, or to the end; gives how many it took."""
        machine.run("mount -o ro /dev/disk/by-id/virtio-fleet /srv")
        start = self.log.stat().st_size
        if most is None:
            machine.run("edgectl update --watch", vm.BOOT_S)
        else:
            machine.begin("edgectl update --watch")
            machine.until(lambda: self.log.stat().st_size - start >= most)
        return self.log.stat().st_size - start

    def serves_here(self, disk: Path, root: Path) -> int:
        """The revision that a daemon on this host serves, its state being on `disk`, before it gets to the newest."""
        state = root / "var/lib/edged"
        state.mkdir(parents=True)
        run("mount", "-o", "loop", disk, state)
        try:
            with Daemon(root, [self.factory], self.fleet.trusted_by(root)) as daemon:
                daemon.start()
                answer, revision = Updating(daemon).answers()
                Updating(daemon).wait_idle_at(self.newest)
        finally:
            run("umount", state)
        assert answer == [revision, 2 * revision]
        return revision

    def cut(self, machine: Machine, chance: random.Random) -> tuple[int, int]:
        """Ends the machine; what was not flushed is partly lost, and the file system is whole all the same."""
        machine.kill()
        told = lost_writes.cut(self.before, self.log, chance)
        self.before.rename(self.state)
        mend(self.state)
        return told


def mend(disk: Path) -> None:
    """Does what a boot does, which mends only what is no loss; then nothing is left to mend."""
    checked = subprocess.run(["e2fsck", "-fp", disk], check=False, capture_output=True, text=True)
    assert checked.returncode in (0, 1), checked.stdout
    run("e2fsck", "-fn", disk)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with scratch("power") as folder:
        made = Bench(folder)
        yield made
        made.machine.kill()


def serving(machine: Machine) -> int:
    """The revision that serves, which its answer shows to be what it says it is, and the whole store with it."""
    machine.run("edgectl --timeout 60 store verify")
    answer = json.loads(machine.run("echo '[[1, 2]]' | edgectl --timeout 60 --json infer scale -"))
    revision = int(answer["revision"])
    assert np.allclose(np.ravel(answer["outputs"][0]["data"]), [revision, 2 * revision])
    return revision


def test_the_power_goes_in_the_middle_of_an_update_again_and_again(bench: Bench) -> None:
    """Each revision is installed over what the cut in the installation of the one before it has left."""
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    print(f"seed {seed}")  # noqa: T201
    machine = bench.boot(bench.publish(2))
    assert serving(machine) == 1
    whole = bench.update(machine)
    assert serving(machine) == 2
    bench.cut(machine, chance)
    serves = wanted = 2
    for number in range(CUTS):
        machine = bench.boot(bench.publish(wanted + 1))
        found = serving(machine)
        assert found in (serves, wanted)
        serves, wanted, at = found, wanted + 1, chance.random()
        bench.update(machine, int(at * whole))
        after, lost = bench.cut(machine, chance)
        print(f"cut {number + 1} over {found}, at {at:.0%}: {lost} of {after} unflushed writes lost")  # noqa: T201
    machine = bench.boot(bench.publish(wanted + 1))
    assert serving(machine) in (serves, wanted)
    machine.stop()


def test_any_moment_of_an_update_may_be_its_last(bench: Bench, tmp_path: Path) -> None:
    """One update in the machine, cut in many places afterwards; a daemon of this host takes what each one leaves."""
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    print(f"seed {seed}")  # noqa: T201
    vm.make_disk(bench.state, 128)
    machine = bench.boot(bench.publish(bench.newest + 1))
    bench.update(machine)
    assert serving(machine) == bench.newest
    machine.kill()
    entries = len(list(lost_writes.entries(bench.log)))
    for number in range(CUTS):
        # A file of its own: where mounts are private, whoever took a namespace meanwhile keeps the last one mounted,
        # and the kernel writes to it.
        disk = tmp_path / f"{number}.img"
        shutil.copyfile(bench.before, disk)
        at = chance.randrange(entries)
        after, lost = lost_writes.cut(disk, bench.log, chance, at)
        mend(disk)
        found = bench.serves_here(disk, tmp_path / str(number))
        disk.unlink()
        print(f"cut {number + 1} at {at / entries:.0%}: {lost} of {after} unflushed writes lost; {found} serves")  # noqa: T201
        assert found in (1, bench.newest)
