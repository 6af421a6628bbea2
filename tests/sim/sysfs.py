"""The /proc and /sys of devices, as trees of files: what their kernels show, in their own words and units."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


class Sysfs:
    """A root with files that a test lays out and changes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def write(self, files: Mapping[str, object], below: str = "") -> None:
        """Each by its path below the root, or below a folder of it."""
        for name, content in files.items():
            path = self.root / below / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")

    def zone(self, number: int, kind: str, celsius: float, trips: Mapping[str, float] | None = None) -> None:
        """A thermal zone; trip points in the order given, two of a kind as `passive`, `passive2`."""
        files: dict[str, object] = {"type": kind, "temp": round(celsius * 1000)}
        for index, (trip, at_c) in enumerate((trips or {}).items()):
            files[f"trip_point_{index}_type"] = trip.rstrip("0123456789")
            files[f"trip_point_{index}_temp"] = round(at_c * 1000)
        self.write(files, f"sys/class/thermal/thermal_zone{number}")

    def set_temperature(self, number: int, celsius: float) -> None:
        """What a zone says from now on."""
        self.write({"temp": round(celsius * 1000)}, f"sys/class/thermal/thermal_zone{number}")

    def vanish(self, number: int) -> None:
        """A zone's driver goes: its files stay, and cannot be read."""
        (self.root / f"sys/class/thermal/thermal_zone{number}/temp").unlink()

    def cooling(self, number: int, kind: str, state: int, most: int) -> None:
        """A cooling device."""
        files = {"type": kind, "cur_state": state, "max_state": most}
        self.write(files, f"sys/class/thermal/cooling_device{number}")

    def hwmon(self, number: int, name: str, files: Mapping[str, object]) -> None:
        """A chip."""
        self.write({"name": name, **files}, f"sys/class/hwmon/hwmon{number}")

    def memory(self, total_mib: int, available_mib: int) -> None:
        """The machine's."""
        lines = f"MemTotal: {total_mib * 1024} kB\nMemFree: 1024 kB\nMemAvailable: {available_mib * 1024} kB"
        self.write({"proc/meminfo": lines})


def gateway(root: Path) -> Sysfs:
    """A fanless PC: ACPI, coretemp, an NVMe disk, Intel's throttle counters, a dummy zone that says 20 °C for ever."""
    found = Sysfs(root)
    found.zone(0, "acpitz", 27.8, {"critical": 119.0})
    found.zone(1, "INT3400 Thermal", 20.0)
    found.zone(2, "x86_pkg_temp", 61.0, {"passive": 95.0, "passive2": 0.0})
    found.cooling(0, "Processor", 0, 10)
    found.cooling(1, "Fan", 2, 3)
    found.hwmon(0, "coretemp", {"temp1_label": "Package id 0", "temp1_input": 61000, "temp1_crit": 105000})
    found.hwmon(1, "nvme", {"temp1_label": "Composite", "temp1_input": 39850, "temp1_crit": 84850})
    for cpu in range(2):
        files = {
            "thermal_throttle/core_throttle_count": 7,
            "thermal_throttle/package_throttle_count": 9,
            "cpufreq/scaling_cur_freq": 1_000_000,
            "cpufreq/cpuinfo_max_freq": 2_000_000,
        }
        found.write(files, f"sys/devices/system/cpu/cpu{cpu}")
    found.memory(8000, 6000)
    return found


def jetson(root: Path) -> Sysfs:
    """An Orin module under L4T: its zones, the INA3221's rails, a fan, the over-current counters."""
    found = Sysfs(root)
    for number, kind in enumerate(("cpu-thermal", "gpu-thermal", "cv0-thermal", "soc0-thermal", "tj-thermal")):
        found.zone(number, kind, 48.0 + number, {"active": 55.0, "passive": 99.0, "hot": 103.0, "critical": 104.5})
    found.cooling(0, "pwm-fan", 2, 3)
    found.cooling(1, "cpufreq-cpu0", 0, 15)
    rails = {"in1_label": "VDD_IN", "in1_input": 19120, "curr1_input": 480, "in2_label": "VDD_CPU_GPU_CV"}
    found.hwmon(0, "ina3221", {**rails, "in2_input": 19112, "curr2_input": 100})
    found.hwmon(1, "pwmfan", {"fan1_input": 1800})
    found.hwmon(2, "soctherm_oc", {"oc1_event_cnt": 0, "oc1_throt_en": 1, "oc3_event_cnt": 4})
    found.memory(16000, 12000)
    return found


def raspberry_pi(root: Path, word: int = 0) -> Sysfs:
    """A Pi 4: one zone, seen again by hwmon, and the firmware's word."""
    found = Sysfs(root)
    found.zone(0, "cpu-thermal", 51.1, {"critical": 110.0})
    found.hwmon(0, "cpu_thermal", {"temp1_input": 51121, "temp1_crit": 110000})
    found.hwmon(1, "rpi_volt", {"in0_lcrit_alarm": 0})
    found.write({"sys/devices/platform/soc/soc:firmware/get_throttled": f"{word:x}"})
    found.memory(4000, 3000)
    return found


def coral(root: Path) -> Sysfs:
    """A Dev Board mini PCIe card in a small machine."""
    found = Sysfs(root)
    files = {"temp": 54300, "trip_point0_temp": 85000, "trip_point1_temp": 90000, "trip_point2_temp": 95000}
    found.write({**files, "temp_warn2": 100000, "temp_warn2_en": 1}, "sys/class/apex/apex_0")
    found.memory(2000, 1500)
    return found
