"""A virtual machine: a kernel of its own under software emulation, so with the memory controller and a thermal zone.

Debian's own kernel, a small first root of busybox, and disks of ext4 made of folders. A script gets inside by a port
that an agent in the guest reads. Needs root, qemu, busybox and iasl; a boot takes half a minute or more.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from support import container
from support.booted import Booted
from support.container import CACHE, run
from support.daemon import PATIENCE_S
from support.polling import until

GUEST = Path(__file__).parent / "guest"
TOOLS = ("qemu-system-x86_64", "busybox", "iasl", "cpio", "mkfs.ext4", "dpkg-deb")

# What the first root loads, with what these need; all else is built in, or nobody misses it.
_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "virtio_console")

# The unit is as it is shipped, but for what a device in earnest does some thirty times as fast.
_EMULATED = "[Service]\nWatchdogSec=15min\nTimeoutStartSec=15min\n"

# On a busy machine the emulated timer misses the kernel's check of it, after which interrupts get lost: disks hang.
_WORDS = "root=/dev/vda rw console=ttyS0 panic=-1 quiet psi=1 systemd.firstboot=off no_timer_check"

NO_STALLS = "psi=0"
"""For the kernel: an emulated processor is always short of time, for which background work such as updates waits."""

BOOT_S = 10 * PATIENCE_S
"""A bound for a boot under emulation, on a machine that does ten things at once."""


def missing() -> str:
    """Why no virtual machine can be had here; empty when one can."""
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    return container.missing() or (f"{lacking[0]} is not installed" if lacking else "")


def kernel() -> Path:
    """A folder with the newest kernel of the machine's own distribution, `boot` and `lib/modules`; fetched once."""
    named = run("apt-cache", "depends", "--important", "linux-image-amd64").stdout
    package = re.search(r"Depends: (linux-image-[0-9]\S+)", named)
    assert package, named
    folder = CACHE / package[1]
    if not folder.exists():
        making = folder.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package[1], cwd=making, timeout=600)
        (archive,) = making.glob("*.deb")
        run("dpkg-deb", "-x", archive, making)
        archive.unlink()
        making.rename(folder)
    return folder


def vmlinuz() -> Path:
    """The kernel."""
    (found,) = (kernel() / "boot").glob("vmlinuz-*")
    return found


def first_root(folder: Path, deployments: Path | None = None) -> Path:
    """An initial root file system, made in `folder`; with what OSTree has in `deployments`, it goes to deployments."""
    root = folder / "first"
    for each in ("bin", "dev", "new", "modules"):
        (root / each).mkdir(parents=True)
    shutil.copyfile(str(shutil.which("busybox")), root / "bin/busybox")
    shutil.copyfile(GUEST / "init", root / "init")
    for program in ("bin/busybox", "init"):
        (root / program).chmod(0o755)
    there = {path.name.partition(".")[0]: path for path in (kernel() / "lib/modules").rglob("*.ko*")}
    order: list[str] = []
    for module in _MODULES:
        _take(module, there, root / "modules", order)
    (root / "modules/order").write_text("\n".join(order))
    if deployments is not None:
        _take_prepare_root(deployments, root)
    packed = folder / "first.cpio"
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    with packed.open("wb") as out:
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], check=True, input=names.encode(), stdout=out, cwd=root)
    shutil.rmtree(root)
    return packed


def _take_prepare_root(there: Path, root: Path) -> None:
    """Adds what makes a deployment the root, and its libraries, from the root folder `there`."""
    program = "usr/lib/ostree/ostree-prepare-root"
    shutil.copy(there / program, root / "bin")
    (root / "run").mkdir()
    (root / "proc").mkdir()
    for library in re.findall(r"(/lib\S+) \(0x", run("chroot", there, "ldd", f"/{program}").stdout):
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(there / library[1:], root / library[1:])


def _take(module: str, there: dict[str, Path], folder: Path, order: list[str]) -> None:
    """Adds a module after what it depends on; one that is built in has no file."""
    if f"{module}.ko" in order or module not in there:
        return
    content = there[module].read_bytes()
    if there[module].suffix == ".xz":
        content = lzma.decompress(content)
    depends = re.search(rb"\0depends=([^\0]*)\0", content)
    for name in filter(None, depends[1].decode().split(",")) if depends else ():
        _take(name, there, folder, order)
    (folder / f"{module}.ko").write_bytes(content)
    order.append(f"{module}.ko")


def thermal_zone(folder: Path) -> Path:
    """The table that gives a machine its thermal zone."""
    run("iasl", "-p", folder / "zone", GUEST / "thermal-zone.asl")
    return folder / "zone.aml"


