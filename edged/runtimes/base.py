"""The port that every engine fills, and the table of engines. Imports no engine, and numpy for types only."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from edged.errors import Code, EdgedError
from edged.types import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


class SessionOptions(msgspec.Struct, frozen=True):
    """How an engine is to run a model. Empty: the engine's own choice."""

    threads: int
    precision: str = ""
    device: str = ""
    max_batch_size: int = 0
    """Rows that one execution takes, axis 0 of every tensor being the batch; 0: axis 0 is no batch."""
    shapes: dict[str, tuple[int, ...]] = {}
    """What the manifest declares of the inputs, by name, for engines that build for given sizes; -1 is left open."""


class Session(Protocol):
    """A loaded model."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model itself says it takes; a dimension that it leaves open is -1."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model itself says it gives."""

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Runs the model once.

        Arrays are C-contiguous, of the numpy type that stands for the datatype in `worker/codec.py` (BF16 as
        uint16, BYTES as object arrays of bytes). Raises EdgedError: invalid_tensor when the values were at fault,
        inference_failed otherwise; SystemExit where the process can compute nothing more, which ends it.
        """

    def let_go(self) -> None:
        """Lets go of the arrays of the last run, where it has kept any: they may lie in memory that is to go."""


class Runtime(Protocol):
    """What an engine's module offers."""

    def open_session(self, model: bytes, options: SessionOptions) -> Session:
        """Loads a model from its bytes. Raises EdgedError: load_failed with the engine's own words.

        incompatible_hardware or incompatible_runtime where the device or its driver is at fault, memory_short where it
        has no memory left, device_unavailable where it cannot be opened now and may be later.
        """


class Deriving(Runtime, Protocol):
    """What the module of an engine offers besides that builds what it runs from a model, once for many loads."""

    def derive(self, model: bytes, options: SessionOptions) -> bytes:
        """What the engine makes of a model on this device. Raises as `open_session` does."""

    def open_derived(self, derived: bytes, options: SessionOptions) -> Session:
        """Loads what `derive` gave. The engine runs it as it is: nobody else may have made or changed it.

        Raises as `open_session` does: load_failed also where another version or device made it.
        """


class Engine(msgspec.Struct, frozen=True):
    """How an engine is found, and what must stand in the environment before it is imported."""

    name: str
    module: str
    distributions: tuple[str, ...]
    """The packages that bring it, any of which will do."""
    extra: str
    """The extra of edged that installs it; empty where none can."""
    environment: dict[str, str]
    hidden: tuple[str, ...] = ()
    """Modules that it would import and does without: its telemetry, which starts threads and looks hosts up."""
    reads: tuple[str, ...] = ()
    """Files and folders that it reads besides code, the bundle, and what describes the machine."""
    devices: tuple[str, ...] = ()
    """Device nodes, and folders of them, that it works with, as glob patterns."""
    compiles: bool = False
    """It makes machine code as it runs, so that its workers cannot be kept from that."""
    derives: bool = False
    """Its module is one of `Deriving`."""
    builds_for_sizes: bool = False
    """What it derives is for the declared shapes of the inputs, and for the GPU that it was built on."""
    writes: tuple[str, ...] = ()
    """Files, and folders of them, that it changes and cannot do without; it makes and removes none."""
    origin: str = ""
    """Where it comes from, and what is to be done there, in words; of one that no extra installs."""
    hears_devices: bool = False
    """It listens to the kernel's messages of devices that come and go (netlink)."""
    libraries: tuple[str, ...] = ()
    """Shared libraries that it needs for its devices, and that come with the system."""
    alone: bool = False
    """One process at a time can have a device of its, but for `cpu`."""
    cpu: str = ""
    """The device (`options.device`) on which it needs none of its nodes; empty: there is no telling."""

    def on(self, device: str) -> Engine:
        """What it needs to work on that device."""
        if not self.cpu or device != self.cpu:
            return self
        return msgspec.structs.replace(self, reads=(), writes=(), devices=(), hears_devices=False)

    def version(self) -> str | None:
        """The installed version, found without importing the engine; None where it is absent."""
        for name in self.distributions:
            try:
                return metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return None

    @property
    def remedy(self) -> str:
        """What brings it where it is missing."""
        return self.origin or f"install it with: pip install 'edged[{self.extra}]'"


