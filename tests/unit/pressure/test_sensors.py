"""What sensors read on devices of several kinds, and on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from sim import sysfs
from sim.sysfs import Sysfs

from edged.pressure import sensors as sensors_module
from edged.pressure import sensors_memory, sensors_nvml, sensors_power, sensors_storage, sensors_thermal, stall
from edged.pressure.readings import Memory, Power, Trip
from edged.pressure.sensors import Sensors
from edged.worker import child


def temperatures(sensors: Sensors) -> dict[str, float | None]:
    return {each.name: each.celsius for each in sensors.read().temperatures}


def probe(sensors: Sensors, name: str):
    (found,) = (each for each in sensors.probes if each.name == name)
    return found


class TestAGateway:
    def test_what_computes_steers_and_the_rest_is_shown(self, tmp_path: Path):
        sensors = Sensors(sysfs.gateway(tmp_path).root, tmp_path)
        assert temperatures(sensors) == {
            "thermal_zone0:acpitz": 27.8,
            "thermal_zone2:x86_pkg_temp": 61.0,
            "hwmon0:coretemp/Package id 0": 61.0,
        }
        assert probe(sensors, "hwmon1:nvme/Composite").read() == 39.85
        assert not probe(sensors, "thermal_zone1:INT3400 Thermal").steers

    def test_trip_points_come_with_the_temperature(self, tmp_path: Path):
        readings = Sensors(sysfs.gateway(tmp_path).root, tmp_path).read()
        trips = {each.name: each.trips for each in readings.temperatures}
        assert trips["thermal_zone2:x86_pkg_temp"] == (Trip("passive", 95.0), Trip("passive", 0.0))
        assert trips["hwmon0:coretemp/Package id 0"] == (Trip("critical", 105.0),)

    def test_throttle_counters_tell_by_growing(self, tmp_path: Path):
        tree = sysfs.gateway(tmp_path)
        sensors = Sensors(tree.root, tmp_path)
        assert sensors.read().throttled == ()
        assert sensors.read().throttled == ()
        tree.write({"sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": 9})
        assert sensors.read().throttled == ("cpu:core_throttle_count (2 times more)",)
        assert sensors.read().throttled == ()

    @pytest.mark.parametrize(
        "kind",
        [
            "Processor",
            "intel_powerclamp",
            "cpufreq-cpu0",
            "thermal-cpufreq-0",
            "thermal-idle-0",
            "idle-cpu2",
            "devfreq-17000000.gpu",
            "38000000.gpu",
            "gpu-throttle-alert",
            "cpu-balanced",
            "tegra-heavy",
        ],
    )
    def test_a_cooling_device_that_holds_a_processor_back_throttles(self, kind: str, tmp_path: Path):
        tree = Sysfs(tmp_path)
        tree.cooling(0, kind, 0, 10)
        sensors = Sensors(tree.root, tmp_path)
        assert sensors.read().throttled == ()
        tree.cooling(0, kind, 4, 10)
        assert sensors.read().throttled == (f"cooling_device0:{kind} (4 of 10)",)

    @pytest.mark.parametrize(
        ("kind", "state", "most"),
        [
            ("Fan", 3, 3),
            ("pwm-fan", 2, 3),
            ("gpu-fan", 2, 3),
            ("LCD", 3, 10),  # a screen that is not at its brightest
            ("TCC Offset", 10, 63),  # set by the firmware
            ("hot-surface-alert", 1, 1),
            ("iwlwifi_1", 2, 19),
            ("intel_powerclamp", -1, 50),  # switched off
            ("cpufreq-cpu0", 16, 15),  # none of its steps
        ],
    )
    def test_a_cooling_device_that_holds_nothing_back_does_not(self, kind: str, state: int, most: int, tmp_path: Path):
        tree = sysfs.gateway(tmp_path)
        tree.cooling(0, kind, state, most)
        sensors = Sensors(tree.root, tmp_path)
        assert sensors.read().throttled == ()
        assert probe(sensors, f"cooling_device0:{kind}").read() is not None, "it is shown all the same"

    def test_the_frequency_is_a_share_of_the_best(self, tmp_path: Path):
        assert probe(Sensors(sysfs.gateway(tmp_path).root, tmp_path), "cpu:frequency").read() == 50


class TestAJetson:
    def test_its_zones_steer(self, tmp_path: Path):
        found = temperatures(Sensors(sysfs.jetson(tmp_path).root, tmp_path))
        assert found["thermal_zone4:tj-thermal"] == 52.0
        assert len(found) == 5

    def test_rails_are_voltage_times_current(self, tmp_path: Path):
        rail = probe(Sensors(sysfs.jetson(tmp_path).root, tmp_path), "hwmon0:ina3221/VDD_IN")
        assert rail.unit == "W"
        assert rail.read() == pytest.approx(19.120 * 0.480)

    def test_the_older_rails(self, tmp_path: Path):
        tree = Sysfs(tmp_path)
        tree.write(
            {"rail_name_0": "VDD_IN", "in_power0_input": 5210}, "sys/bus/i2c/drivers/ina3221x/1-0040/iio:device0"
        )
        assert probe(Sensors(tmp_path, tmp_path), "ina3221x:VDD_IN").read() == 5.21

    def test_over_current_throttles(self, tmp_path: Path):
        tree = sysfs.jetson(tmp_path)
        sensors = Sensors(tree.root, tmp_path)
        sensors.read()
        tree.hwmon(2, "soctherm_oc", {"oc3_event_cnt": 5})
        assert sensors.read().throttled == ("hwmon2:soctherm_oc (1 times more)",)


class TestARaspberryPi:
    @pytest.mark.parametrize(
        ("word", "said", "undervoltage"),
        [
            (0x20002, "frequency capped", False),
            (0x60006, "frequency capped, throttled", False),
            (0x80008, "soft temperature limit", False),
            (0x50005, "", True),  # held back for want of voltage
            (0x70007, "", True),
            (0xF000F, "frequency capped, throttled, soft temperature limit", True),
        ],
    )
    def test_what_the_firmware_says(self, word: int, said: str, undervoltage: bool, tmp_path: Path):
        readings = Sensors(sysfs.raspberry_pi(tmp_path, word).root, tmp_path).read()
        assert readings.throttled == ((f"raspberry-pi:throttled ({said})",) if said else ())
        assert readings.power == Power(undervoltage=undervoltage)

    def test_a_later_one_says_it_elsewhere(self, tmp_path: Path):
        tree = sysfs.raspberry_pi(tmp_path, word=0x4)
        soc = tree.root / "sys/devices/platform/soc"
        (soc / "soc:firmware").rename(soc / "soc@107c000000:firmware")
        soc.rename(soc.with_name("soc@107c000000"))
        assert Sensors(tree.root, tmp_path).read().throttled == ("raspberry-pi:throttled (throttled)",)

    def test_what_was_earlier_is_no_throttling_now(self, tmp_path: Path):
        readings = Sensors(sysfs.raspberry_pi(tmp_path, word=0xF0000).root, tmp_path).read()
        assert readings.throttled == ()
        assert readings.power == Power(undervoltage=False)

    def test_its_zone_is_not_counted_twice(self, tmp_path: Path):
        assert list(temperatures(Sensors(sysfs.raspberry_pi(tmp_path).root, tmp_path))) == ["thermal_zone0:cpu-thermal"]


class TestACoral:
    def test_temperature_and_trip_points(self, tmp_path: Path):
        (reading,) = Sensors(sysfs.coral(tmp_path).root, tmp_path).read().temperatures
        assert reading.celsius == 54.3
        assert [(trip.kind, trip.celsius) for trip in reading.trips] == [
            ("passive", 85.0),
            ("passive", 90.0),
            ("passive", 95.0),
            ("critical", 100.0),
        ]


class TestWhatIsWrong:
    def test_nothing_at_all(self, tmp_path: Path):
        sensors = Sensors(tmp_path / "empty", tmp_path / "absent")
        readings = sensors.read(stall.system(tmp_path / "empty"))
        assert sensors.probes == ()
        assert (readings.temperatures, readings.memory, readings.power, readings.storage) == ((), None, None, None)

    @pytest.mark.parametrize("content", ["", "hot", "nan", "1e3", "\x00", "9" * 400, "9" * 5000, "0x10"])
    def test_a_file_that_says_nonsense_is_absent(self, content: str, tmp_path: Path):
        tree = sysfs.raspberry_pi(tmp_path)
        tree.write({"temp": content}, "sys/class/thermal/thermal_zone0")
        assert temperatures(Sensors(tmp_path, tmp_path)) == {"thermal_zone0:cpu-thermal": None}

    def test_a_zone_that_vanishes_is_absent(self, tmp_path: Path):
        tree = sysfs.raspberry_pi(tmp_path)
        sensors = Sensors(tmp_path, tmp_path)
        tree.vanish(0)
        assert temperatures(sensors) == {"thermal_zone0:cpu-thermal": None}

    def test_a_source_that_fails_costs_itself_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def fail(*_: object) -> None:
            raise AttributeError("of another version")

        tree = sysfs.raspberry_pi(tmp_path)
        sysfs.coral(tmp_path)
        monkeypatch.setattr(sensors_module.sensors_hwmon, "probes", fail)
        monkeypatch.setattr(sensors_module.sensors_power, "read", fail)
        sensors = Sensors(tmp_path, tmp_path)
        (coral,) = [index for index, each in enumerate(sensors._steering) if each.name.startswith("coral")]
        sensors._steering[coral] = msgspec.structs.replace(sensors._steering[coral], read=fail)
        readings = sensors.read()
        assert {each.name: each.celsius for each in readings.temperatures} == {
            "thermal_zone0:cpu-thermal": 51.1,
            "coral:apex_0": None,
        }
        assert readings.memory
        assert readings.storage
        assert readings.power is None
        assert sensors.faults == dict.fromkeys(("hwmon", "power", "coral:apex_0"), "AttributeError: of another version")
        tree.memory(1000, 10)
        assert sensors.read().memory == Memory(1000 * 2**20, 10 * 2**20)

    def test_a_folder_in_place_of_a_file(self, tmp_path: Path):
        (tmp_path / "sys/class/thermal/thermal_zone0/temp").mkdir(parents=True)
        assert [each.read() for each in sensors_thermal.zones(tmp_path)] == [None]


def cgroups(tree: Sysfs, lines: str, mounts: str) -> None:
    tree.write({"proc/self/cgroup": lines, "proc/self/mountinfo": mounts})


def test_trip_points_that_change_are_seen_when_the_last_look_at_them_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tree = sysfs.raspberry_pi(tmp_path)
    sensors = Sensors(tmp_path, tmp_path)
    sensors.read()
    tree.zone(0, "cpu-thermal", 51.1, {"passive": 70.0})
    assert sensors.read().temperatures[0].trips == (Trip("critical", 110.0),)
    monkeypatch.setattr(sensors_module, "_SLOWLY_S", -1.0)
    assert sensors.read().temperatures[0].trips == (Trip("passive", 70.0),)


class TestMemory:
    V2 = "25 20 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw"
    V1 = "31 26 0:26 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory"

    def read(self, tree: Sysfs) -> Memory | None:
        return sensors_memory.read(tree.root, sensors_memory.groups(tree.root))

    def test_of_the_machine(self, tmp_path: Path):
        tree = Sysfs(tmp_path)
        tree.memory(1000, 600)
        assert self.read(tree) == Memory(1000 * 2**20, 600 * 2**20)

    def test_the_tightest_group_of_version_2_counts_wherever_it_is(self, tmp_path: Path):
        tree = Sysfs(tmp_path)
        tree.memory(8000, 6000)
        cgroups(tree, "0::/system.slice/edged.service/front", self.V2)
        service = {"memory.max": 500 * 2**20, "memory.high": "max", "memory.current": 300 * 2**20}
        tree.write(
            {**service, "memory.stat": f"inactive_file {100 * 2**20}"}, "sys/fs/cgroup/system.slice/edged.service"
        )
        front = {"memory.max": "max", "memory.current": 5, "memory.events": "low 0\noom_kill 3"}
        tree.write(front, "sys/fs/cgroup/system.slice/edged.service/front")
        assert self.read(tree) == Memory(500 * 2**20, 300 * 2**20, oom_kills=3)

    def test_what_the_limits_around_edged_cost_is_counted_and_the_own_caps_of_workers_are_not(self, tmp_path: Path):
        """As the kernel counts it: what is called local knows of no group below."""
        tree = Sysfs(tmp_path)
        tree.memory(8000, 6000)
        cgroups(tree, "0::/system.slice/edged.service/front", self.V2)
        service = "sys/fs/cgroup/system.slice/edged.service"

        def count(own: int, below: int) -> int:
            tree.write({"memory.events": "oom 0\noom_kill 0"}, f"{service}/front")
            tree.write({"memory.events": f"oom {own + below}\noom_kill {own + below}"}, service)
            tree.write({"memory.events.local": f"oom {own}\noom_kill 0"}, service)
            found = self.read(tree)
            assert found is not None
            return found.oom_kills

        before = count(0, 0)
        assert count(0, 5) == before
        assert count(1, 5) == before + 1

    def test_memory_high_is_a_limit_too(self, tmp_path: Path):
        tree = Sysfs(tmp_path)
        cgroups(tree, "0::/edged", self.V2)
        files = {"memory.max": 500 * 2**20, "memory.high": 400 * 2**20, "memory.current": 100 * 2**20}
        tree.write(files, "sys/fs/cgroup/edged")
        assert self.read(tree) == Memory(400 * 2**20, 300 * 2**20)

    def test_version_1(self, tmp_path: Path):
        tree = Sysfs(tmp_path)
        tree.memory(8000, 6000)
        cgroups(tree, "0::/\n4:memory:/box\n2:cpuacct:/", self.V1)
        files = {"memory.limit_in_bytes": 256 * 2**20, "memory.usage_in_bytes": 200 * 2**20}
        more = {"memory.stat": "cache 1\ntotal_inactive_file 1048576", "memory.oom_control": "under_oom 0\noom_kill 2"}
        tree.write({**files, **more}, "sys/fs/cgroup/memory/box")
        tree.write({"memory.limit_in_bytes": 2**63 - 4096, "memory.usage_in_bytes": 1}, "sys/fs/cgroup/memory")
        assert self.read(tree) == Memory(256 * 2**20, 57 * 2**20, oom_kills=2)

    def test_a_group_that_is_seen_from_inside(self, tmp_path: Path):
        """In a container the path is that of the host, and what is mounted begins at the container's own group."""
        tree = Sysfs(tmp_path)
        cgroups(tree, "0::/pod/box", self.V2.replace(" / /sys", " /pod/box /sys"))
        tree.write({"memory.max": 2**20, "memory.current": 2**19}, "sys/fs/cgroup")
        assert self.read(tree) == Memory(2**20, 2**19)

    def test_this_machine(self):
        found = self.read(Sysfs(Path("/")))
        assert found is not None
        assert 0 < found.available_bytes <= found.limit_bytes


