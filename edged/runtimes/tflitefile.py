"""What is looked up in a TFLite file before an engine gets it, by tflite/schema/schema.fbs.

A flatbuffer (flatbuffers.dev/internals) begins with the place of its root table. A table begins with its distance from
its vtable, which has two bytes for each field by its id: how far behind the table's beginning it stands; 0: absent.
"""

from __future__ import annotations

import struct

from edged.errors import Code, EdgedError

# Ids of Model's fields, and of OperatorCode's.
_OPERATOR_CODES, _EXTERNAL_BUFFER_GROUPS, _EXTERNAL_BUFFERS = 1, 8, 9
_CUSTOM_CODE = 1

_IDENTIFIER = b"TFL3"

# What the compiler for the Edge TPU puts in place of all that runs there (libedgetpu: edgetpu::kCustomOp).
_COMPILED = b"edgetpu-custom-op"


def is_compiled(model: bytes) -> bool:
    """Whether a part of the model was compiled for the Edge TPU.

    Raises EdgedError (load_failed) where its weights lie in other files, or when it is no model.
    """
    try:
        if model[4:8] != _IDENTIFIER:
            raise ValueError
        root = _follow(model, 0)
        if any(_field(model, root, field) for field in (_EXTERNAL_BUFFER_GROUPS, _EXTERNAL_BUFFERS)):
            raise EdgedError(
                Code.LOAD_FAILED,
                "the model says that weights lie in another file",
                "convert it with all its weights inside",
            )
        at = _field(model, root, _OPERATOR_CODES)
        return bool(at) and _names_compiled(model, _follow(model, at))
    except (struct.error, ValueError) as error:
        raise EdgedError(
            Code.LOAD_FAILED, "the file is not a TFLite model", "name a .tflite file in the variant's `file`"
        ) from error


def _names_compiled(model: bytes, codes: int) -> bool:
    for index in range(_number(model, "<I", codes)):
        at = _field(model, _follow(model, codes + 4 + 4 * index), _CUSTOM_CODE)
        if at:
            name = _follow(model, at)
            if model[name + 4 : name + 4 + _number(model, "<I", name)] == _COMPILED:
                return True
    return False


def _follow(model: bytes, at: int) -> int:
    """Where what stands at `at` leads to: offsets lead forward from themselves."""
    return at + _number(model, "<I", at)


def _field(model: bytes, table: int, field: int) -> int:
    """Where a field of a table stands; 0: it is absent."""
    vtable = table - _number(model, "<i", table)
    slot = 4 + 2 * field
    if slot + 2 > _number(model, "<H", vtable):
        return 0
    distance = _number(model, "<H", vtable + slot)
    return table + distance if distance else 0


def _number(model: bytes, form: str, at: int) -> int:
    if at < 0:  # which would count from the end
        raise ValueError
    return int(struct.unpack_from(form, model, at)[0])
