"""What bootc says of this device's operating system, and the few things that it is asked to do.

`bootc status --format=json` prints a `BootcHost` (https://bootc-dev.github.io/bootc/, crates/lib/src/spec.rs), whose
sections come and go with versions: `architecture`, `softRebootCapable`, `downloadOnly` (`finalizationLocked` in its own
recorded documents), `composefs`, `otherDeployments` are newer than the first, and each slot may be null. What is not
known is passed over, what is absent is empty.

It answers root alone: the daemon reads what the privileged helper leaves of it (`os_requests.OsStatus`).
"""

from __future__ import annotations

import subprocess
from datetime import datetime

import msgspec

from edged.errors import Code, EdgedError
from edged.system.os_requests import OsImage, OsStatus

_STATUS_S = 60.0
# An image of some GiB over a slow link.
_CHANGE_S = 6 * 3_600.0
_MAX_TEXT = 500


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One deployment. Empty: bootc does not say, as of one that was not made from an image."""

    image: str = ""
    digest: str = ""
    """`sha256:…`, of the image that was fetched."""
    version: str = ""
    timestamp: str = ""
    """When the image was built, as bootc writes it (RFC 3339)."""
    deployment: str = ""
    """What the deployment is called on the disk: the checksum of its OSTree commit, or its fs-verity digest."""
    incompatible: bool = False
    """It was changed by hand in a way that bootc does not take further."""
    download_only: bool = False
    """A restart does not boot it yet."""
    composefs: bool = False
    """bootc keeps it by itself, without OSTree."""

    @property
    def name(self) -> str:
        """By what it is told from others, staged or booted; empty where bootc does not say."""
        return self.digest or self.deployment

    def __str__(self) -> str:
        """For people."""
        return " ".join(filter(None, (self.image, self.version, self.digest))) or self.deployment


class Host(msgspec.Struct, frozen=True, omit_defaults=True):
    """The operating system as bootc sees it."""

    image: str = ""
    """The image that an upgrade looks for."""
    booted: Entry | None = None
    staged: Entry | None = None
    """What the next boot is to be of."""
    rollback: Entry | None = None
    rollback_queued: bool = False
    """The next boot is to be of `rollback`; with composefs perhaps the very opposite: bootc up to 1.16.9 says so where
    none is queued, and not where one is, with a UKI and systemd-boot (github.com/bootc-dev/bootc/issues/2405). That it
    has changed means that the order of the two has."""

    @property
    def composefs(self) -> bool:
        """What is booted is kept by bootc itself, without OSTree."""
        return self.booted is not None and self.booted.composefs

    @property
    def coming(self) -> Entry | None:
        """What an upgrade or a switch has the next boot be of. Whether a rollback is queued says nothing of these."""
        return self.staged if self.staged and not self.staged.download_only else None

    @property
    def going_back(self) -> Entry | None:
        """What a rollback that bootc has done has the next boot be of."""
        return self.rollback if self.rollback_queued or self.composefs else None


class _Reference(msgspec.Struct, frozen=True):
    image: str = ""


class _Image(msgspec.Struct, frozen=True, rename="camel"):
    image: _Reference | None = None
    version: str | None = None
    timestamp: str | None = None
    image_digest: str | None = None


class _Ostree(msgspec.Struct, frozen=True, rename="camel"):
    checksum: str | None = None


class _Composefs(msgspec.Struct, frozen=True, rename="camel"):
    verity: str | None = None


class _Slot(msgspec.Struct, frozen=True, rename="camel"):
    image: _Image | None = None
    ostree: _Ostree | None = None
    composefs: _Composefs | None = None
    incompatible: bool = False
    download_only: bool = False
    finalization_locked: bool = False

    def entry(self) -> Entry:
        image = self.image or _Image()
        deployment = (self.ostree and self.ostree.checksum) or (self.composefs and self.composefs.verity) or ""
        return Entry(
            image=image.image.image if image.image else "",
            digest=image.image_digest or "",
            version=image.version or "",
            timestamp=image.timestamp or "",
            deployment=deployment,
            incompatible=self.incompatible,
            download_only=self.download_only or self.finalization_locked,
            composefs=self.composefs is not None,
        )


class _Spec(msgspec.Struct, frozen=True):
    image: _Reference | None = None


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    staged: _Slot | None = None
    booted: _Slot | None = None
    rollback: _Slot | None = None
    rollback_queued: bool = False


class _Document(msgspec.Struct, frozen=True):
    kind: str
    spec: _Spec | None = None
    status: _Status | None = None


def parse(printed: bytes) -> Host:
    """What `bootc status --format=json` printed. Pure. Raises EdgedError (os_failed) where it is no such thing."""
    try:
        found = msgspec.json.decode(printed, type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _failed(f"bootc's status cannot be read: {str(error)[:_MAX_TEXT]}") from error
    if found.kind != "BootcHost":
        raise _failed(f"bootc's status is a {found.kind[:64]!r}, not a BootcHost")
    status = found.status or _Status()
    return Host(
        image=found.spec.image.image if found.spec and found.spec.image else "",
        booted=status.booted.entry() if status.booted else None,
        staged=status.staged.entry() if status.staged else None,
        rollback=status.rollback.entry() if status.rollback else None,
        rollback_queued=status.rollback_queued,
    )


def images(host: Host, at_ms: int, boot: str) -> OsStatus:
    """What the daemon, and by it an operator, is told; `boot` is the kernel's name for this boot. Pure."""
    booted, staged, rollback = _image(host.booted), _image(host.staged), _image(host.rollback)
    return OsStatus(at_ms=at_ms, boot=boot, booted=booted, staged=staged, rollback=rollback)