ENGINES = {
    engine.name: engine
    for engine in (
        Engine(
            name="onnxruntime",
            module="edged.runtimes.onnxruntime",
            distributions=("onnxruntime", "onnxruntime-gpu"),
            extra="onnxruntime",
            environment={"ORT_DISABLE_TELEMETRY": "1"},
        ),
        Engine(
            name="openvino",
            module="edged.runtimes.openvino",
            distributions=("openvino",),
            extra="openvino",
            environment={},
            hidden=("openvino_telemetry",),
            reads=("/etc/OpenCL",),
            devices=("/dev/dri", "/dev/accel"),
            compiles=True,
            derives=True,
        ),
        Engine(
            name="tensorrt",
            module="edged.runtimes.tensorrt",
            # NVIDIA's archives and the packages of its systems, JetPack's too, bring the first, its wheels any of them.
            distributions=("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
            extra="",
            origin="it comes with NVIDIA's base image, for that image's Python: build on one that has it, and let"
            " edged's environment see it (bootc/overlays/README.md)",
            # The default since CUDA 12.2: kernels are loaded as they are used, else all of every library.
            environment={"CUDA_MODULE_LOADING": "LAZY"},
            # What cuInit reads, and fails without (github.com/nolabs-ai/nono, pull request 673).
            reads=("/proc/devices", "/proc/driver/nvidia", "/proc/driver/nvidia-uvm"),
            # cuInit names the threads that it starts by writing to /proc/self/task/ID/comm, and fails where it may not
            # (github.com/NVIDIA/OpenShell, issue 1486). The rest of that folder is the worker's own.
            writes=("/proc/self/task",),
            # As in systemd/classes: first NVIDIA's cards (driver 570 opens nvidia-uvm-tools too), then Jetsons.
            devices=(
                "/dev/nvidia[0-9]*",
                "/dev/nvidiactl",
                "/dev/nvidia-uvm",
                "/dev/nvidia-uvm-tools",
                "/dev/nvidia-modeset",
                "/dev/nvidia-caps",
                "/dev/nvmap",
                "/dev/nvhost-*",
                "/dev/nvgpu",
                "/dev/host1x-fence",
                "/dev/dri",
            ),
            compiles=True,  # whether it could do without was never tried
            derives=True,
            builds_for_sizes=True,
        ),
        Engine(
            name="edgetpu",
            module="edged.runtimes.edgetpu",
            distributions=("ai-edge-litert",),
            extra="edgetpu",
            environment={},
            # As it is imported, it copies libraries into the folder of another package.
            hidden=("ai_edge_litert_sdk_intel",),
            # What libusb asks libudev of the devices on USB.
            reads=("/run/udev/data",),
            # On USB its number changes when its firmware is loaded.
            devices=("/dev/apex_*", "/dev/bus/usb"),
            hears_devices=True,
            libraries=("libedgetpu.so.1",),
            alone=True,
            cpu="CPU",
        ),
    )
}


def load_runtime(name: str) -> Runtime:
    """Imports an engine; only ever in a worker. Raises EdgedError (incompatible_runtime) naming what is missing."""
    engine = ENGINES.get(name)
    if engine is None:
        raise EdgedError(
            Code.INCOMPATIBLE_RUNTIME, f"runtime {name!r} does not exist here", f"there are: {', '.join(ENGINES)}"
        )
    for module in engine.hidden:
        # The import system's sign for a module that is not there.
        sys.modules[module] = None  # type: ignore[assignment]
    try:
        return cast("Runtime", importlib.import_module(engine.module))
    except ImportError as error:
        raise EdgedError(
            Code.INCOMPATIBLE_RUNTIME,
            f"runtime {name!r} cannot be imported: {error}",
            engine.remedy,
        ) from error


def load_deriving(name: str) -> Deriving:
    """As `load_runtime`, of an engine that derives; incompatible_runtime where it does not."""
    runtime = load_runtime(name)
    if not ENGINES[name].derives:
        raise cannot_derive(name)
    return cast("Deriving", runtime)


def cannot_derive(name: str) -> EdgedError:
    """Why a variant of this engine cannot be derived."""
    others = ", ".join(engine.name for engine in ENGINES.values() if engine.derives)
    return EdgedError(
        Code.INCOMPATIBLE_RUNTIME,
        f"runtime {name!r} runs the file itself and builds nothing from it",
        f"leave `derived` out, or use a runtime that builds: {others}",
    )


def signature_problems(
    declared: Sequence[TensorSpec], actual: Sequence[TensorSpec], what: str, *, all_wanted: bool
) -> list[str]:
    """Where the manifest's tensors are not the model's own, in words; `all_wanted`: none may be left undeclared."""
    problems = []
    by_name = {spec.name: spec for spec in actual}
    for spec in declared:
        own = by_name.pop(spec.name, None)
        if own is None:
            names = ", ".join(sorted(tensor.name for tensor in actual))
            problems.append(f"{what} {spec.name!r} is declared, the model has: {names}")
        elif own.datatype != spec.datatype:
            problems.append(f"{what} {spec.name!r} is declared {spec.datatype}, the model has {own.datatype}")
        elif len(own.shape) != len(spec.shape) or any(
            mine not in (-1, theirs) for mine, theirs in zip(own.shape, spec.shape, strict=True)
        ):
            problems.append(f"{what} {spec.name!r} is declared {list(spec.shape)}, the model has {list(own.shape)}")
    if all_wanted:
        problems += [f"{what} {name!r} of the model is not declared" for name in by_name]
    return problems
