"""A real systemd in a container of its own: booted on a folder, entered by `nsenter`, ended by `poweroff`.

Needs root, systemd-nspawn and mmdebstrap. Nothing here touches the machine's own systemd.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pty
import re
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

from support.booted import Booted
from support.daemon import PATIENCE_S, REPO
from support.polling import until

# Not under /tmp, which a boot empties; git does not see it.
CACHE = REPO / ".cache/system"

PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,udev,procps,util-linux,passwd"

# What the interpreter of the container's distribution is.
PYTHON = "3.13"


def missing() -> str:
    """Why no container can be had here; empty when one can."""
    if os.geteuid() != 0:
        return "a container needs root"
    if lacking := [tool for tool in ("systemd-nspawn", "mmdebstrap", "nsenter") if shutil.which(tool) is None]:
        return f"{lacking[0]} is not installed"
    if not Path("/etc/apt/sources.list.d/debian.sources").exists():
        return "the machine's own package sources are of another form"
    return ""


def run(*command: object, **more: object) -> subprocess.CompletedProcess[str]:
    """Runs a program that is to succeed."""
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """An empty folder, in place of what an interrupted run left."""
    folder = CACHE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


def base(*also: str) -> Path:
    """A minimal Debian with systemd and the packages `also`, as a tar file; made once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    tar = CACHE / f"{'-'.join(['base', *also])}.tar"
    if not tar.exists():
        own = Path("/etc/apt/sources.list.d/debian.sources").read_text()
        sources = CACHE / "base.sources"
        sources.write_text(own.replace("bookworm", "trixie"))
        made = CACHE / "base.making.tar"
        run(
            "mmdebstrap",
            "--variant=minbase",
            f"--include={','.join([PACKAGES, *also])}",
            "trixie",
            made,
            sources,
            timeout=600,
        )
        made.rename(tar)
    return tar


def wheels(*locks: str) -> Path:
    """What `locks` of the checkout pin, for the container's interpreter; downloaded once for each state of them.

    By default what edged and its build need.
    """
    read = [(REPO / lock).read_text() for lock in locks or ("requirements.lock", "requirements-build.lock")]
    content = "\n".join(map(_pinned, read))
    folder = CACHE / f"wheels-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    if not folder.exists():
        making = folder.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        wanted = making / "wanted.txt"
        wanted.write_text(content)
        options = ["--python-version", PYTHON, "--only-binary=:all:", "--require-hashes", "--no-deps"]
        run(sys.executable, "-m", "pip", "download", "-q", *options, "-r", wanted, "-d", making, timeout=600)
        making.rename(folder)
    return folder


def _pinned(lock: str) -> str:
    """The entries of a lock for the container's interpreter, without markers: pip would judge those by its own."""
    environment = {**default_environment(), "python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
    kept = []
    for entry in lock.replace("\\\n", " ").splitlines():
        requirement, *hashes = entry.split(" --hash=")
        if not requirement.strip() or requirement.lstrip().startswith("#"):
            continue
        parsed = Requirement(requirement)
        if parsed.marker is None or parsed.marker.evaluate(environment):
            parsed.marker = None
            kept.append(" --hash=".join([str(parsed), *(each.strip() for each in hashes)]))
    return "\n".join(dict.fromkeys(kept))


def wheel(requirement: str, folder: Path) -> None:
    """Downloads the wheel of a package for the container's interpreter, without what it needs."""
    options = ["--python-version", PYTHON, "--only-binary=:all:", "--no-deps"]
    run(sys.executable, "-m", "pip", "download", "-q", *options, requirement, "-d", folder, timeout=600)


def _own_wheel(folder: Path) -> None:
    build = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w"]
    run(sys.executable, "-m", "pip", *build, folder, REPO, timeout=300)


def make_root(into: Path, *also: str) -> None:
    """A root folder with edged installed as an image has it, and with the packages `also`."""
    into.mkdir(parents=True)
    run("tar", "-xf", base(*also), "-C", into)
    shutil.copytree(wheels(), into / "opt/wheels")
    _own_wheel(into / "opt/wheels")
    run("chroot", into, "python3", "-m", "venv", "/usr/lib/edged/venv")
    pip = ["/usr/lib/edged/venv/bin/pip", "install", "-q", "--no-index", "--find-links", "/opt/wheels"]
    run("chroot", into, *pip, "edged[onnxruntime]", timeout=600)
    shutil.rmtree(into / "opt/wheels")
    run("sh", REPO / "systemd/install.sh", into)
    run("chroot", into, "systemd-sysusers")  # where /etc is read-only, a boot cannot make users
    units = sorted(re.findall(r"^enable (\S+)$", (REPO / "systemd/50-edged.preset").read_text(), re.MULTILINE))
    run("chroot", into, "systemctl", "preset", *units, env={**os.environ, "SYSTEMD_IN_CHROOT": "1"})


class Container(Booted):
    """A booted container."""

    def __init__(self, root: Path, *options: str) -> None:
        """Boots what `root` holds, which stays as it is; returns when its systemd has started everything."""
        Path("/run/systemd/inaccessible").mkdir(parents=True, exist_ok=True)
        self._folder = CACHE / f"edged-{secrets.token_hex(4)}"  # also the machine's name, which takes no "_"
        self._folder.mkdir()
        upper, work, merged = (self._folder / name for name in ("upper", "work", "merged"))
        for each in (upper, work, merged):
            each.mkdir()
        layers = f"lowerdir={root},upperdir={upper},workdir={work}"
        run("mount", "-t", "overlay", "overlay", "-o", layers, merged)
        upper.chmod(0o755)
        ours, theirs = pty.openpty()  # without a terminal it does not boot
        self._console = bytearray()
        self._process = subprocess.Popen(
            [
                *("systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--boot", "--private-network"),
                # Without them limits on addresses are silently not enforced.
                *("--system-call-filter=bpf", "--capability=CAP_BPF,CAP_PERFMON"),
                *("--directory", str(merged), f"--machine={self._folder.name}", *options),
            ],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()
        try:
            self._leader = self._wait_leader()
            self.wait("systemctl is-system-running | grep -qE 'running|degraded'")
        except BaseException:
            self.stop()
            raise

    @property
    def files(self) -> Path:
        """What it has as its root folder."""
        return self._folder / "merged"

    @property
    def pid(self) -> int:
        """The process id of what holds the container."""
        return self._process.pid

    def _read(self, console: int) -> None:
        with contextlib.suppress(OSError):  # the other end has gone
            while data := os.read(console, 65536):
                self._console += data
        os.close(console)

    def _wait_leader(self) -> int:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")

        def leader() -> int:
            assert self._process.poll() is None, self._console.decode(errors="replace")
            for pid in map(int, children.read_text().split()):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                        return pid
            return 0

        return until(leader, "the container's systemd is there", log=lambda: self._console.decode(errors="replace"))

    def shell(self, script: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """Runs a shell script inside, as root."""
        command = ["nsenter", "--target", str(self._leader), "--all", "sh", "-c", f"cd /; {script}"]
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s, env=clean)

    def stop(self) -> None:
        """Powers it off, or kills what this made."""
        with contextlib.suppress(AttributeError, subprocess.TimeoutExpired):
            self.shell("systemctl --no-block poweroff")
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        run("umount", self._folder / "merged")
        shutil.rmtree(self._folder)
