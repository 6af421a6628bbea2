"""Reads an inference request from its raw bytes, tensors uncopied.

The message is `ModelInferRequest` of `protos/inference/grpc_service.proto`; the field numbers stand there.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from edged import protowire
from edged.errors import Code, EdgedError
from edged.protowire import BYTES, WireError
from edged.rpc import parameters
from edged.rpc.bounds import MAX_FIELDS, at_most, too_many
from edged.rpc.contents import bounded
from edged.rpc.parameters import Parameter, read_parameter
from edged.rpc.tensors import Input, read_input, read_output
from edged.serving.request import Asked, Call, Contents
from edged.worker.messages import Form


def read_request(data: bytes) -> Call:
    """The request that `data` holds.

    Raises EdgedError: malformed_request, invalid_tensor, invalid_argument or unsupported.
    """
    try:
        return _read(data)
    except WireError as error:
        raise EdgedError(
            Code.MALFORMED_REQUEST,
            f"the request is no ModelInferRequest: {error}",
            "is the client's protocol the same?",
        ) from error


def read_address(data: bytes) -> tuple[str, str]:
    """The model and the id of a request that cannot be taken, as far as it can be read: for its refusal."""
    found = {1: "", 3: ""}
    try:
        for number, kind, at, end in itertools.islice(protowire.fields(data), MAX_FIELDS):
            if number in found and kind == BYTES:
                found[number] = protowire.text(data, at, end, "address")
    except (WireError, EdgedError):
        pass  # what came before that is known
    return found[1], found[3]


def _read(data: bytes) -> Call:
    view = memoryview(data)
    model = version = identity = ""
    given: dict[str, Parameter] = {}
    inputs: list[Input] = []
    outputs: list[Asked] = []
    raw: list[memoryview] = []
    signature: list[object] = []
    left = MAX_FIELDS
    varint_bytes = 0
    for number, kind, at, end in protowire.fields(data):
        left -= 1
        if number == 7 and kind == BYTES:
            raw.append(view[at:end])
        elif number == 5 and kind == BYTES:
            found = read_input(data, at, end)
            inputs.append(found)
            signature.append(found.meta)
            left -= found.fields
            if (typed := found.contents) is not None and typed.form is Form.VARINT:
                varint_bytes = bounded(varint_bytes + typed.size, found.meta)
        elif number == 1 and kind == BYTES:
            model = protowire.text(data, at, end, "model_name")
        elif number == 2 and kind == BYTES:
            version = protowire.text(data, at, end, "model_version")
        elif number == 3 and kind == BYTES:
            identity = protowire.text(data, at, end, "id")
        elif number == 6 and kind == BYTES:
            left -= at_most(end - at)
            asked, its_signature = read_output(data, at, end)
            outputs.append(asked)
            signature.append(its_signature)
        elif number == 4 and kind == BYTES:
            left -= at_most(end - at)
            given.update([read_parameter(data, at, end)])
        if left < 0:
            raise too_many()
    parameters.check_request(given)
    return Call(
        model=model,
        version=version,
        id=identity,
        inputs=tuple(each.meta for each in inputs),
        outputs=tuple(outputs),
        contents=_contents(inputs, raw),
        signature=tuple(signature),
        timeout_s=parameters.timeout_s(given),
        priority=parameters.priority(given),
        synthetic=parameters.synthetic(given),
    )


def _contents(inputs: Sequence[Input], raw: Sequence[memoryview]) -> tuple[Contents, ...]:
    """Each input's contents. The raw ones belong, in their order, to the inputs that do not lie in shared memory."""
    if raw:
        outside = sum(each.contents is None or each.contents.place is None for each in inputs)
        if len(raw) != outside:
            elsewhere = " outside shared memory" if outside < len(inputs) else ""
            raise EdgedError(
                Code.INVALID_TENSOR,
                f"the request has {outside} inputs{elsewhere} and {len(raw)} raw_input_contents",
                "give one of them for each input, in the same order",
            )
    found = []
    parts = iter(raw)
    for meta, contents, _ in inputs:
        if contents is None and raw:
            found.append(Contents(Form.RAW, (next(parts),), -1))
        elif contents is None and 0 in meta.shape:
            found.append(Contents(Form.RAW, (), -1))
        elif contents is None:
            raise EdgedError(
                Code.INVALID_TENSOR,
                f"input {meta.name[:64]!r} has no contents",
                "give raw_input_contents, or the contents field of its datatype",
            )
        elif raw and contents.place is None:
            raise EdgedError(
                Code.INVALID_TENSOR,
                f"input {meta.name[:64]!r} has contents, and the request has raw_input_contents",
                "give the one or the other",
            )
        else:
            found.append(contents)
    return tuple(found)
