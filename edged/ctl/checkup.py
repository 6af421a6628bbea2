"""What can be wrong with a device, found below a root folder; each finding says what to do. Writes nothing.

A check is a function from the device's root and settings to findings, in order. What it looks at lies in files, so that
a device can be looked at from outside too, and a broken one be made for a test.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import msgspec

from edged.bundle import factory
from edged.bundle.manifest import Manifest
from edged.config.load import load
from edged.config.settings import Settings
from edged.document import DocumentError
from edged.models.selection import select
from edged.runtimes.base import ENGINES
from edged.system import hardware
from edged.update.environment import build_time

UNIT = "usr/lib/systemd/system/edged.service"
_DROP_INS = ("usr/lib/systemd/system/edged.service.d", "etc/systemd/system/edged.service.d")

# Below these the state folder is as good as full: the journal and the last good settings need room.
_FREE_BYTES = 64 * 2**20
_FREE_INODES = 256

# Where accounts stand; nss-altfiles(8) reads the second too, in which images have those of their packages.
_ACCOUNTS = ("etc", "usr/lib")


class Grade(StrEnum):
    """How much a finding matters."""

    FAULT = "fault"
    WARNING = "warning"


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it should be."""

    topic: str
    grade: Grade
    found: str
    remedy: str


class Subject(msgspec.Struct, frozen=True):
    """What is looked at."""

    root: Path
    files: tuple[Path, ...]
    settings: Settings
    """As far as they can be read, paths not yet under the root."""
    now: datetime
    synchronized: bool | None = None
    """Whether the kernel holds the time to be right; None where the root is not this machine's own."""

    def placed(self, path: str) -> Path:
        """A path of the settings, below the root."""
        return self.root / path.lstrip("/")


Check = Callable[[Subject], Iterable[Finding]]


def _fault(topic: str, found: str, remedy: str) -> Finding:
    return Finding(topic, Grade.FAULT, found, remedy)


def _warning(topic: str, found: str, remedy: str) -> Finding:
    return Finding(topic, Grade.WARNING, found, remedy)


def settings(subject: Subject) -> Iterator[Finding]:
    """Every problem of the settings."""
    try:
        load(subject.root, subject.files)
    except DocumentError as error:
        for problem in error.problems:
            yield _fault("settings", str(problem), "mend it, then `systemctl reload edged`")


def accounts(subject: Subject) -> Iterator[Finding]:
    """The user and groups that the unit names; one that is missing fails its start."""
    if not (subject.root / UNIT).exists():
        return
    users = {entry[0] for entry in entries(subject.root, "passwd")}
    groups = {entry[0] for entry in entries(subject.root, "group")}
    if "edged" not in users:
        yield _fault("accounts", "the user edged does not exist", "run `systemd-sysusers` as root")
    for group in ("edged", "edged-admin"):
        if group not in groups:
            yield _fault("accounts", f"the group {group} does not exist", "run `systemd-sysusers` as root")
    for path, group in supplementary_groups(subject.root):
        if group not in groups:
            where = path.relative_to(subject.root)
            yield _fault(
                "accounts",
                f"/{where} names the group {group}, which does not exist, so edged cannot start",
                f"`groupadd --system {group}`, or remove the drop-in where the device has no such hardware",
            )


def folders(subject: Subject) -> Iterator[Finding]:
    """State, cache, sockets: there, edged's own, writable, with room."""
    state = subject.placed(subject.settings.paths.state)
    owner = edged_id(subject.root)
    if state.exists():
        found = state.stat()
        if owner is not None and found.st_uid != owner:
            yield _fault(
                "folders",
                f"{state} belongs to {_user(found.st_uid)}, not to edged",
                "run `systemd-tmpfiles --create edged.conf` as root",
            )
        if found.st_mode & 0o077:
            mode = f"{stat.S_IMODE(found.st_mode):04o}"
            yield _fault("folders", f"others may enter {state} (mode {mode})", f"`chmod 0700 {state}`")
        yield from _room(state)
    admin = subject.placed(subject.settings.listen.admin_socket).parent
    if (subject.root / UNIT).exists():
        if not admin.exists():
            yield _fault("folders", f"{admin} is missing", "run `systemd-tmpfiles --create edged.conf` as root")
        elif not admin.stat().st_mode & stat.S_ISGID:
            yield _fault(
                "folders",
                f"{admin} does not hand its group on, so the group edged-admin may not connect",
                f"`chmod 2750 {admin}`, or run `systemd-tmpfiles --create edged.conf` as root",
            )
    for folder in {subject.placed(subject.settings.listen.socket).parent, admin}:
        if folder.exists() and folder.stat().st_mode & stat.S_IWOTH:
            yield _fault("folders", f"anybody may put a socket of their own into {folder}", f"`chmod o-w {folder}`")


def _room(state: Path) -> Iterator[Finding]:
    try:
        file_system = os.statvfs(state)
    except OSError as error:
        yield _fault("folders", f"{state} cannot be asked for its room: {error.strerror}", "check its file system")
        return
    if file_system.f_flag & os.ST_RDONLY:
        yield _fault(
            "folders",
            f"{state} lies on a file system that is mounted read-only: edged serves, and keeps nothing",
            "look for file system errors in `dmesg`, then mount it writable",
        )
        return
    free = shutil.disk_usage(state).free
    if free < _FREE_BYTES:
        yield _fault("folders", f"{state} has {free // 2**20} MiB left", "free space on its file system")
    if file_system.f_files and file_system.f_favail < _FREE_INODES:
        yield _fault("folders", f"{state} can take {file_system.f_favail} more files", "remove files there")