def _image(entry: Entry | None) -> OsImage | None:
    if entry is None:
        return None
    try:
        built = datetime.fromisoformat(entry.timestamp)
    except ValueError:
        built = None
    built_ms = int(built.timestamp() * 1000) if built and built.tzinfo else 0
    return OsImage(image=entry.image, version=entry.version, digest=entry.digest, built_ms=built_ms)


def status() -> Host:
    """Asks bootc; needs root. Raises EdgedError: unsupported where there is none, os_failed."""
    return parse(_run("status", "--format=json", limit_s=_STATUS_S))


def upgrade() -> None:
    """Has the newest image of the same name fetched and staged for the next boot. Raises EdgedError."""
    _run("upgrade", "--quiet", limit_s=_CHANGE_S)


def switch(image: str) -> None:
    """Has another image fetched and staged for the next boot; its name begins with no dash. Raises EdgedError."""
    _run("switch", "--quiet", image, limit_s=_CHANGE_S)


def roll_back() -> None:
    """Has the next boot be of the deployment before. Raises EdgedError.

    Where it is to be so already, bootc is not asked: asked twice, it has the booted one again. With composefs that
    cannot be told.
    """
    found = status()
    if found.composefs or not found.rollback_queued:
        _run("rollback", limit_s=_STATUS_S)


def _run(*arguments: str, limit_s: float) -> bytes:
    asked = f"`bootc {arguments[0]}`"
    try:
        done = subprocess.run(["bootc", *arguments], check=False, capture_output=True, timeout=limit_s)  # noqa: S603, S607 - fixed words but for a name of one form; the unit sets the path
    except FileNotFoundError as error:
        hint = "update the packages of the operating system as it does itself"
        raise EdgedError(Code.UNSUPPORTED, "this operating system has no bootc", hint) from error
    except OSError as error:
        raise _failed(f"{asked} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise _failed(f"{asked} was not done within {limit_s:g} s") from error
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())[-_MAX_TEXT:]
        raise _failed(f"{asked} ended with status {done.returncode}: {said or 'it said nothing'}")
    return done.stdout


def _failed(found: str) -> EdgedError:
    return EdgedError(Code.OS_FAILED, found, "see `journalctl -u edged-os` and `bootc status` on the device")
