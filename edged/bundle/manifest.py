"""The manifest of a bundle: its typed schema, its canonical form and its digest.

A person writes `bundle.toml` (the same keys, without `files`); packing adds the files and writes `manifest.json`
in canonical form: UTF-8 JSON, keys sorted, no white space, defaults left out, whole numbers without a fraction.
The SHA-256 of those bytes names the release.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edged.types import Level, ModelName, TensorName, TensorSpec

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 1024 * 1024

VariantName = ModelName
Revision = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z", extra={"allowed": "a SHA-256 as 64 digits 0-9 and a-f"})]
BundlePath = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        extra={"allowed": "a path inside the bundle, with '/' between its parts"},
    ),
]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Text = Annotated[str, Meta(max_length=4096)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A table of the manifest."""


class Requires(_Table, frozen=True, kw_only=True):
    """What a variant needs of the device. Empty or 0: nothing."""

    runtime: Annotated[str, Meta(max_length=128)] = ""
    """Versions of the engine, as PEP 440 specifiers: `>=1.20,<2`."""
    accelerator: Annotated[str, Meta(max_length=64)] = ""
    """A kind of accelerator: `nvidia`, `intel-gpu`, `intel-npu`, `edgetpu`."""
    instruction_sets: tuple[Annotated[str, Meta(max_length=32)], ...] = ()
    """CPU flags as /proc/cpuinfo names them: `avx2`, `asimd`."""
    memory_mib: Annotated[int, Meta(ge=0, le=2**24, extra={"unit": "MiB"})] = 0
    """The most that loading and serving was seen to take."""


class Options(_Table, frozen=True, kw_only=True):
    """How the engine runs the file."""

    threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Intra-op threads; 0: what the settings say."""
    precision: Literal["", "fp32", "fp16", "bf16", "int8"] = ""
    """A precision for the engine to compute in, where it can choose."""
    device: Annotated[str, Meta(max_length=64)] = ""
    """A device as the engine names it: `CPU`, `GPU.0`, `NPU`."""


class Caps(_Table, frozen=True, kw_only=True):
    """What a worker of this variant may take. 0: what the settings say."""

    memory_mib: Annotated[int, Meta(ge=0, le=2**24, extra={"unit": "MiB"})] = 0
    load_s: Annotated[float, Meta(ge=0, le=86_400, extra={"unit": "s"})] = 0
    first_inference_s: Annotated[float, Meta(ge=0, le=86_400, extra={"unit": "s"})] = 0
    inference_s: Annotated[float, Meta(ge=0, le=3_600, extra={"unit": "s"})] = 0


class Variant(_Table, frozen=True, kw_only=True):
    """One way of running the bundle."""

    name: VariantName
    runtime: Annotated[str, Meta(min_length=1, max_length=64)]
    """The engine: `onnxruntime`, `openvino`, `edgetpu` or `tensorrt`."""
    file: BundlePath
    derived: bool = False
    """The engine builds what it runs from `file`, on the device; the result is cached, never shipped."""
    hardware_classes: tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...] = ()
    """The classes it may run on; none named: all."""
    requires: Requires = Requires()
    options: Options = Options()
    caps: Caps = Caps()


class Warmup(_Table, frozen=True, kw_only=True):
    """Inputs that a worker runs before it says that it is ready."""

    file: BundlePath
    """An .npz with one array per input, under the input's name."""
    count: Annotated[int, Meta(ge=1, le=1000)] = 1


class Golden(_Table, frozen=True, kw_only=True):
    """Inputs with the outputs that they must give.

    The .npz holds `inputs/<name>` and `outputs/<name>`. Each element may differ by atol + rtol·|expected|; where
    `agreement` is given it is instead the least share of rows whose largest element is the expected one.
    """

    file: BundlePath
    variants: tuple[VariantName, ...] = ()
    """The variants it holds for; none named: all."""
    atol: Annotated[float, Meta(ge=0)] = 1e-5
    rtol: Annotated[float, Meta(ge=0)] = 1e-4
    agreement: Fraction | None = None


class Budgets(_Table, frozen=True, kw_only=True):
    """What a trial may show at most, at level nominal. 0: no bound."""

    p99_ms: Annotated[float, Meta(ge=0, extra={"unit": "ms"})] = 0
    load_s: Annotated[float, Meta(ge=0, extra={"unit": "s"})] = 0
    memory_mib: Annotated[int, Meta(ge=0, le=2**24, extra={"unit": "MiB"})] = 0


class Shadow(_Table, frozen=True, kw_only=True):
    """How a new revision is compared with the serving one on live requests."""

    samples: Annotated[int, Meta(ge=0, le=1_000_000)] = 200
    agreement: Fraction = 0.95


class Soak(_Table, frozen=True, kw_only=True):
    """How a new revision is judged once it serves."""

    min_requests: Annotated[int, Meta(ge=0, le=10_000_000)] = 500
    max_s: Annotated[float, Meta(ge=0, le=30 * 86_400, extra={"unit": "s"})] = 3600
    max_error_rate: Fraction = 0.01


class Acceptance(_Table, frozen=True, kw_only=True):
    """What a revision must show before it serves, and while it is new."""

    goldens: tuple[Golden, ...] = ()
    budgets: Budgets = Budgets()
    shadow: Shadow = Shadow()
    soak: Soak = Soak()


class Degradation(_Table, frozen=True, kw_only=True):
    """What one level of pressure means for this model. Empty or 0: no change."""

    variant: Annotated[str, Meta(max_length=64)] = ""
    max_batch_size: Annotated[int, Meta(ge=0, le=65_536)] = 0
    max_rate: Annotated[float, Meta(ge=0, extra={"unit": "requests/s"})] = 0
    min_priority: Annotated[int, Meta(ge=0, le=100)] = 0
    """The lowest priority still served (1 is the highest)."""