class TestPower:
    def supply(self, tree: Sysfs, name: str, **files: object) -> None:
        tree.write(files, f"sys/class/power_supply/{name}")

    def test_a_cart_on_its_battery(self, tmp_path: Path):
        tree = Sysfs(tmp_path)
        self.supply(tree, "AC", type="Mains", online=0)
        self.supply(tree, "BAT0", type="Battery", capacity=41, present=1)
        self.supply(tree, "BAT1", type="Battery", capacity=17, present=1)
        self.supply(tree, "BAT2", type="Battery", capacity=0, present=0)
        self.supply(tree, "mouse", type="Battery", capacity=3, scope="Device")
        assert sensors_power.read(tmp_path) == Power(mains=False, charge_percent=17)

    def test_any_mains_will_do(self, tmp_path: Path):
        tree = Sysfs(tmp_path)
        self.supply(tree, "AC", type="Mains", online=0)
        self.supply(tree, "usb", type="USB", online=1)
        assert sensors_power.read(tmp_path) == Power(mains=True)

    def test_none(self, tmp_path: Path):
        assert sensors_power.read(tmp_path) is None


def test_storage_is_what_the_file_system_says(tmp_path: Path):
    found = sensors_storage.read(Path("/"), tmp_path)
    told = os.statvfs(tmp_path)
    assert found is not None
    assert found.total_bytes == told.f_blocks * told.f_frsize
    assert 0 < found.free_bytes <= found.total_bytes
    assert found.writable
    before = found.written_bytes
    assert before is not None
    with (tmp_path / "file").open("wb") as file:
        file.write(bytes(2**20))
        file.flush()
        os.fsync(file.fileno())
    after = sensors_storage.read(Path("/"), tmp_path)
    assert after is not None
    assert after.written_bytes is not None
    assert after.written_bytes >= before


