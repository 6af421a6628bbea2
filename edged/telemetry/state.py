"""What is told of the device as a whole: complete and small, so that a dashboard needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from edged import __version__, clock
from edged.models.residency import Residency
from edged.models.resident import Resident
from edged.system.hardware import Hardware
from edged.system.os_requests import OsStatus
from edged.telemetry.messages import ServedModel, State
from edged.telemetry.sync import Topics
from edged.types import Level, UpdateStanding

MAX_TEXT = 300
_MOST_REASONS = 20

_NOT_UPDATED = UpdateStanding("", "", 0)


class Facts:
    """What a state is made of."""

    def __init__(
        self,
        topics: Callable[[], Topics],
        hardware: Hardware,
        residency: Residency,
        runtimes: Mapping[str, str | None],
        updates: Callable[[], Iterable[UpdateStanding]],
        root: Path,
    ) -> None:
        """`root` is where the operating system lies."""
        self.os_status: OsStatus | None = None
        """What the operating system's helper last said."""
        self._topics = topics
        self._hardware = hardware
        self._residency = residency
        self._engines = {name: version for name, version in sorted(runtimes.items()) if version}
        self._updates = updates
        self._os = os_name(root)
        self._system = os.uname()

    def state(self, mode: str, reasons: Iterable[str], level: Level) -> State:
        """The state, its place in the spool apart. `reasons`: why the device is degraded."""
        topics, images = self._topics(), self.os_status or OsStatus()
        updates = {each.model: each for each in self._updates()}
        booted, staged = images.booted, images.staged
        return State(
            device=topics.device,
            fleet=topics.fleet,
            hardware_class=topics.hardware_class,
            memory_mib=self._hardware.memory_mib,
            accelerators=sorted(self._hardware.accelerators),
            architecture=self._system.machine,
            processors=os.cpu_count() or 0,
            kernel=self._system.release,
            version=__version__,
            engines=self._engines,
            os=(" ".join(filter(None, (booted.image, booted.version))) if booted else "") or self._os,
            os_digest=booted.digest if booted else "",
            os_staged=(staged.digest or staged.image) if staged else "",
            clock_synchronized=clock.synchronized(),
            mode=mode,
            reasons=[reason[:MAX_TEXT] for reason in list(reasons)[:_MOST_REASONS]],
            level=level,
            models=[_served(each, updates.get(each.name, _NOT_UPDATED)) for each in self._residency.serving()],
        )


def _served(resident: Resident, update: UpdateStanding) -> ServedModel:
    return ServedModel(
        name=resident.name,
        revision=resident.revision,
        digest=resident.digest,
        variant=resident.variant.name if resident.ready and resident.variant else "",
        state=resident.state,
        reason=(resident.reason or update.why)[:MAX_TEXT],
        previous_revision=update.previous_revision,
        phase=update.phase,
    )


def os_name(root: Path) -> str:
    """The operating system by os-release(5): its image where it has one, else its name; "" where it does not say."""
    said = {}
    for path in ("etc/os-release", "usr/lib/os-release"):
        try:
            text = (root / path).read_text(errors="replace")[:16384]
        except OSError:
            continue
        said = {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in text.splitlines())}
        break
    image = " ".join(filter(None, (said.get("IMAGE_ID"), said.get("IMAGE_VERSION"))))
    return image or said.get("PRETTY_NAME", "")
