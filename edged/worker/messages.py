"""What the front and a worker say to each other, and how it is framed.

A frame is `<IQ`: the length of the head and of the body; then the head, a message below in MessagePack; then the
body, the bytes of tensors. Both ends are one release of edged, so the format carries no version.

The body of an Infer lies input by input, and within an input member by member, so that a fixed-size input of the
whole batch is one contiguous array that needs no merging. The body of an Answered lies member by member, and within
a member output by output, so that each caller's answer is one contiguous part.
"""

from __future__ import annotations

import struct
from enum import IntEnum

import msgspec

from edged.errors import Code, EdgedError
from edged.runtimes.base import SessionOptions
from edged.types import Comparison, TensorSpec

PREFIX = struct.Struct("<IQ")

# No frame is longer: settings bound a message, and so a batch, below this.
MAX_BODY_BYTES = 16 * 1024**3
MAX_HEAD_BYTES = 64 * 1024**2


# What a template says on its control socket; a process id, in digits, is the answer to the descriptors of a worker.
TEMPLATE_READY = "ready"
TEMPLATE_THREADS = "threads"
TEMPLATE_FAILED = "failed"
TEMPLATE_MESSAGE_BYTES = 4096


class Form(IntEnum):
    """How the elements of one tensor are written in the body."""

    RAW = 0
    """Little-endian elements one after the other; BYTES as 4-byte length and content each."""
    VARINT = 1
    """Protobuf varints, as the typed contents of the protocol pack them."""


class FileRef(msgspec.Struct, frozen=True, array_like=True):
    """A file of the bundle with what must be true of it."""

    path: str
    size: int
    sha256: str


class Source(msgspec.Struct, frozen=True, array_like=True):
    """A file of the bundle, and how which engine is to open it."""

    folder: str
    file: FileRef
    runtime: str
    options: SessionOptions


class WarmupRun(msgspec.Struct, frozen=True, array_like=True):
    """Inputs to run before the worker says that it is ready."""

    file: FileRef
    count: int


class Watched(msgspec.Struct, frozen=True, array_like=True):
    """An output whose results are counted in bins: `classes`, `confidence` or `value`, as the manifest's drift says."""

    output: str
    kind: str
    edges: tuple[float, ...]
    count: int
    """How many bins there are."""
    of_class: tuple[int, ...]
    """The bin of each class; empty: each has its own."""
    below: float | None
    above: float | None
    """What lies below or above is to be reviewed."""


class Derived(msgspec.Struct, frozen=True, array_like=True):
    """What an engine built on this device of a file of the bundle, and what must be true of it."""

    folder: str
    file: FileRef