def test_what_children_write_counts_while_they_are_at_work_and_once_they_are_reaped(tmp_path: Path):
    tree = Sysfs(tmp_path)

    def written(own: int, **others: int) -> int | None:
        tree.write({f"proc/{pid}/io": f"rchar: 9\nwrite_bytes: {count}" for pid, count in others.items()})
        tree.write({"proc/self/io": f"wchar: 5\nwrite_bytes: {own}\ncancelled_write_bytes: 3"})
        found = sensors_storage.read(tmp_path, tmp_path)
        assert found is not None
        return found.written_bytes

    assert written(100, **{"7": 1000}) == 100, "another's"
    child._held.add(7)
    try:
        assert written(100, **{"7": 1000}) == 1100
        assert written(100, **{"7": 5000}) == 5100
    finally:
        child._held.discard(7)
    assert written(5100) == 5100, "the kernel has added it to what its parent wrote"


def test_the_kernel_adds_what_a_reaped_child_wrote_to_its_parents(tmp_path: Path):
    """What the count rests on."""
    script = "import os, sys; f = open(sys.argv[1], 'wb'); f.write(bytes(2**20)); f.flush(); os.fsync(f.fileno())"

    def written() -> int:
        found = sensors_storage.read(Path("/"), tmp_path)
        assert found is not None
        return found.written_bytes or 0

    before = written()
    subprocess.run([sys.executable, "-I", "-S", "-c", script, tmp_path / "file"], check=True)
    if not written():
        pytest.skip(f"nothing that is written to {tmp_path} is sent to a disk")
    assert written() - before >= 2**20


