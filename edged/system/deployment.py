"""Which deployment of the operating system is booted, and what served under the last one that was good.

The kernel's command line says where the deployment is (ostree-prepare-root(1), `ostree=`). That is a place and no
name: OSTree gives a deployment another place with each new one beside it, and its place to others; so the name is what
the place links to, `<commit>.<serial>`. Where bootc keeps deployments by itself, without OSTree, it says which image of
composefs is the root's, by a digest: `composefs=…`, and after bootc 1.16 `composefs.digest=v1-sha512-12:…` before that
(bootc, docs/src/experimental-composefs.md).

The record is written by root, after a boot that was good and again when that boot is left, and outlives the deployment:
/var does not roll back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edged import durable

_CMDLINE = "proc/cmdline"
_COMPOSEFS = ("composefs", "composefs.digest")
FOLDER = "var/lib/edged-boot"
_RECORD = f"{FOLDER}/served.json"
_BOOTS = f"{FOLDER}/boots.json"
_BOOTS_KEPT = 8

# Evidence of red boots that is kept; a device that flaps must not fill its disk.
_EVIDENCE_KEPT = 3
_EVIDENCE_BYTES = 256 * 1024
_LINE_CHARACTERS = 1_000
_WRONG_KEPT = 20


class Served(msgspec.Struct, frozen=True):
    """What served under a deployment whose boot was good."""

    deployment: str
    models: tuple[str, ...]
    of_image: tuple[str, ...] = ()
    """Those of them of which the image alone had brought revisions: a later image may leave them out."""


class Known(msgspec.Struct, frozen=True):
    """What edged says of its models, those that are on trial and nothing more apart."""

    ready: Mapping[str, bool]
    """Whether the revision that serves answers, now or as soon as it is asked."""
    coming: frozenset[str] = frozenset()
    """Those of which some revision is on its way, and has not failed before."""
    of_image: frozenset[str] = frozenset()
    """Those of which the image alone brought what is loaded."""
    settled: bool = True
    """It has chosen what serves: it is neither starting nor ending, nor up for administrators only."""


class Boot(msgspec.Struct, frozen=True):
    """What greenboot found of one boot."""

    boot: str
    """The kernel's name for it."""
    deployment: str
    good: bool
    wrong: tuple[str, ...] = ()
    """Why it was not good, as far as that concerns edged."""
    at_s: float = 0.0
    """When that was found, by the monotonic clock, which begins with the boot."""

    @property
    def why(self) -> str:
        """Why it was not good, for people."""
        return "; ".join(self.wrong) or "greenboot found it red for a reason that is not edged's; see its log"


def booted(root: Path) -> str:
    """The booted deployment; empty where the operating system has none."""
    try:
        words = (root / _CMDLINE).read_text(errors="replace").split()
    except OSError:
        return ""
    said = [(key, value) for key, _, value in (word.partition("=") for word in words)]
    place = next((value for key, value in said if key == "ostree"), "")
    if not place:  # a `?` before the digest: the root may do without fs-verity
        return next((value.rpartition(":")[2].lstrip("?") for key, value in said if key in _COMPOSEFS), "")
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


def red(root: Path) -> Boot | None:
    """The verdict over this boot, where it is not good."""
    this = boot_id(root)
    return next((each for each in boots(root) if each.boot == this and not each.good), None)


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


def held(last: Served | None, deployment: str, known: Known | None) -> Served:
    """What the next deployment is to be held against, by what edged says under this one, which is good. Pure.

    `known`: None where it says nothing. What served before stays, unless edged says that it does not any more: a model
    that failed under this deployment is not the next one's fault, and one that is only loading is no failure.
    """
    before = last or Served("", ())
    known = known or Known({}, settled=False)
    ready = {name for name, is_ready in known.ready.items() if is_ready}
    waiting = set(before.models) - ready
    if known.settled:
        waiting &= known.coming
    of_image = (known.of_image & ready) | (waiting & set(before.of_image))
    return Served(deployment, tuple(sorted(ready | waiting)), tuple(sorted(of_image)))


def amiss(last: Served | None, deployment: str, ready: Mapping[str, bool], left_out: Collection[str] = ()) -> list[str]:
    """Why this boot is not as good as the last one was, for people; none when it is. Pure.

    `ready`: as `Known` has it; `left_out`: those that this image has no folder for. A deployment that was good before
    stays so: a bad model on an unchanged operating system is never that system's fault. A model that edged does not
    know is missed, unless an image had brought it and this one left it out, and left some other that served.
    """
    if last is None or last.deployment == deployment or not last.models:
        return []
    if not any(name in ready for name in last.models):
        return [f"none of the models that served is known any more: {', '.join(last.models)}"]
    return [
        f"model {name!r} served under the last deployment and "
        + ("does not under this one" if name in ready else "is not known under this one")
        for name in last.models
        if not ready.get(name, name in last.of_image and name in left_out)
    ]


class Evidence(msgspec.Struct, frozen=True):
    """What tells why a boot was red."""

    at: str
    """The time of day, which may be wrong (RFC 3339)."""
    deployment: str
    wrong: list[str]
    status: dict[str, Any] | None = None
    """All that edged said of itself, where it did."""
    log: list[str] = []
    """The end of its log."""


def leave_evidence(root: Path, left: Evidence) -> Path:
    """Keeps what tells why a boot was red; the newest few stay. Raises OSError."""
    folder = root / FOLDER
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    # By number: clocks go back, mostly where something else is wrong too.
    path = folder / f"red-{max(map(_number, _evidence_files(root)), default=0) + 1:08d}.json"
    durable.write(path, _bounded(left), 0o600)
    for old in _evidence_files(root)[:-_EVIDENCE_KEPT]:
        old.unlink(missing_ok=True)
    return path


def evidence(root: Path) -> list[Evidence]:
    """What red boots left, oldest first; what cannot be read is passed over."""
    found = []
    for path in _evidence_files(root):
        with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
            found.append(msgspec.json.decode(path.read_bytes(), type=Evidence))
    return found


def _evidence_files(root: Path) -> list[Path]:
    return sorted((root / FOLDER).glob("red-*.json"), key=lambda path: (_number(path), path.name))


def _number(path: Path) -> int:
    number = path.stem.removeprefix("red-")
    return int(number) if number.isdecimal() else 0


def _bounded(left: Evidence) -> bytes:
    """As a document within the bound: of the log the end, of all else what it is mostly about."""
    log, left = left.log, msgspec.structs.replace(left, log=[])
    if len(msgspec.json.encode(left)) > _EVIDENCE_BYTES // 2:
        left = msgspec.structs.replace(left, status=None)
    if len(msgspec.json.encode(left)) > _EVIDENCE_BYTES // 2:
        left = msgspec.structs.replace(left, wrong=[line[:_LINE_CHARACTERS] for line in left.wrong[:_WRONG_KEPT]])
    room = _EVIDENCE_BYTES - len(msgspec.json.encode(left))
    kept: list[str] = []
    for line in reversed(log):
        room -= len(msgspec.json.encode(line[:_LINE_CHARACTERS])) + len(",")
        if room < 0:
            break
        kept.insert(0, line[:_LINE_CHARACTERS])
    return msgspec.json.encode(msgspec.structs.replace(left, log=kept))
