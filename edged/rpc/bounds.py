"""How much of a request is read: reading each field in turn would otherwise hold up everybody else. Pure."""

from __future__ import annotations

from edged.errors import Code, EdgedError

# A request of more fields than this is refused. Contents that are packed or raw are one field, however long; what lies
# in one of another kind is charged by what it could hold.
MAX_FIELDS = 65_536


def at_most(size: int) -> int:
    """The fields that `size` bytes hold at most; more than a request may have are not read at all."""
    if size > 2 * MAX_FIELDS:
        raise too_many()
    return size // 2


def too_many() -> EdgedError:
    """The refusal of a request of too many fields."""
    return EdgedError(
        Code.INVALID_ARGUMENT,
        f"the request has more than {MAX_FIELDS} fields",
        "give the tensors in raw_input_contents",
    )