def test_without_the_package_or_a_driver_there_is_no_gpu():
    assert sensors_nvml.probes("edged_no_such_package") == []


class Nvml:
    """What nvidia-ml-py offers, of one GPU."""

    class NVMLError(Exception):
        pass

    def __init__(self, reasons: int) -> None:
        self.reasons = reasons

    def __getattr__(self, name: str):
        answers = {
            "nvmlInit": None,
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": object(),
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetCurrentClocksThrottleReasons": self.reasons,
            "nvmlDeviceGetPowerUsage": 60500,
        }

        def call(*arguments: object) -> object:
            if name == "nvmlDeviceGetTemperatureThreshold":
                return {3: 88, 1: 93, 0: 0}[arguments[1]]
            if name not in answers:
                raise self.NVMLError("not supported")
            return answers[name]

        return call


@pytest.mark.parametrize(
    ("reasons", "said"),
    [
        (0x0, None),
        (0x4, None),  # a power cap
        (0x8, "hardware slowdown"),
        (0x88, None),  # for the power supply
        (0x60, "software thermal slowdown, hardware thermal slowdown"),
    ],
)
def test_what_a_gpu_tells(reasons: int, said: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml_of_a_test", Nvml(reasons))
    found = {each.name: each for each in sensors_nvml.probes("pynvml_of_a_test")}
    assert found["nvidia0:temperature"].read() == 61.0
    trips = found["nvidia0:temperature"].trips
    assert trips is not None
    assert trips() == (Trip("passive", 88.0), Trip("hot", 93.0))
    assert found["nvidia0:throttled"].read() == said
    assert found["nvidia0:power"].read() == 60.5
    assert found["nvidia0:memory_used"].read() is None


class DriverOfGpus(Nvml):
    """Under which nothing answers that was begun before it was loaded."""

    def __init__(self) -> None:
        super().__init__(0)
        self.loaded = 1
        self.begun = 0

    def nvmlInit(self) -> None:  # noqa: N802 - its name
        self.begun = self.begun or self.loaded

    def nvmlShutdown(self) -> None:  # noqa: N802 - its name
        if not self.begun:
            raise self.NVMLError("uninitialized")
        self.begun = 0

    def nvmlDeviceGetHandleByIndex(self, _index: int) -> int:  # noqa: N802 - its name
        return self.begun

    def nvmlDeviceGetTemperature(self, handle: int, _sensor: int) -> int:  # noqa: N802 - its name
        if handle != self.loaded:
            raise self.NVMLError("driver not loaded")
        return 61

    nvmlDeviceGetCurrentClocksThrottleReasons = nvmlDeviceGetPowerUsage = (  # noqa: N815 - their names
        lambda self, handle: self.nvmlDeviceGetTemperature(handle, 0)
    )


class TestWhatComesLater:
    @pytest.fixture
    def later(self, monkeypatch: pytest.MonkeyPatch):
        """Lets a minute pass."""
        ahead = [0.0]
        monkeypatch.setattr(sensors_module.clock, "monotonic", lambda: time.monotonic() + ahead[0])

        def pass_by() -> None:
            ahead[0] += 61.0

        return pass_by

    def test_is_a_gpu_whose_driver_was_loaded_anew(self, tmp_path: Path, later, monkeypatch: pytest.MonkeyPatch):
        nvml = DriverOfGpus()
        monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml)

        def celsius() -> float | None:
            (found,) = [each for each in sensors.read().temperatures if each.name == "nvidia0:temperature"]
            return found.celsius

        sensors = Sensors(Path("/"), tmp_path)
        assert celsius() == 61.0
        nvml.loaded += 1
        assert celsius() is None
        later()
        assert celsius() == 61.0
        begun = nvml.begun
        later()
        assert (celsius(), nvml.begun) == (61.0, begun), "one that answers is not asked for anew"

    def test_is_found_with_its_trip_points(self, tmp_path: Path, later):
        sensors = Sensors(sysfs.gateway(tmp_path).root, tmp_path)
        sensors.read()
        sysfs.coral(tmp_path)
        assert "coral:apex_0" not in temperatures(sensors), "it is not looked for each time"
        later()
        found = {each.name: each for each in sensors.read().temperatures}
        assert found["coral:apex_0"].celsius is not None
        assert Trip("critical", 100.0) in found["coral:apex_0"].trips
        assert found["thermal_zone2:x86_pkg_temp"].celsius == 61.0

    def test_a_zone_that_vanishes_and_comes_back_is_read_again(self, tmp_path: Path, later):
        tree = sysfs.raspberry_pi(tmp_path)
        sensors = Sensors(tree.root, tmp_path)
        (name,) = temperatures(sensors)
        zone = tree.root / "sys/class/thermal/thermal_zone0"
        zone.rename(tmp_path / "gone")
        assert temperatures(sensors) == {name: None}
        later()
        (stands_in,) = temperatures(sensors)
        assert stands_in == "hwmon0:cpu_thermal/temp1", "the same chip"
        (tmp_path / "gone").rename(zone)
        later()
        assert all(isinstance(each, float) for each in temperatures(sensors).values())
        assert set(temperatures(sensors)) == {name, stands_in}

    def test_counters_that_grow_meanwhile_are_not_forgotten(self, tmp_path: Path, later):
        tree = sysfs.gateway(tmp_path)
        sensors = Sensors(tree.root, tmp_path)
        sensors.read()
        tree.write({"sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": 9})
        later()
        assert sensors.read().throttled == ("cpu:core_throttle_count (2 times more)",)