def models(subject: Subject) -> Iterator[Finding]:
    """The bundles of the image: there, sound, and of a kind that this device can run."""
    folder = subject.placed(subject.settings.paths.factory)
    found = factory.discover(folder)
    if not found:
        yield _warning(
            "models",
            f"{folder} holds no bundle: without a network there is nothing to serve",
            "put packed bundles there as NAME/REVISION; see docs/bundle.md",
        )
    device = hardware.read(subject.settings.device.hardware_class, subject.root)
    versions = {name: engine.version() for name, engine in ENGINES.items()}
    for entry in found:
        if entry.error is not None:
            yield _fault("models", entry.error.message, entry.error.hint or "replace it by a sound one")
        elif entry.manifest is not None:
            yield from _runnable(entry.manifest, device, versions)


def _runnable(manifest: Manifest, device: hardware.Hardware, versions: dict[str, str | None]) -> Iterator[Finding]:
    chosen, passed_over = select(manifest, device, versions)
    if chosen:
        return
    why = "; ".join(f"{each.variant}: {each.reason}" for each in passed_over)
    absent = sorted({variant.runtime for variant in manifest.variants if not versions.get(variant.runtime)})
    known = [ENGINES[name] for name in absent if name in ENGINES]
    extras = ",".join(engine.extra for engine in known if engine.extra)
    ways = (
        [f"install its engine: `/usr/lib/edged/venv/bin/pip install 'edged[{extras}]'` in the image"] if extras else []
    )
    ways += [f"{engine.name}: {engine.origin}" for engine in known if engine.origin]
    remedy = "; or ".join(ways) if ways else "publish a variant for this hardware class, or set device.hardware_class"
    yield _fault("models", f"no variant of {manifest.name} revision {manifest.revision} runs here ({why})", remedy)


def kernel(subject: Subject) -> Iterator[Finding]:
    """What the kernel must offer for edged to keep all of its promises."""
    root = subject.root
    if not (root / "proc/pressure/memory").exists():
        yield _warning(
            "kernel",
            "the kernel tells nothing of memory pressure, so edged learns of it late",
            "boot with psi=1 on the kernel's command line",
        )
    security = root / "sys/kernel/security/lsm"
    if security.exists() and "landlock" not in security.read_text().split(","):
        yield _warning(
            "kernel",
            "Landlock is off, so workers can read what the daemon's user can",
            "boot with lsm=landlock,… on the kernel's command line",
        )
    controllers = root / "sys/fs/cgroup/cgroup.controllers"
    if not controllers.exists() or "memory" not in controllers.read_text().split():
        yield _warning(
            "kernel",
            "cgroup v2 has no memory controller, so edged watches the memory of its workers itself",
            "boot with systemd.unified_cgroup_hierarchy=1 (on a Raspberry Pi also cgroup_enable=memory)",
        )


def clock(subject: Subject) -> Iterator[Finding]:
    """Certificates and signed metadata are judged by the time; serving is not."""
    built = build_time(subject.root)
    if built is not None and subject.now < built:
        yield _fault(
            "clock",
            f"it is {subject.now:%Y-%m-%d} by the clock, and this image was built on {built:%Y-%m-%d}",
            "set the clock: certificates count as not yet valid",
        )
    elif subject.synchronized is False:
        yield _warning(
            "clock",
            "the clock is not kept by the network's time",
            "see `chronyc tracking` or `timedatectl timesync-status`, whichever keeps it",
        )


def service(subject: Subject) -> Iterator[Finding]:
    """The unit is there and starts at boot."""
    root = subject.root
    if not (root / UNIT).exists():
        if (root / "usr/lib/systemd/system").exists():
            yield _warning("service", f"/{UNIT} is missing", "install it: `sh systemd/install.sh /`")
        return
    if not any((folder / "edged.service").is_symlink() for folder in (root / "etc/systemd/system").glob("*.wants")):
        yield _fault("service", "edged does not start at boot", "`systemctl enable edged`")
    if (root / "etc/systemd/system/edged.service").is_symlink():
        yield _fault("service", "edged.service is masked", "`systemctl unmask edged`")


def entries(root: Path, table: str) -> Iterator[list[str]]:
    """The fields of each line of `passwd` or `group`."""
    for folder in _ACCOUNTS:
        with contextlib.suppress(FileNotFoundError):
            for line in (root / folder / table).read_text(errors="replace").splitlines():
                yield line.split(":")


def edged_id(root: Path) -> int | None:
    """edged's user id; None where there is no such user."""
    found = (entry[2] for entry in entries(root, "passwd") if entry[0] == "edged" and len(entry) > 2)
    number = next(found, "")
    return int(number) if number.isdigit() else None


def supplementary_groups(root: Path) -> Iterator[tuple[Path, str]]:
    """The groups that drop-ins give edged, and by which."""
    for path in (path for folder in _DROP_INS for path in sorted((root / folder).glob("*.conf"))):
        for line in re.findall(r"^SupplementaryGroups=(.*)$", path.read_text(errors="replace"), re.MULTILINE):
            yield from ((path, group) for group in line.split())


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


CHECKS: dict[str, Check] = {
    "settings": settings,
    "accounts": accounts,
    "folders": folders,
    "models": models,
    "kernel": kernel,
    "clock": clock,
    "service": service,
}
"""By topic, in the order in which people mend things: the first cause first."""
