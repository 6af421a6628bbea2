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


class Contents(msgspec.Struct, frozen=True):
    """The elements of one input, as parts of the bytes that came."""

    form: Form
    parts: tuple[Buffer, ...]
    count: int
    """Elements where the form tells (VARINT); else -1."""

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(map(len, self.parts))


class Call(msgspec.Struct):
    """One inference request."""

    model: str
    version: str
    id: str
    inputs: tuple[InputMeta, ...]
    outputs: tuple[str, ...]
    """The outputs asked for; none: all, in the manifest's order."""
    contents: tuple[Contents, ...]
    """One for each of `inputs`."""
    signature: Hashable
    """Equal for calls with equal `inputs` and `outputs`."""
    timeout_s: float | None = None


class Output(msgspec.Struct, frozen=True):
    """One output of an answer; `data` is raw, little-endian."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: memoryview


class Answer(msgspec.Struct, frozen=True):
    """What was computed, and who did it."""

    model: str
    revision: int
    variant: str
    degraded: bool
    outputs: tuple[Output, ...]
