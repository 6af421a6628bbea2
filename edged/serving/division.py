"""A request of more rows than one execution may have now: its rows part by part, and the answers of the parts as one.

Each part is cut out of the request when its turn comes, as large as may be then. All parts are of one variant: where
that changes meanwhile, the request begins again. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from edged.bundle.manifest import Variant
from edged.serving.admission import Admitted
from edged.serving.regions import Shared, Spot
from edged.serving.request import Contents, Output
from edged.types import Datatype
from edged.worker.messages import Answered, Form, MemberAnswer, too_large

# Texts are as long as each says itself, so that they are walked one by one to find where a row ends; a request with
# more of them goes in one execution, whatever the limit.
MAX_TEXTS = 65_536

# Makes 0 of the last byte of a varint, and 1 of those before it.
_CONTINUED = bytes(0x80) + b"\1" * 0x80

# So many bytes of varints are counted at once, and those of the last such block one by one.
_BLOCK = 1024


class Division:
    """One request that is executed in parts."""

    def __init__(
        self, admitted: Admitted, contents: Sequence[Contents], shared: Shared | None, max_answer_bytes: int
    ) -> None:
        """`max_answer_bytes`: what the outputs may take in all, those in shared memory apart; 0: no bound."""
        self._admitted = admitted
        self._shared = shared
        self._max_answer_bytes = max_answer_bytes
        self.whole = not _divisible(admitted, contents)
        """Whether it has to go in one execution after all."""
        self._contents = [] if self.whole else [_in_one_piece(each) for each in contents]
        self.begin(None)

    def begin(self, variant: Variant | None) -> None:
        """Forgets what was done."""
        self.variant = variant
        self.left = self._admitted.rows
        """Rows that are not executed yet."""
        self.first_sent_ns = 0
        """When the first part went to the worker, by the monotonic clock."""
        self.spent_ns = (0, 0, 0)
        """What the parts took so far: before computing, to compute, and after."""
        self.review = False
        """Whether a result of the parts so far is to be reviewed."""
        self._rows = 0
        self._at = [0] * len(self._contents)
        self._ends = self._at
        self._shapes: list[tuple[int, ...]] = []
        self._data: list[list[bytes]] = [[] for _ in self._admitted.outputs]
        self._sizes = [0] * len(self._admitted.outputs)
        self._held = 0

    def part(self, rows: int) -> tuple[Admitted, tuple[Contents, ...], Shared | None] | None:
        """The next `rows` rows at most, as a request; None where it has to go in one execution after all."""
        if self.whole:
            return None
        rows = self._rows = min(rows, self.left)
        admitted = self._admitted
        ends = []
        for position, content in enumerate(self._contents):
            elements = admitted.elements[position] // admitted.rows * rows
            end = _end(content, admitted.datatypes[position], self._at[position], elements)
            if end is not None and rows == self.left:
                end = content.size  # and what may be too much, which the worker tells
            if end is None:
                self.whole = True
                return None
            ends.append(end)
        cut = tuple(map(_cut, self._contents, self._at, ends))
        of_part = structs.replace(
            admitted,
            rows=rows,
            shapes=tuple((rows, *shape[1:]) for shape in admitted.shapes),
            elements=tuple(count // admitted.rows * rows for count in admitted.elements),
        )
        shared = self._shared and structs.replace(
            self._shared,
            inputs=tuple(map(_moved, self._shared.inputs, self._at)),
            outputs=tuple(map(_moved, self._shared.outputs, self._sizes)),
        )
        self._ends = ends
        return of_part, cut, shared

    def take(self, answered: Answered, member: MemberAnswer, found: Sequence[memoryview]) -> int:
        """Keeps the answer to the part given last; gives its rows, 0 where all is to be executed at once after all.

        Raises EdgedError (answer_too_large).
        """
        shapes = [head.shape[1:] for head in member.outputs]
        if self._shapes and shapes != self._shapes:  # as long as the longest of its batch, for one: parts do not join
            self.whole = True
            return 0
        self._shapes = shapes
        self.spent_ns = (
            self.spent_ns[0] + answered.input_ns,
            self.spent_ns[1] + answered.infer_ns,
            self.spent_ns[2] + answered.output_ns,
        )
        for position, (head, data) in enumerate(zip(member.outputs, found, strict=True)):
            self._data[position].append(bytes(data))
            self._sizes[position] += head.size
            self._held += len(data)
        if self._max_answer_bytes and self._held > self._max_answer_bytes:
            raise too_large(self._held, self._max_answer_bytes)
        self._at = self._ends
        self.review = self.review or bool(answered.review)
        self.left -= self._rows
        return self._rows

    def outputs(self) -> tuple[Output, ...]:
        """The whole answer, once nothing is left."""
        admitted = self._admitted
        outputs = tuple(
            Output(name, datatype, (admitted.rows, *shape), memoryview(b"".join(data)))
            for name, datatype, shape, data in zip(
                admitted.outputs, admitted.output_datatypes, self._shapes, self._data, strict=True
            )
        )
        return self._shared.placed(outputs, self._sizes) if self._shared else outputs


def _divisible(admitted: Admitted, contents: Sequence[Contents]) -> bool:
    """Whether the front can tell where its rows begin: of texts not in shared memory, nor of too many."""
    return all(
        datatype is not Datatype.BYTES or (content.place is None and elements <= MAX_TEXTS)
        for datatype, content, elements in zip(admitted.datatypes, contents, admitted.elements, strict=True)
    )


def _in_one_piece(content: Contents) -> Contents:
    parts = content.parts
    if content.place is not None:
        return content
    return structs.replace(content, parts=(memoryview(parts[0] if len(parts) == 1 else b"".join(parts)),))


def _cut(content: Contents, start: int, end: int) -> Contents:
    if content.place is not None:
        place = structs.replace(content.place, offset=content.place.offset + start, size=end - start)
        return structs.replace(content, place=place)
    return structs.replace(content, parts=(memoryview(content.parts[0])[start:end],))


def _moved(spot: Spot | None, by: int) -> Spot | None:
    """The same place without its first bytes."""
    return spot and Spot(spot.region, spot.offset + by, max(spot.size - by, 0))


def _end(content: Contents, datatype: Datatype, start: int, elements: int) -> int | None:
    """Where so many elements end that begin at `start`; None where they go beyond what there is."""
    if content.form is Form.VARINT:
        return _end_of_varints(memoryview(content.parts[0]), start, elements)
    if datatype is not Datatype.BYTES:
        return start + elements * datatype.size
    data = memoryview(content.parts[0])
    at = start
    for _ in range(elements):
        if at + 4 > len(data):
            return None
        at += 4 + int.from_bytes(data[at : at + 4], "little")
    return at if at <= len(data) else None


def _end_of_varints(data: memoryview, start: int, count: int) -> int:
    """There are as many: they were counted when the request was read."""
    at = start
    while count:
        block = bytes(data[at : at + _BLOCK]).translate(_CONTINUED)
        found = block.count(0)
        if found < count:
            count -= found
            at += len(block)
            continue
        end = 0
        for _ in range(count):
            end = block.index(0, end) + 1
        return at + end
    return at