def furnish(root: Path, bundles: Sequence[Path] = (), settings: str = "") -> None:
    """Has a root folder with edged answer to `Machine`.

    `bundles`: packed bundle folders `…/<name>/<revision>`, beside the image's own; they may use the hostile engine.
    """
    for bundle in bundles:
        shutil.copytree(bundle, root / "usr/share/edged/models" / bundle.parent.name / bundle.name)
    (root / "etc/systemd/system/edged.service.d").mkdir()
    (root / "etc/systemd/system/edged.service.d/emulated.conf").write_text(_EMULATED)
    (root / "etc/edged").mkdir(exist_ok=True)
    (root / "etc/edged/edged.toml").write_text(settings)
    (site,) = root.glob("usr/lib/edged/venv/lib/*/site-packages")
    (site / "support").mkdir()
    shutil.copyfile(GUEST.parent / "hostile_engine.py", site / "support/hostile_engine.py")
    shutil.copyfile(GUEST.parent / "hostile_site/hostile_site.py", site / "hostile_site.py")
    (site / "hostile.pth").write_text("import hostile_site\n")
    for name in ("agent.py", "set_temperature.py"):
        shutil.copyfile(GUEST / name, root / "usr/lib" / name)
    units = root / "usr/lib/systemd/system"
    shutil.copyfile(GUEST / "agent.service", units / "agent.service")
    (units / "sysinit.target.wants/agent.service").symlink_to("../agent.service")


def make_disk(image: Path, mib: int, root: Path | None = None) -> Path:
    """A file with an ext4 of that size, and what is in `root`."""
    run("mkfs.ext4", "-q", "-F", *(("-d", root) if root else ()), image, f"{mib}M", timeout=600)
    return image


class Machine(Booted):
    """A running virtual machine; what it is asked is done one after the other."""

    again_s = 1.0

    def __init__(
        self, folder: Path, boot: tuple[Path, Path], root: str, *, words: str = "", options: Sequence[str] = ()
    ) -> None:
        """Boots; returns as soon as it can be asked.

        `folder`: where its console is logged; `boot`: kernel and first root; `root`: the disk, as qemu's -drive takes
        it; `words`: for the kernel; `options`: for qemu.
        """
        self.console = folder / "console.log"
        linux, first = boot
        self._process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"),
                *("-m", "1024", "-smp", "2", "-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"),
                *("-kernel", str(linux), "-initrd", str(first)),
                *("-append", f"{_WORDS} {words}"),
                *("-drive", f"if=none,id=root,{root}", "-device", "virtio-blk-pci,drive=root", *options),
                *("-acpitable", f"file={thermal_zone(folder)}"),
                *("-serial", f"file:{self.console}"),
                *("-chardev", "stdio,id=agent,signal=off", "-device", "virtio-serial-pci"),
                *("-device", "virtserialport,chardev=agent,name=agent,nr=1"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            assert self._answer(BOOT_S) == {}
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """The process id of the emulator."""
        return self._process.pid

    def _answer(self, limit_s: float) -> object:
        """The next line that the agent writes."""
        assert self._process.stdout
        end = time.monotonic() + limit_s
        answer = b""
        while not answer.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not data:
                raise TimeoutError(f"the machine does not answer:\n{self.console.read_text(errors='replace')[-4000:]}")
            answer += data
        return json.loads(answer)

    def shell(self, script: str, timeout_s: float = 2 * PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """Runs a shell script inside, as root."""
        self.begin(script)
        code, out, err = self._answer(timeout_s)  # type: ignore[misc]
        return subprocess.CompletedProcess(script, code, out, err)

    def begin(self, script: str) -> None:
        """Has it run a shell script whose end `until` may wait for; until then it can be asked nothing else."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(script).encode() + b"\n")
        self._process.stdin.flush()

    def until(self, condition: Callable[[], bool], limit_s: float = BOOT_S) -> bool:
        """Waits until `condition` holds, or what was begun has ended; says whether it was the former."""
        ended = False

        def either() -> bool:
            nonlocal ended
            if not (held := condition()) and select.select([self._process.stdout], [], [], 0)[0]:
                self._answer(limit_s)
                ended = True
            return held or ended

        until(either, "it is so, or what was begun has ended", limit_s=limit_s, again_s=0.005)
        return not ended

    def settled(self) -> None:
        """Waits until its systemd has started everything."""
        self.wait("systemctl is-system-running | grep -qE 'running|degraded'", BOOT_S)

    def ends(self) -> None:
        """Waits until it goes down by itself."""
        self._process.wait(BOOT_S)
        self.kill()

    def kill(self) -> None:
        """Ends it as a power cut does."""
        self._process.kill()
        self._end()

    def stop(self) -> None:
        """Powers it off."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self.shell("systemctl --no-block poweroff")
            self._process.wait(BOOT_S)
        self.kill()

    def _end(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
