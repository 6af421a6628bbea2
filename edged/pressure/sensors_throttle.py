"""Who says that a processor is held back: the CPU's own counters, the Raspberry Pi's firmware, Jetson's over-current.

Sources: /sys/devices/system/cpu/cpu*/thermal_throttle (arch/x86/kernel/cpu/mce/therm_throt.c) and cpufreq (in kHz);
`get_throttled` of the Pi's firmware (bits 0 to 3: now; 16 to 19: since it was started); hwmon `rpi_volt`;
`soctherm_oc` of Jetson (events since the start, in /sys/class/hwmon).
"""

from __future__ import annotations

import functools
from pathlib import Path

from edged.pressure import files
from edged.pressure.probe import Probe

# A Pi 5's is called soc@107c000000.
_PI_WORD = "sys/devices/platform/soc*/soc*:firmware/get_throttled"
PI_UNDERVOLTAGE, PI_CAPPED, PI_THROTTLED, PI_SOFT_LIMIT = 0x1, 0x2, 0x4, 0x8
_PI_HOT = {PI_CAPPED: "frequency capped", PI_THROTTLED: "throttled", PI_SOFT_LIMIT: "soft temperature limit"}


class Counter:
    """A count that only grows while a processor is throttled."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = [str(path) for path in paths]
        self._before: float | None = None

    def read(self) -> str | None:
        """How much it grew since it was read last, in words; None where it did not, or cannot be read."""
        values = [value for path in self._paths if (value := files.number(path)) is not None]
        if not values:
            return None
        now, before = sum(values), self._before
        self._before = now
        return f"{now - before:.0f} times more" if before is not None and now > before else None


def probes(root: Path) -> list[Probe]:
    """All of them."""
    return [*_cpus(root), *_pi(root), *_jetson(root)]


def _cpus(root: Path) -> list[Probe]:
    found = []
    cpus = files.numbered(root / "sys/devices/system/cpu", "cpu")
    for kind in ("core", "package"):
        counters = [cpu / f"thermal_throttle/{kind}_throttle_count" for cpu in cpus]
        counters = [path for path in counters if files.exists(path)]
        if counters:
            source = str(root / f"sys/devices/system/cpu/cpu*/thermal_throttle/{kind}_throttle_count")
            name = f"cpu:{kind}_throttle_count"
            found.append(Probe(name=name, unit="", source=source, read=Counter(counters).read, throttles=True))
    scaled = [cpu / "cpufreq" for cpu in cpus if files.exists(cpu / "cpufreq/scaling_cur_freq")]
    if scaled:
        read = functools.partial(_share_of_best, scaled)
        source = str(root / "sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq")
        found.append(Probe(name="cpu:frequency", unit="% of best", source=source, read=read))
    return found


def _share_of_best(cpus: list[Path]) -> float | None:
    """The mean; a processor without work may be slow of its own accord, so nothing follows from it alone."""
    shares = [
        100 * now / best
        for cpu in cpus
        if (now := files.number(cpu / "scaling_cur_freq")) is not None
        and (best := files.number(cpu / "cpuinfo_max_freq"))
    ]
    return sum(shares) / len(shares) if shares else None


def _pi(root: Path) -> list[Probe]:
    path = _pi_path(root)
    if path is None:
        return []
    return [
        Probe(
            name="raspberry-pi:throttled",
            unit="",
            source=str(path),
            read=functools.partial(_pi_words, path),
            throttles=True,
        )
    ]


def _pi_path(root: Path) -> Path | None:
    return next(root.glob(_PI_WORD), None)


def _pi_words(path: Path) -> str | None:
    word = pi_word(path)
    if word & PI_UNDERVOLTAGE and not word & PI_SOFT_LIMIT:
        word &= ~(PI_CAPPED | PI_THROTTLED)  # for the supply's sake, which `undervoltage` tells; it may be cold
    return ", ".join(text for bit, text in _PI_HOT.items() if word & bit) or None


def pi_word(path: Path) -> int:
    """The firmware's word; 0 where there is none."""
    try:
        return int((files.text(path) or "0").removeprefix("0x"), 16)
    except ValueError:
        return 0


def undervoltage(root: Path) -> bool | None:
    """What the Pi says of its supply; None on anything else."""
    if path := _pi_path(root):
        return bool(pi_word(path) & PI_UNDERVOLTAGE)
    for chip in files.numbered(root / "sys/class/hwmon", "hwmon"):
        if files.text(chip / "name") == "rpi_volt":
            return bool(files.number(chip / "in0_lcrit_alarm"))
    return None


def _jetson(root: Path) -> list[Probe]:
    found = []
    for chip in files.numbered(root / "sys/class/hwmon", "hwmon"):
        if files.text(chip / "name") == "soctherm_oc":
            counters = sorted(chip.glob("oc*_event_cnt"))
            name, read = f"{chip.name}:soctherm_oc", Counter(counters).read
            found.append(Probe(name=name, unit="", source=str(chip / "oc*_event_cnt"), read=read, throttles=True))
    return found