class Queue(_Table, frozen=True, kw_only=True):
    """How requests wait for this model, and how batches form."""

    priority_levels: Annotated[int, Meta(ge=0, le=100)] = 0
    """Priorities told apart, 1 being the highest; 0: three, or one where the order is preserved."""
    default_priority: Annotated[int, Meta(ge=0, le=100)] = 0
    """The priority of requests that name none; 0: the middle one."""
    max_delay_us: Annotated[int, Meta(ge=0, le=10_000_000, extra={"unit": "µs"})] = 0
    """How long a request may wait for company; 0: as little as edged finds worth while."""
    preferred_batch_size: Annotated[int, Meta(ge=0, le=65_536)] = 0
    """Rows with which a batch does not wait any longer; 0: `max_batch_size`. Only with `max_delay_us`."""
    preserve_ordering: bool = False
    """Requests are answered in the order in which they came."""

    @property
    def levels(self) -> int:
        """Priorities told apart."""
        return self.priority_levels or (1 if self.preserve_ordering else 3)

    def level(self, asked: int, best: int = 1) -> int:
        """The priority of a request that asks for `asked`, 0 being the default, and may have `best` at most.

        What is below the lowest is that.
        """
        return min(max(asked or self.default_priority or (self.levels + 1) // 2, best), self.levels)

    def is_first(self, level: int) -> bool:
        """Whether a request of `level` goes before others; where no priorities are told apart, none does."""
        return level == 1 < self.levels


class Drift(_Table, frozen=True, kw_only=True):
    """The distribution of one output on the validation set, against which live ones are held."""

    output: TensorName
    kind: Literal["classes", "confidence", "value"]
    """Class counts of the largest element; quantiles of the largest element; quantiles of every element."""
    reference: Annotated[tuple[float, ...], Meta(min_length=2, max_length=10_000)]
    review_below: float | None = None
    """Results below are counted, and the answer says `edged_review`: a confidence too low, a value out of range."""
    review_above: float | None = None
    """Results above as well."""


class Chunk(_Table, frozen=True, kw_only=True):
    """A content-defined part of a file."""

    offset: Annotated[int, Meta(ge=0, le=2**50)]
    length: Annotated[int, Meta(ge=1, le=2**50)]
    sha256: Digest


class File(_Table, frozen=True, kw_only=True):
    """A file of the bundle."""

    path: BundlePath
    size: Annotated[int, Meta(ge=0, le=2**50, extra={"unit": "bytes"})]
    sha256: Digest
    chunks: tuple[Chunk, ...] = ()


class Description(_Table, frozen=True, kw_only=True):
    """What a person writes in `bundle.toml`; the manifest is this and the files."""

    schema: Literal[1] = 1
    name: ModelName
    revision: Revision
    min_revision: Revision = 1
    """No plan may go below this revision any more."""
    description: Text = ""
    license: Text = ""
    max_batch_size: Annotated[int, Meta(ge=0, le=65_536)] = 0
    """Rows that one execution takes, axis 0 of every tensor being the batch; 0: axis 0 is no batch."""
    inputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=256)]
    outputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=256)]
    warmup: Annotated[tuple[Warmup, ...], Meta(max_length=64)] = ()
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1, max_length=64)]
    """Best first."""
    acceptance: Acceptance = Acceptance()
    priority: Annotated[int, Meta(ge=1, le=100)] = 50
    """How much the model matters when memory is short: 1 is kept longest."""
    queue: Queue = Queue()
    degradation: dict[Level, Degradation] = {}
    drift: Annotated[tuple[Drift, ...], Meta(max_length=256)] = ()


class Manifest(Description, frozen=True, kw_only=True):
    """The signed truth about a bundle."""

    files: Annotated[tuple[File, ...], Meta(min_length=1, max_length=100_000)]

    def file(self, path: str) -> File:
        """The entry of `path`. Raises KeyError; a valid manifest lists every file that it names."""
        for file in self.files:
            if file.path == path:
                return file
        raise KeyError(path)

    def variant(self, name: str) -> Variant:
        """The variant called `name`. Raises KeyError."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise KeyError(name)


def encode(manifest: Manifest) -> bytes:
    """The canonical form: equal manifests give equal bytes, whatever of them was spelled out."""
    return msgspec.json.encode(_plain(manifest), order="sorted")


def _plain(value: Any) -> Any:
    """`value` without what equals its default, and with 3600 for 3600.0."""
    if isinstance(value, File):
        return value  # there may be many; msgspec leaves out its one default, which is empty
    if isinstance(value, msgspec.Struct):
        parts = ((field, getattr(value, field.name)) for field in _fields(type(value)))
        return {field.encode_name: _plain(part) for field, part in parts if part != _default(field)}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


@functools.cache
def _fields(table: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """To ask msgspec takes many times as long as all the rest of a small manifest's digest."""
    return msgspec.structs.fields(table)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def digest(manifest: Manifest) -> str:
    """The SHA-256 of the canonical form, in hex: the exact identity of a release, its configuration included."""
    return hashlib.sha256(encode(manifest)).hexdigest()


def as_data(description: Description) -> dict[str, Any]:
    """The plain data of a description or manifest, as TOML and JSON hold it, defaults left out."""
    data = msgspec.to_builtins(_plain(description))
    assert isinstance(data, dict)  # noqa: S101 - narrows the type
    return data
