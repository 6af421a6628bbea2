"""Deployments of an operating system by OSTree, on the disk of a virtual machine.

The trees, commits and deployments are OSTree's own. Stand-ins: for the boot loader, `next_entry`, which goes by the
count of tries as GRUB does; for greenboot's runner, which Debian has not, `guest/greenboot.sh`, which calls the same
folders in the same order, from a unit with the name of greenboot's own, so that what edged adds to that one holds.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from support import vm
from support.container import run

OS = "edged"
PACKAGES = ("ostree", "ostree-boot")
HEALTH_CHECK = "greenboot-healthcheck.service"

# What lies outside of /usr and /etc is no part of a deployment.
_STATE = ("home", "root", "opt", "srv", "mnt", "media")


def missing() -> str:
    """Why there is none; empty when there is."""
    lacking = [tool for tool in ("ostree", "debugfs", "chattr") if shutil.which(tool) is None]
    return vm.missing() or (f"{lacking[0]} is not installed" if lacking else "")


def make_tree(root: Path, folder: Path) -> None:
    """Makes a root folder one that OSTree takes: with its kernel, and nothing in it that is to stay over updates."""
    modules = root / "usr/lib/modules" / vm.vmlinuz().name.removeprefix("vmlinuz-")
    modules.mkdir(parents=True)
    shutil.copyfile(vm.vmlinuz(), modules / "vmlinuz")
    shutil.copyfile(vm.first_root(folder, root), modules / "initramfs.img")
    compile_all(root)
    (root / "etc").rename(root / "usr/etc")
    for name in _STATE:
        shutil.rmtree(root / name)
        (root / name).symlink_to(f"var/{'roothome' if name == 'root' else name}")
    for name in ("var", "dev", "run"):
        shutil.rmtree(root / name)
    for name in ("var", "dev", "run", "sysroot"):
        (root / name).mkdir()
    (root / "ostree").symlink_to("sysroot/ostree")


def compile_all(root: Path) -> None:
    """Python's files have no times in a commit, so that what was compiled must hold without them."""
    how = ["-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
    run("chroot", root, "/usr/lib/edged/venv/bin/python", *how, "/usr/lib/edged/venv/lib", timeout=600)
    run("chroot", root, "/usr/lib/edged/venv/bin/python", *how, "/usr/lib/python3.13", timeout=600)


def add_greenboot(root: Path) -> None:
    """Has a root folder run greenboot's checks at boot."""
    shutil.copyfile(vm.GUEST / "greenboot.sh", root / "usr/lib/greenboot.sh")
    units = root / "usr/lib/systemd/system"
    shutil.copyfile(vm.GUEST / HEALTH_CHECK, units / HEALTH_CHECK)
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / HEALTH_CHECK).symlink_to(f"../{HEALTH_CHECK}")


class Sysroot:
    """A disk in the making: commits, and the first deployment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        run("ostree", "admin", "init-fs", folder)
        run("ostree", "admin", "os-init", OS, "--sysroot", folder)

    def commit(self, branch: str, *trees: Path) -> None:
        """Commits folders, the later over the earlier."""
        which = [f"--tree=dir={tree}" for tree in trees]
        run("ostree", f"--repo={self._folder}/ostree/repo", "commit", f"--branch={branch}", *which, timeout=600)

    def deploy(self, branch: str) -> None:
        """Makes a branch what boots."""
        run("ostree", "admin", "deploy", "--sysroot", self._folder, "--os", OS, "--karg=root=/dev/vda", branch)

    def to_disk(self, image: Path, mib: int) -> Path:
        """Puts all of it on a disk, and the folder away."""
        vm.make_disk(image, mib, self._folder)
        for deployment in self._folder.glob("ostree/deploy/*/deploy/*.?"):
            run("chattr", "-i", deployment)
        shutil.rmtree(self._folder)
        return image


def entries(image: Path) -> list[str]:
    """The kernel's command lines that the disk's boot entries have, the one to boot first."""

    def look(request: str) -> str:
        return run("debugfs", "-R", request, image).stdout

    link = re.search(r'Fast link dest: "(.*)"', look("stat /boot/loader"))
    assert link, "no boot entries"
    found = []
    for name in re.findall(r"(ostree-\S+\.conf)/", look(f"ls -p /boot/{link[1]}/entries")):
        text = look(f"cat /boot/{link[1]}/entries/{name}")
        said = dict(re.findall(r"^(\S+) +(.*)$", text, re.MULTILINE))
        found.append((int(said["version"]), said["options"]))
    return [options for _, options in sorted(found, reverse=True)]


def deploying(branch: str, tries: int = 1) -> str:
    """What deploys a branch in the machine, to be tried so often: greenboot sets the count where a deployment waits."""
    return f"ostree admin deploy --os={OS} {branch} && echo {tries} > /var/boot_counter"


def next_entry(image: Path) -> str:
    """What a boot loader boots: the first entry, or the one after where the first has had its tries."""
    left = run("debugfs", "-R", f"cat /ostree/deploy/{OS}/var/boot_counter", image).stdout.strip()
    return entries(image)[1 if left == "0" else 0]
