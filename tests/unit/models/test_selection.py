"""Which variants a device can run: the best first, and a reason for each of the others."""

import pytest

from edged.bundle.manifest import File, Manifest, Options, Requires, Variant
from edged.errors import Code
from edged.models.selection import PassedOver, select
from edged.system.hardware import Hardware
from edged.types import Datatype, TensorSpec

DEVICE = Hardware(
    hardware_class="medical-cart-cpu",
    instruction_sets=frozenset({"avx2", "fma"}),
    memory_mib=2048,
    accelerators=frozenset({"intel-gpu", "intel-npu"}),
)
RUNTIMES = {"onnxruntime": "1.22.1", "openvino": None}


def variant(name="v", runtime="onnxruntime", classes=(), **requires):
    return Variant(
        name=name, runtime=runtime, file="model.onnx", hardware_classes=classes, requires=Requires(**requires)
    )


def bundle(*variants):
    tensors = (TensorSpec("x", Datatype.FP32, (-1,)),)
    file = File(path="model.onnx", size=1, sha256="0" * 64)
    return Manifest(name="m", revision=1, inputs=tensors, outputs=tensors, variants=variants, files=(file,))


@pytest.mark.parametrize(
    "fits",
    [
        pytest.param(variant(), id="one that needs nothing"),
        pytest.param(variant(classes=("generic", "medical-cart-cpu")), id="made for this class, among others"),
        pytest.param(variant(accelerator="intel-npu"), id="an accelerator that is there"),
        pytest.param(variant(instruction_sets=("avx2", "fma")), id="instruction sets that are there"),
        pytest.param(variant(memory_mib=2048), id="all of the memory"),
        pytest.param(variant(runtime="onnxruntime"), id="a runtime of any version"),
        pytest.param(Variant(name="v", runtime="onnxruntime", file="f", options=Options(threads=64)), id="any options"),
    ],
)
def test_what_can_run(fits):
    assert select(bundle(fits), DEVICE, RUNTIMES) == ([fits], [])


def test_versions_of_a_runtime():
    fits = Variant(name="v", runtime="onnxruntime", file="f", requires=Requires(runtime=">=1.20,<2"))
    assert select(bundle(fits), DEVICE, RUNTIMES) == ([fits], [])


@pytest.mark.parametrize(
    ("objectionable", "code", "reason"),
    [
        pytest.param(
            variant(classes=("jetson-vision-standard", "factory-gateway-gpu")),
            Code.INCOMPATIBLE_HARDWARE,
            "made for jetson-vision-standard, factory-gateway-gpu; this device is medical-cart-cpu",
            id="made for other classes",
        ),
        pytest.param(
            variant(accelerator="nvidia"),
            Code.INCOMPATIBLE_HARDWARE,
            "needs the accelerator nvidia; there is intel-gpu, intel-npu",
            id="an accelerator that is not there",
        ),
        pytest.param(
            variant(instruction_sets=("avx2", "avx512f", "amx_int8")),
            Code.INCOMPATIBLE_HARDWARE,
            "needs the CPU's avx512f, amx_int8, which it has not",
            id="instruction sets that are not there",
        ),
        pytest.param(
            variant(memory_mib=2049),
            Code.INCOMPATIBLE_HARDWARE,
            "needs 2049 MiB; the device has 2048",
            id="more memory than there is",
        ),
        pytest.param(
            variant(runtime="tensorrt"),
            Code.INCOMPATIBLE_RUNTIME,
            "this release of edged has no runtime tensorrt; it has onnxruntime, openvino",
            id="a runtime that edged does not know",
        ),
        pytest.param(
            variant(runtime="openvino"),
            Code.INCOMPATIBLE_RUNTIME,
            "the runtime openvino is not installed",
            id="a runtime that is not installed",
        ),
        pytest.param(
            Variant(name="v", runtime="onnxruntime", file="f", requires=Requires(runtime=">=1.23")),
            Code.INCOMPATIBLE_RUNTIME,
            "needs onnxruntime >=1.23; 1.22.1 is installed",
            id="another version of the runtime",
        ),
    ],
)
def test_what_cannot_run_and_why(objectionable, code, reason):
    assert select(bundle(objectionable), DEVICE, RUNTIMES) == ([], [PassedOver("v", code, reason)])


def test_no_accelerator_at_all_is_said_in_words():
    bare = Hardware("generic")
    _, passed_over = select(bundle(variant(accelerator="nvidia")), bare, RUNTIMES)
    assert passed_over[0].reason == "needs the accelerator nvidia; there is none"


def test_memory_that_could_not_be_read_is_no_objection():
    needs = variant(memory_mib=10**6)
    assert select(bundle(needs), Hardware("generic"), RUNTIMES) == ([needs], [])


def test_both_lists_keep_the_bundles_order():
    names = ["a", "b", "c", "d"]
    variants = [variant(name, memory_mib=10**6 if name in "bd" else 0) for name in names]
    runnable, passed_over = select(bundle(*variants), DEVICE, RUNTIMES)
    assert [each.name for each in runnable] == ["a", "c"]
    assert [each.variant for each in passed_over] == ["b", "d"]


def test_of_several_objections_the_hardwares_come_first():
    hopeless = variant(runtime="tensorrt", classes=("other",), accelerator="nvidia")
    _, passed_over = select(bundle(hopeless), DEVICE, RUNTIMES)
    assert passed_over[0].code is Code.INCOMPATIBLE_HARDWARE
    assert passed_over[0].reason.startswith("made for other")
