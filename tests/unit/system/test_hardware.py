"""What the device is, read from a tree laid out as /proc, /dev and /sys are."""

import pytest

from edged.system import hardware
from edged.system.hardware import Hardware

X86 = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Atom(TM) x7425E
flags\t\t: fpu sse4_2 avx2 avx_vnni
bugs\t\t: spectre_v1
processor\t: 1
flags\t\t: fpu
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd asimddp
CPU implementer\t: 0x41
"""
MEMINFO = """\
MemTotal:        3999468 kB
MemFree:          103704 kB
"""


@pytest.fixture
def tree(tmp_path):
    def lay_out(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return lay_out


def test_a_device_as_a_whole(tree):
    root = tree({"proc/cpuinfo": X86, "proc/meminfo": MEMINFO, "dev/dri/renderD128": "", "dev/accel/accel0": ""})
    assert hardware.read("intel-lowpower-detector", root) == Hardware(
        hardware_class="intel-lowpower-detector",
        instruction_sets=frozenset({"fpu", "sse4_2", "avx2", "avx_vnni"}),
        memory_mib=3905,
        accelerators=frozenset({"intel-gpu", "intel-npu"}),
    )


def test_what_cannot_be_read_is_absent(tmp_path):
    for folder in ("proc", "dev", "sys"):
        (tmp_path / folder).mkdir()
    assert hardware.read("generic", tmp_path) == Hardware("generic", frozenset(), 0, frozenset())


def test_a_root_without_them_is_a_folder_on_this_machine(tmp_path):
    assert hardware.read("generic", tmp_path) == hardware.read("generic")


def test_this_machine_can_be_read():
    found = hardware.read("generic")
    assert found.memory_mib > 0
    assert found.instruction_sets


class TestInstructionSets:
    @pytest.mark.parametrize(
        ("cpuinfo", "found"),
        [
            pytest.param(X86, {"fpu", "sse4_2", "avx2", "avx_vnni"}, id="x86 calls them flags"),
            pytest.param(ARM, {"fp", "asimd", "asimddp"}, id="Arm calls them Features"),
            pytest.param("", set(), id="an empty file"),
            pytest.param("flags\t\t:\n", set(), id="none at all"),
            pytest.param("power flags: x\n", set(), id="another key that ends like it"),
            pytest.param(b"flags : avx2 \xff\n", {"avx2", "�"}, id="bytes that are no text"),
        ],
    )
    def test_are_read(self, tree, cpuinfo, found):
        assert hardware.read("generic", tree({"proc/cpuinfo": cpuinfo})).instruction_sets == found


class TestMemory:
    @pytest.mark.parametrize(
        ("meminfo", "memory_mib"),
        [
            pytest.param(MEMINFO, 3905, id="in whole MiB"),
            pytest.param("MemFree: 1 kB\nMemTotal: 1048576 kB\n", 1024, id="wherever the line stands"),
            pytest.param("MemFree: 1048576 kB\n", 0, id="no such line"),
            pytest.param("MemTotal:\n", 0, id="a line without a number"),
            pytest.param("MemTotal: much kB\n", 0, id="a line with something else than a number"),
            pytest.param("", 0, id="an empty file"),
        ],
    )
    def test_is_read(self, tree, meminfo, memory_mib):
        assert hardware.read("generic", tree({"proc/meminfo": meminfo})).memory_mib == memory_mib


class TestAccelerators:
    @pytest.mark.parametrize(
        ("node", "kind"),
        [
            ("dev/nvidia0", "nvidia"),
            ("dev/nvhost-gpu", "nvidia"),
            ("dev/nvgpu/igpu0/ctrl", "nvidia"),
            ("dev/dri/renderD128", "intel-gpu"),
            ("dev/accel/accel0", "intel-npu"),
            ("dev/apex_0", "edgetpu"),
        ],
    )
    def test_show_by_their_nodes(self, tree, node, kind):
        assert hardware.read("generic", tree({node: ""})).accelerators == {kind}

    def test_several_nodes_of_one_kind_are_one(self, tree):
        assert hardware.read("generic", tree({"dev/nvidia0": "", "dev/nvhost-gpu": ""})).accelerators == {"nvidia"}

    @pytest.mark.parametrize("node", ["dev/nvidiactl", "dev/nvidia-uvm", "dev/dri/card0", "dev/null"])
    def test_do_not_show_by_others(self, tree, node):
        assert hardware.read("generic", tree({node: ""})).accelerators == frozenset()

    @pytest.mark.parametrize(
        ("vendor", "product", "found"),
        [
            ("1a6e", "089a", {"edgetpu"}),
            ("18d1", "9302", {"edgetpu"}),
            ("18d1", "4ee1", set()),  # a telephone of the same vendor
            ("1d6b", "0002", set()),  # a hub
        ],
    )
    def test_on_usb_show_by_what_they_are_and_not_by_their_bus(self, tree, vendor, product, found):
        told = {"idVendor": vendor, "idProduct": product, "busnum": "1", "devnum": "2"}
        files = {f"sys/bus/usb/devices/1-1/{name}": f"{value}\n" for name, value in told.items()}
        root = tree({**files, "dev/bus/usb/001/002": "", "sys/bus/usb/devices/1-1:1.0/bInterfaceNumber": "00\n"})
        assert hardware.read("generic", root).accelerators == found


NVIDIA = """\
Model: \t\t NVIDIA RTX A2000
IRQ:   \t\t 162
GPU UUID: \t GPU-955ef018-3bd9-5f27-80b3-fa20ee8d19c5
Device Minor: \t 0
"""


def test_nvidias_cards_are_known_by_their_models(tree):
    other = NVIDIA.replace("RTX A2000", "L4")
    root = tree(
        {f"proc/driver/nvidia/gpus/0000:{at}:00.0/information": text for at, text in (("41", other), ("01", NVIDIA))}
    )
    assert hardware.gpus(root) == ("NVIDIA RTX A2000", "NVIDIA L4")


def test_the_gpu_of_a_jetson_is_known_by_its_module(tree):
    model = {"proc/device-tree/model": b"NVIDIA Jetson Orin Nano Developer Kit\0"}
    assert hardware.gpus(tree(model | {"dev/nvhost-gpu": ""})) == ("NVIDIA Jetson Orin Nano Developer Kit",)


def test_a_board_without_a_gpu_of_nvidias_has_none(tree):
    assert hardware.gpus(tree({"proc/device-tree/model": b"Raspberry Pi 5 Model B\0", "dev/null": ""})) == ()
