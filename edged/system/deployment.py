"""Which deployment of the operating system is booted, and what served under the last one that was good.

The kernel's command line says where the deployment is (ostree-prepare-root(1), `ostree=`). That is a place and no
name: OSTree gives a deployment another place with each new one beside it, and its place to others; so the name is what
the place links to, `<commit>.<serial>`. The record is written after a boot that was good, by root, and outlives the
deployment: /var does not roll back.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edged import durable

_CMDLINE = "proc/cmdline"
FOLDER = "var/lib/edged-boot"
_RECORD = f"{FOLDER}/served.json"
_BOOTS = f"{FOLDER}/boots.json"
_BOOTS_KEPT = 8

# Evidence of red boots that is kept; a device that flaps must not fill its disk.
_EVIDENCE_KEPT = 3
_EVIDENCE_BYTES = 256 * 1024


class Served(msgspec.Struct, frozen=True):
    """What served under a deployment whose boot was good."""

    deployment: str
    models: tuple[str, ...]


class Boot(msgspec.Struct, frozen=True):
    """What greenboot found of one boot."""

    boot: str
    """The kernel's name for it."""
    deployment: str
    good: bool
    wrong: tuple[str, ...] = ()
    """Why it was not good, as far as that concerns edged."""


def booted(root: Path) -> str:
    """The booted deployment; empty where the operating system has none."""
    try:
        words = (root / _CMDLINE).read_text(errors="replace").split()
    except OSError:
        return ""
    place = next((word.removeprefix("ostree=") for word in words if word.startswith("ostree=")), "")
    try:
        return (root / "sysroot" / place.lstrip("/")).readlink().name
    except OSError:  # no link, as where there is no /sysroot
        return place


def boot_id(root: Path) -> str:
    """The kernel's name for this boot; empty where it does not say."""
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def boots(root: Path) -> list[Boot]:
    """The newest verdicts over boots, oldest first; none where none can be read."""
    try:
        return msgspec.json.decode((root / _BOOTS).read_bytes(), type=list[Boot])
    except (OSError, msgspec.DecodeError):
        return []


def note(root: Path, boot: Boot) -> None:
    """Keeps the verdict over this boot, in place of an earlier one over it. Raises OSError."""
    others = [each for each in boots(root) if each.boot != boot.boot]
    (root / FOLDER).mkdir(mode=0o755, parents=True, exist_ok=True)
    durable.write(root / _BOOTS, msgspec.json.encode([*others, boot][-_BOOTS_KEPT:]), 0o644)


def recall(root: Path) -> Served | None:
    """The record; None where there is none that can be read."""
    try:
        return msgspec.json.decode((root / _RECORD).read_bytes(), type=Served)
    except (OSError, msgspec.DecodeError):
        return None


def record(root: Path, served: Served) -> None:
    """Writes the record, where it says something new. Raises OSError."""
    if recall(root) != served:
        (root / FOLDER).mkdir(mode=0o755, parents=True, exist_ok=True)
        durable.write(root / _RECORD, msgspec.json.encode(served), 0o644)


def amiss(last: Served | None, deployment: str, models: dict[str, bool]) -> list[str]:
    """Why this boot is not as good as the last one was, for people; none when it is. Pure.

    `models`: all that edged knows, and whether each is ready. A deployment that was good before stays so: a bad model
    on an unchanged operating system is never that system's fault. A model that edged no longer knows was taken away by
    a plan or by this image; only when none is left of those that served is that put down to the deployment.
    """
    if last is None or last.deployment == deployment or not last.models:
        return []
    if not any(name in models for name in last.models):
        return [f"none of the models that served is known any more: {', '.join(last.models)}"]
    return [
        f"model {name!r} served under the last deployment and does not under this one"
        for name in last.models
        if models.get(name) is False
    ]


def leave_evidence(root: Path, name: str, content: bytes) -> Path:
    """Keeps what tells why a boot was red; the newest few stay. Raises OSError."""
    folder = root / FOLDER
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    path = folder / f"red-{name}.json"
    durable.write(path, content[:_EVIDENCE_BYTES], 0o600)
    for old in evidence(root)[:-_EVIDENCE_KEPT]:
        old.unlink(missing_ok=True)
    return path


def evidence(root: Path) -> list[Path]:
    """What red boots left, oldest first."""
    return sorted((root / FOLDER).glob("red-*.json"))
