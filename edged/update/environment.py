"""What a quarantine hangs on beside the model: engine versions, driver, OS image; read once at start."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edged.bundle.manifest import Variant
from edged.system import deployment
from edged.update.records import Key, Quarantined

# Written when the image is made: ISO 8601.
_BUILT = "usr/lib/edged/built"


class Environment(msgspec.Struct, frozen=True):
    """This device as a quarantine sees it. Empty: not known, or not there."""

    runtimes: Mapping[str, str | None]
    driver: str = ""
    os_image: str = ""

    def key(self, digest: str, variant: Variant) -> Key:
        """The key of a variant of a bundle here and now."""
        return Key(
            digest=digest,
            variant=variant.name,
            runtime=self.engine(variant.runtime),
            driver=self.driver,
            os_image=self.os_image,
        )

    def engine(self, runtime: str) -> str:
        """An engine and its version."""
        return f"{runtime} {self.runtimes.get(runtime) or 'none'}"

    def holds(self, found: Quarantined) -> bool:
        """Whether a quarantine still holds: neither engine, driver nor OS have changed since."""
        key = found.key
        runtime = key.runtime.partition(" ")[0]
        return (key.runtime, key.driver, key.os_image) == (self.engine(runtime), self.driver, self.os_image)


def read(runtimes: Mapping[str, str | None], root: Path = Path("/")) -> Environment:
    """Reads what can be read under `root`."""
    return Environment(runtimes, _driver(root), _os_image(root))


def build_time(root: Path = Path("/")) -> datetime | None:
    """When the image was built, as it says itself; None where it does not, or not so that it could be read."""
    with contextlib.suppress(ValueError, OverflowError):
        found = datetime.fromisoformat(_text(root / _BUILT).strip())
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    return None


def _driver(root: Path) -> str:
    """NVIDIA's kernel driver and, on a Jetson, the release of its Linux, which may be renewed by packages.

    Other accelerators' drivers come with the kernel, and so with the OS image.
    """
    parts = []
    if found := re.search(r"Kernel Module[^\n]*?\s([0-9]+(?:\.[0-9]+)+)", _text(root / "proc/driver/nvidia/version")):
        parts.append(f"nvidia {found[1]}")
    if found := re.search(r"R([0-9]+) \(release\), REVISION: ([0-9.]+)", _text(root / "etc/nv_tegra_release")):
        parts.append(f"l4t {found[1]}.{found[2]}")
    return " ".join(parts)


def _os_image(root: Path) -> str:
    """The deployment that was booted where OSTree or bootc keeps such, else what os-release(5) says of the image."""
    if booted := deployment.booted(root):
        return booted
    fields = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', _text(root / "etc/os-release"), re.MULTILINE))
    parts = (fields.get(name, "") for name in ("ID", "VERSION_ID", "IMAGE_ID", "IMAGE_VERSION", "BUILD_ID"))
    return " ".join(filter(None, parts))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
