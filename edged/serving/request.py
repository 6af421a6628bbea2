"""What a transport hands to serving, and what it gets back."""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

from edged.types import Datatype
from edged.worker.messages import Form

Buffer = bytes | memoryview


class InputMeta(msgspec.Struct, frozen=True):
    """What a request says of one input, its contents apart. `datatype` is as it came, perhaps none that exists."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Place(msgspec.Struct, frozen=True):
    """Where a tensor lies in shared memory: `size` bytes from `offset` on, in a region by the name it has here."""

    region: str
    offset: int
    size: int


class Contents(msgspec.Struct, frozen=True):
    """The elements of one input, as parts of the bytes that came, or where else they lie."""

    form: Form
    parts: tuple[Buffer, ...]
    count: int
    """Elements where the form tells (VARINT); else -1."""
    place: Place | None = None
    """In shared memory; there are no parts then."""

    @property
    def size(self) -> int:
        """Bytes of it, wherever they lie."""
        return sum(map(len, self.parts)) if self.place is None else self.place.size


class Asked(msgspec.Struct, frozen=True):
    """An output that a request asks for."""

    name: str
    classes: int = 0
    """How many classes to give of each row, the likeliest first; 0: the elements themselves."""
    place: Place | None = None
    """Where to put its elements; None: into the answer."""


class Call(msgspec.Struct):
    """One inference request."""

    model: str
    version: str
    id: str
    inputs: tuple[InputMeta, ...]
    outputs: tuple[Asked, ...]
    """None: all, in the manifest's order."""
    contents: tuple[Contents, ...]
    """One for each of `inputs`."""
    signature: Hashable
    """Equal for calls with equal `inputs` and `outputs`, places in shared memory apart."""
    timeout_s: float | None = None
    priority: int = 0
    """1 is the highest; 0: the model's default."""
    synthetic: bool = False
    """Whether its inputs are made up: no revision is held against its answer, and that is no result of the model's."""

    @property
    def shares_memory(self) -> bool:
        """Whether a tensor of it lies in shared memory, or is to be put there."""
        return any(content.place for content in self.contents) or any(asked.place for asked in self.outputs)


class Output(msgspec.Struct, frozen=True):
    """One output of an answer; `data` is raw, little-endian, and empty where it was put into shared memory."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: memoryview
    place: Place | None = None


class Answer(msgspec.Struct, frozen=True):
    """What was computed, and who did it."""

    model: str
    revision: int
    variant: str
    degraded: bool
    outputs: tuple[Output, ...]
    review: bool = False
    """Whether the manifest wants a result of it reviewed."""