class Load(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Front to worker, once: what to load. Answered by Loaded or Failed."""

    source: Source
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    max_answer_bytes: int
    """What the outputs of one member may take in all: what can be sent to a caller. 0: no bound."""
    warmup: tuple[WarmupRun, ...]
    watched: tuple[Watched, ...] = ()
    derived: Derived | None = None
    """What is loaded instead of the source's file, of which it was built."""


class Build(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """Front to worker, once and instead of Load: what to build of a file. Answered by Loaded or Failed."""

    source: Source
    output: str
    """An empty file, which alone it may write; who reads it trusts nothing but the daemon's own digest of it."""
    most_bytes: int


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Worker to front: the model answers, or is built."""

    load_s: float
    warmup_s: float
    sandbox: tuple[str, ...] = ()
    """What keeps the worker from what is not its own, for people."""
    sandbox_lacks: tuple[str, ...] = ()
    """What should too, and why it does not."""


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Worker to front: what was asked could not be done; `code` is one of `edged.errors.Code`."""

    code: str
    message: str
    hint: str

    @property
    def known_code(self) -> Code:
        """INTERNAL where the word is none of edged's: a worker that has gone wrong is not believed."""
        return Code(self.code) if self.code in set(Code) else Code.INTERNAL


class InputPart(msgspec.Struct, frozen=True, array_like=True):
    """One member's share of one input: its shape, and how many bytes it takes in which form.

    They lie from `offset` on in the region of this number, or, where that is 0, in the body or the arena.
    """

    shape: tuple[int, ...]
    size: int
    form: int
    region: int = 0
    offset: int = 0


class Target(msgspec.Struct, frozen=True, array_like=True):
    """Where one member wants one output: in at most `size` bytes from `offset` on in the region of this number."""

    region: int
    offset: int
    size: int


class Infer(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Front to worker: one batch. `members[m][i]` is member m's part of `inputs[i]`.

    Inputs and outputs that are large travel through the arena instead of the body: `slots[i]` is where the contents of
    `inputs[i]` begin there, -1 where they lie in the body; `rooms[o]` is where, and in how many bytes, `outputs[o]` may
    be put, (-1, 0) where it may not. `targets[m][o]` is where member m wants `outputs[o]` instead; `targets` and
    `targets[m]` are empty where nobody, or not this member, wants any in a region. `classes[o]` is how many classes of
    each row are wanted instead of the elements of `outputs[o]`, 0 where none are; empty: none anywhere. Answered by
    Answered, or by Failed where the whole batch could not be run.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    members: list[tuple[InputPart, ...]]
    slots: tuple[int, ...]
    rooms: tuple[tuple[int, int], ...]
    targets: tuple[tuple[Target | None, ...], ...] = ()
    classes: tuple[int, ...] = ()


class OutputPart(msgspec.Struct, frozen=True, array_like=True):
    """One output of one member: its shape, and how many bytes it takes, wherever they lie."""

    shape: tuple[int, ...]
    size: int


class MemberAnswer(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """A member's outputs, in the order asked for."""

    outputs: tuple[OutputPart, ...]


class Counted(msgspec.Struct, frozen=True, array_like=True):
    """How many results of a batch fell where: `counts[i]` into bin `bins[i]` of the `watched`th watched output."""

    watched: int
    bins: tuple[int, ...]
    counts: tuple[int, ...]
    flagged: int
    """Results that are to be reviewed."""


class Answered(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Worker to front: for each member its outputs, or why it has none."""

    members: list[MemberAnswer | Failed]
    placed: tuple[bool, ...]
    """For each output whether it lies in its room, member after member, and not in the body; targets apart."""
    input_ns: int
    infer_ns: int
    output_ns: int
    counted: tuple[Counted, ...] = ()
    review: tuple[int, ...] = ()
    """The members, by their place, of which a result is to be reviewed."""


class RunGolden(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Front to worker: run a golden and measure how far the answers lie from it. Answered by Compared or Failed."""

    file: FileRef
    atol: float
    rtol: float


class Compared(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Worker to front: the golden's outputs, compared."""

    outputs: list[Comparison]
    infer_s: float


class Unmap(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """Front to worker: a region is not used any more. Answered by Unmapped."""

    region: int


class Unmapped(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """Worker to front: it has let go of a region."""


class RunShadow(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Front to worker: run a copied request and measure how far the answer lies from the one that was given.

    The body holds the inputs one after the other, then the expected outputs, raw. Answered by Compared or Failed.
    """

    inputs: tuple[str, ...]
    parts: tuple[InputPart, ...]
    outputs: tuple[str, ...]
    expected: tuple[OutputPart, ...]
    atol: float
    rtol: float


ToWorker = Load | Build | Infer | RunGolden | RunShadow | Unmap
FromWorker = Loaded | Failed | Answered | Compared | Unmapped


def too_large(size: int, allowed: int) -> EdgedError:
    """Why outputs that take `size` bytes cannot be sent, of which `allowed` may."""
    return EdgedError(
        Code.ANSWER_TOO_LARGE,
        f"the answer takes {size} bytes, at most {allowed} can be sent",
        "ask for less in one request, or raise listen.max_message_mib",
    )
