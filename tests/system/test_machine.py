"""edged as a service of a virtual machine: its kernel has a thermal zone and caps memory, as no container's does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support import container, long_lived, vm
from support.bundles import make_bundle
from support.container import scratch
from support.hostile_engine import TRIGGER
from support.vm import Machine

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(vm.missing()), reason=vm.missing() or "there is one")]

TENSORS = [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])]
SETTINGS = "[pressure]\ndwell_s = 5\nstorage_reserve_mib = 16\n[workers]\nrestart_min_s = 0.05\n"
CAP_MIB = 96
# A sensor that jumps by 50 °C is not believed; the kernel's hot trip lies between, its critical one above.
COOL_C, HOT_C = 65, 112


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with digits and a model that allocates without end."""
    does, caps = json.dumps({"does": "allocate"}).encode(), f"caps = {{ memory_mib = {CAP_MIB}, inference_s = 300 }}\n"
    folder = tmp_path_factory.mktemp("bundles") / "hostile/1"
    hostile = make_bundle(folder, does, *TENSORS, name="hostile", extra=caps, runtime="hostile")
    with scratch("machine") as place:
        container.make_root(place / "root")
        vm.furnish(place / "root", [hostile], SETTINGS)
        disk = vm.make_disk(place / "root.img", 800, place / "root")
        drive = f"file={disk},format=raw,snapshot=on,cache=unsafe"
        booted = Machine(place, (vm.vmlinuz(), vm.first_root(place)), drive)
        long_lived.PROCESSES.add(booted.pid)
        try:
            booted.settled()
            yield booted
        finally:
            booted.stop()
            long_lived.PROCESSES.discard(booted.pid)


def asked(machine: Machine, command: str) -> Any:
    """What edgectl tells, as it tells programs."""
    return json.loads(machine.run(f"edgectl --timeout 60 --json {command}"))


def workers(machine: Machine) -> dict[str, Any]:
    """The workers by their models."""
    return {each["model"]: each for each in asked(machine, "workers")["workers"]}


def set_temperature(machine: Machine, celsius: int) -> None:
    """What the kernel's thermal zone reads from now on."""
    machine.run(f"python3 -I -S /usr/lib/set_temperature.py {celsius}")


def test_it_boots_to_a_daemon_that_serves(shared_daemon: Machine) -> None:
    shared_daemon.wait("edgectl status --wait 60")
    assert shared_daemon.property("StatusText") == "serving, 2 of 2 models ready"
    assert shared_daemon.run("systemctl is-system-running") == "running"


def test_a_thermal_zone_of_the_kernel_raises_the_level_and_lets_it_fall_again(shared_daemon: Machine) -> None:
    (zone,) = [each for each in asked(shared_daemon, "sensors")["sensors"] if each["name"] == "thermal_zone0:acpitz"]
    assert zone["value"] == COOL_C
    assert sorted((trip["kind"], trip["celsius"]) for trip in zone["trips"]) == [("critical", 115.0), ("hot", 105.0)]
    is_at = 'edgectl --json status | grep -q \'"level": "{}"\''
    shared_daemon.wait(is_at.format("nominal"))
    set_temperature(shared_daemon, HOT_C)
    shared_daemon.wait(is_at.format("emergency"))
    set_temperature(shared_daemon, COOL_C)
    shared_daemon.wait(is_at.format("nominal"))
    shared_daemon.wait("edgectl status --wait 60")
    events = asked(shared_daemon, "events")["events"]
    heat = [each for each in events if (each["code"], each["subject"]) == ("pressure_level", "thermal")]
    assert heat[-1]["details"]["level"] == "nominal"
    hot = [each["details"]["inputs"] for each in heat if each["details"]["level"] == "emergency"]
    assert f"thermal_zone0:acpitz {HOT_C:.1f} °C" in hot[0]


def test_the_kernel_ends_a_worker_that_takes_too_much_and_nobody_else(shared_daemon: Machine) -> None:
    before = workers(shared_daemon)
    main = shared_daemon.run("systemctl show edged -p MainPID -p NRestarts")
    assert before["hostile"]["caps"].startswith(f"memory {CAP_MIB} MiB, held by the kernel")
    group = shared_daemon.run(f"cut -d: -f3 /proc/{before['hostile']['pid']}/cgroup")
    assert group.startswith("/system.slice/edged.service/worker-")
    caps = shared_daemon.run(f"cd /sys/fs/cgroup{group} && cat memory.max memory.swap.max memory.oom.group")
    assert caps.split() == [str(CAP_MIB * 2**20), "0", "1"]
    shared_daemon.run("edgectl --json --timeout 60 bench digits --seconds 20 > /run/bench.json 2> /run/bench.said &")
    refused = shared_daemon.shell(f"echo '[[{TRIGGER}, 1]]' | edgectl --timeout 300 infer hostile -", vm.BOOT_S)
    assert refused.returncode == 1
    assert f"which had used up the memory of its cap of {CAP_MIB} MiB" in refused.stderr
    shared_daemon.wait("test -s /run/bench.json")
    (whole,) = json.loads(shared_daemon.run("cat /run/bench.json"))["parts"]
    assert whole["answered"] > 0
    assert whole["errors"] == {}
    shared_daemon.wait("edgectl status --wait 60")
    after = workers(shared_daemon)
    assert after["digits"]["pid"] == before["digits"]["pid"]
    assert after["hostile"]["pid"] != before["hostile"]["pid"]
    assert shared_daemon.run("systemctl show edged -p MainPID -p NRestarts") == main
    assert f"oom_memcg={group}," in shared_daemon.run("dmesg")
    counts = shared_daemon.run("cat /sys/fs/cgroup/system.slice/edged.service/memory.events")
    assert int(dict(line.split() for line in counts.splitlines())["oom_group_kill"]) > 0
