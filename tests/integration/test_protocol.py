"""The Open Inference Protocol as a caller meets it: every datatype, every way to send it, every refusal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from support import fields as wire
from support.calls import ELEMENTS, FORMATS, TYPED, Input, identity, infer_bytes, pack, refused, request, tensor
from support.daemon import Daemon
from support.polling import until

from edged import __version__
from edged._pb.inference import grpc_service_pb2 as pb
from edged.types import Datatype

SERVICE = "inference.GRPCInferenceService"
PARAMETER = pb.InferParameter


def assert_same(answer: pb.ModelInferResponse, datatype: str, shape: Sequence[int], data: bytes) -> None:
    """The identity's answer is what was sent."""
    assert [(each.name, each.datatype, list(each.shape)) for each in answer.outputs] == [("y", datatype, list(shape))]
    assert list(answer.raw_output_contents) == [data]
    assert not answer.outputs[0].HasField("contents")


def test_the_tables_name_every_datatype() -> None:
    assert set(ELEMENTS) == set(Datatype)
    assert set(FORMATS) == set(Datatype) - {"BYTES"}


# How tensors travel.


@pytest.mark.parametrize("datatype", ELEMENTS)
def test_raw_contents_come_back(daemon: Daemon, datatype: str) -> None:
    data = pack(datatype, ELEMENTS[datatype])
    answer = daemon.infer(request(identity(datatype), tensor("x", datatype, [2, 2]), raw=[data]))
    assert_same(answer, datatype, [2, 2], data)


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_come_back_raw(daemon: Daemon, datatype: str) -> None:
    field, values = TYPED[datatype]
    answer = daemon.infer(request(identity(datatype), tensor("x", datatype, [1, 4], **{field: values})))
    assert_same(answer, datatype, [1, 4], pack(datatype, values))


@pytest.mark.parametrize("datatype", sorted(set(TYPED) - {"BYTES"}))
def test_numbers_need_not_be_packed(daemon: Daemon, datatype: str) -> None:
    """Old writers of protobuf put a tag before every number."""
    field, values = TYPED[datatype]
    number = pb.InferTensorContents.DESCRIPTOR.fields_by_name[field].number
    contents = b"".join(
        wire.field(number, {"FP32": wire.I32, "FP64": wire.I64}[datatype], pack(datatype, [value]))
        if datatype.startswith("FP")
        else wire.field(number, wire.VARINT, wire.varint(int(value) % 2**64))
        for value in values
    )
    shape = wire.field(3, wire.VARINT, b"\2") * 2
    given = Input(name="x", datatype=datatype).SerializeToString() + shape + wire.field(5, wire.LEN, contents)
    data = request(identity(datatype)).SerializeToString() + wire.field(5, wire.LEN, given)
    assert_same(infer_bytes(daemon, data), datatype, [2, 2], pack(datatype, values))


def test_contents_may_come_in_parts(daemon: Daemon) -> None:
    """Packed, unpacked and packed again: protobuf appends them."""
    parts = [
        Input(contents=pb.InferTensorContents(int_contents=[-1, 2])).SerializeToString(),
        wire.field(5, wire.LEN, wire.field(2, wire.VARINT, b"\3")),
        Input(contents=pb.InferTensorContents(int_contents=[4])).SerializeToString(),
    ]
    given = tensor("x", "INT32", [1, 4]).SerializeToString() + b"".join(parts)
    data = request(identity("INT32")).SerializeToString() + wire.field(5, wire.LEN, given)
    assert_same(infer_bytes(daemon, data), "INT32", [1, 4], pack("INT32", [-1, 2, 3, 4]))


@pytest.mark.parametrize("datatype", ELEMENTS)
def test_an_empty_batch_is_answered_by_one(daemon: Daemon, datatype: str) -> None:
    answer = daemon.infer(request(identity(datatype), tensor("x", datatype, [0, 3]), raw=[b""]))
    [output] = answer.outputs
    assert (output.datatype, output.shape[0]) == (datatype, 0)
    assert list(answer.raw_output_contents) == [b""]


def test_an_empty_batch_needs_no_contents(daemon: Daemon) -> None:
    answer = daemon.infer(request("sums", tensor("a", "FP32", [0, 3]), tensor("b", "FP32", [0, 3])))
    assert [list(output.shape) for output in answer.outputs] == [[0, 3], [0, 3]]
    assert list(answer.raw_output_contents) == [b"", b""]


@pytest.mark.parametrize("shape", [[1, 1, 1], [2, 3, 5], [20, 1, 1], [0, 2, 2]], ids=str)
def test_a_model_without_batches_takes_any_axis_0(daemon: Daemon, shape: list[int]) -> None:
    data = pack("FP32", range(math.prod(shape)))
    answer = daemon.infer(request("unbatched", tensor("x", "FP32", shape), raw=[data]))
    assert_same(answer, "FP32", shape, data)


def test_a_large_tensor_comes_back(daemon: Daemon) -> None:
    data = pack("INT32", range(8 * 250_000))
    answer = daemon.infer(request(identity("INT32"), tensor("x", "INT32", [8, 250_000]), raw=[data]))
    assert_same(answer, "INT32", [8, 250_000], data)


def test_many_typed_strings_come_back(daemon: Daemon) -> None:
    values = [str(number).encode() for number in range(20_000)]
    answer = daemon.infer(request(identity("BYTES"), tensor("x", "BYTES", [1, 20_000], bytes_contents=values)))
    assert_same(answer, "BYTES", [1, 20_000], pack("BYTES", values))


# Several inputs and outputs.

A, B = [1.0, 2.0, 3.0], [0.5, 0.25, 4.0]
SUM, DIFFERENCE = [1.5, 2.25, 7.0], [0.5, 1.75, -1.0]


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize(
    ("asked", "wanted"),
    {
        (): ["sum", "difference"],
        ("sum",): ["sum"],
        ("difference",): ["difference"],
        ("difference", "sum"): ["difference", "sum"],
    }.items(),
    ids=lambda value: "+".join(value) or "none",
)
def test_inputs_go_by_name_and_outputs_come_as_asked(
    daemon: Daemon, order: str, asked: tuple[str, ...], wanted: list[str]
) -> None:
    values = {"a": A, "b": B}
    inputs = [tensor(name, "FP32", [1, 3]) for name in order]
    answer = daemon.infer(request("sums", *inputs, raw=[pack("FP32", values[name]) for name in order], outputs=asked))
    results = {"sum": pack("FP32", SUM), "difference": pack("FP32", DIFFERENCE)}
    assert [output.name for output in answer.outputs] == wanted
    assert list(answer.raw_output_contents) == [results[name] for name in wanted]


# What else a request and an answer carry.


def asked(model: str = "sums", **fields: Any) -> pb.ModelInferRequest:
    """A sound request, with `fields` set."""
    return request(
        model,
        tensor("a", "FP32", [1, 3], fp32_contents=A),
        tensor("b", "FP32", [1, 3], fp32_contents=B),
        **fields,
    )


@pytest.mark.parametrize("identity", ["", "7", "grüße 🌍", "x" * 5000], ids=["none", "short", "unicode", "long"])
def test_the_id_comes_back(daemon: Daemon, identity: str) -> None:
    assert daemon.infer(asked(id=identity)).id == identity


@pytest.mark.parametrize(("model", "version", "answered"), [("sums", "", "1"), ("sums", "1", "1")])
def test_the_revision_that_answered_is_named(daemon: Daemon, model: str, version: str, answered: str) -> None:
    answer = daemon.infer(asked(model, model_version=version))
    assert (answer.model_name, answer.model_version) == (model, answered)


@pytest.mark.parametrize(("model", "variant"), [("sums", "cpu"), ("digits", "fp32")])
def test_each_answer_says_how_it_was_made(daemon: Daemon, model: str, variant: str) -> None:
    digits = request("digits", tensor("image", "FP32", [1, 1, 8, 8]), raw=[bytes(4 * 64)])
    assert dict(daemon.infer(digits if model == "digits" else asked()).parameters) == {
        "edged_variant": PARAMETER(string_param=variant),
        "edged_level": PARAMETER(string_param="nominal"),
        "edged_degraded": PARAMETER(bool_param=False),
    }


@pytest.mark.parametrize(
    "parameters",
    {
        "a timeout": {"timeout": PARAMETER(int64_param=60_000_000)},
        "a timeout as text": {"timeout": PARAMETER(string_param="60000000")},
        "no timeout": {"timeout": PARAMETER(int64_param=0)},
        "no sequence": {"sequence_id": PARAMETER(int64_param=0), "sequence_start": PARAMETER(bool_param=False)},
        "one nobody knows": {"my-own": PARAMETER(string_param="x"), "other": PARAMETER(double_param=0.5)},
    }.items(),
    ids=lambda item: item[0],
)
def test_parameters_that_ask_for_nothing_more_are_taken(daemon: Daemon, parameters: tuple[str, Any]) -> None:
    assert daemon.infer(asked(parameters=parameters[1])).raw_output_contents[0] == pack("FP32", SUM)


@pytest.mark.parametrize("admin", [False, True], ids=["public", "admin"])
def test_both_sockets_answer(daemon: Daemon, *, admin: bool) -> None:
    answer = daemon.call(f"{SERVICE}/ModelInfer", asked(), pb.ModelInferResponse, admin=admin)
    assert answer.raw_output_contents[0] == pack("FP32", SUM)


# The other calls.


def test_the_server_says_that_it_lives_and_is_ready(daemon: Daemon) -> None:
    assert daemon.call(f"{SERVICE}/ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
    assert daemon.call(f"{SERVICE}/ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready


def test_the_server_says_what_it_is(daemon: Daemon) -> None:
    answer = daemon.call(f"{SERVICE}/ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    assert (answer.name, answer.version) == ("edged", __version__)


@pytest.mark.parametrize("version", ["", "3"], ids=["any revision", "a revision"])
def test_a_model_says_what_it_takes_and_gives(daemon: Daemon, version: str) -> None:
    asked = pb.ModelMetadataRequest(name="unbatched", version=version)
    answer = daemon.call(f"{SERVICE}/ModelMetadata", asked, pb.ModelMetadataResponse)
    said = pb.ModelMetadataResponse.TensorMetadata
    assert (answer.name, list(answer.versions)) == ("unbatched", ["3"])
    assert answer.platform.startswith("onnxruntime")
    assert list(answer.inputs) == [said(name="x", datatype="FP32", shape=[-1, -1, -1])]
    assert list(answer.outputs) == [said(name="y", datatype="FP32", shape=[-1, -1, -1])]
    status = next(model for model in daemon.status().models if model.name == "unbatched")
    assert answer.properties["edged_digest"] == status.digest


@pytest.mark.parametrize("version", ["", "3"], ids=["any revision", "a revision"])
def test_a_model_says_that_it_is_ready(daemon: Daemon, version: str) -> None:
    asked = pb.ModelReadyRequest(name="unbatched", version=version)
    assert daemon.call(f"{SERVICE}/ModelReady", asked, pb.ModelReadyResponse).ready


# Refusals.

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "invalid_tensor")
ARGUMENT = (grpc.StatusCode.INVALID_ARGUMENT, "invalid_argument")
UNSUPPORTED = (grpc.StatusCode.UNIMPLEMENTED, "unsupported")
NO_MODEL = (grpc.StatusCode.NOT_FOUND, "model_not_found")
NO_REVISION = (grpc.StatusCode.NOT_FOUND, "revision_not_found")
OLD_REVISION = (grpc.StatusCode.FAILED_PRECONDITION, "revision_not_served")

a, b = tensor("a", "FP32", [1, 3]), tensor("b", "FP32", [1, 3])
ROW = bytes(12)
SOUND = {"raw": [ROW, ROW]}


def one(datatype: str, shape: Sequence[int], **contents: Any) -> pb.ModelInferRequest:
    return request(identity(datatype), tensor("x", datatype, shape, **contents))


def one_raw(datatype: str, shape: Sequence[int], data: bytes) -> pb.ModelInferRequest:
    return request(identity(datatype), tensor("x", datatype, shape), raw=[data])


# What is wrong → the request, how it is refused, and what the message has to name.
TENSORS = {
    "an input of another name": (
        request("sums", a, b, tensor("c", "FP32", [1, 3]), raw=[ROW] * 3),
        ["'sums'", "no input 'c'", "its inputs: a, b"],
    ),
    "an input without a name": (request("sums", a, tensor("", "FP32", [1, 3]), **SOUND), ["no input ''"]),
    "an input missing": (request("sums", a, raw=[ROW]), ["misses input 'b'", "its inputs: a, b"]),
    "no inputs": (request("sums"), ["misses input 'a'"]),
    "an input twice": (request("sums", a, b, a, raw=[ROW] * 3), ["input 'a' twice"]),
    "another datatype": (
        request("sums", tensor("a", "FP64", [1, 3]), b, raw=[bytes(24), ROW]),
        ["input 'a'", "'FP64'", "it takes FP32"],
    ),
    "a datatype that does not exist": (
        request("sums", tensor("a", "FLOAT", [1, 3]), b, **SOUND),
        ["input 'a'", "'FLOAT'", "it takes FP32"],
    ),
    "no datatype": (request("sums", tensor("a", "", [1, 3]), b, **SOUND), ["input 'a'", "''", "it takes FP32"]),
    "too few axes": (
        request("sums", tensor("a", "FP32", [3]), b, **SOUND),
        ["input 'a' with shape [3]", "it takes [-1, 3]"],
    ),
    "too many axes": (
        request("sums", tensor("a", "FP32", [1, 1, 3]), b, **SOUND),
        ["input 'a' with shape [1, 1, 3]", "it takes [-1, 3]"],
    ),
    "a thousand axes": (
        request("sums", tensor("a", "FP32", [1] * 1000), b, **SOUND),
        ["input 'a' with shape with 1000 axes", "it takes [-1, 3]"],
    ),
    "another size": (
        request("sums", tensor("a", "FP32", [1, 4]), b, raw=[bytes(16), ROW]),
        ["input 'a' with shape [1, 4]", "it takes [-1, 3]"],
    ),
    "a negative size": (
        request("sums", tensor("a", "FP32", [-1, 3]), b, **SOUND),
        ["input 'a' with shape [-1, 3]", "it takes [-1, 3]"],
    ),
    "two negative sizes": (one_raw("FP32", [-2, -2], bytes(16)), ["input 'x' with shape [-2, -2]"]),
    "more elements than there can be": (
        one_raw("FP32", [1, 2**62], b""),
        [f"input 'x' with shape [1, {2**62}]", "no tensor is that large"],
    ),
    "sizes whose product overflows": (one_raw("FP32", [4, 2**62], b""), ["input 'x'", "no tensor is that large"]),
    "a huge size beside an empty one": (one_raw("FP32", [0, 2**62], b""), ["input 'x'", "no tensor is that large"]),
    "rows that differ": (
        request("sums", tensor("a", "FP32", [2, 3]), b, raw=[ROW * 2, ROW]),
        ["input 'a' with 2 rows and 'b' with 1"],
    ),
    "more rows than fit": (
        request("sums", tensor("a", "FP32", [9, 3]), tensor("b", "FP32", [9, 3]), raw=[ROW * 9] * 2),
        ["got 9 rows", "at most 8"],
    ),
    "an output that does not exist": (
        request("sums", a, b, **SOUND, outputs=["product"]),
        ["no output 'product'", "its outputs: sum, difference"],
    ),
    "an output twice": (request("sums", a, b, **SOUND, outputs=["sum", "sum"]), ["output 'sum' twice"]),
    "no contents": (one("FP32", [1, 1]), ["input 'x' has no contents"]),
    "raw and typed contents": (
        request("sums", tensor("a", "FP32", [1, 3], fp32_contents=A), b, **SOUND),
        ["input 'a' has contents", "raw_input_contents"],
    ),
    "fewer raw contents than inputs": (request("sums", a, b, raw=[ROW]), ["2 inputs and 1 raw_input_contents"]),
    "more raw contents than inputs": (request("sums", a, b, raw=[ROW] * 3), ["2 inputs and 3 raw_input_contents"]),
    "two fields of contents": (
        one("INT32", [1, 1], int_contents=[1], int64_contents=[1]),
        ["input 'x' has both int64_contents and int_contents"],
    ),
    "a text that is no text": (
        one_raw("BYTES", [1, 2], pack("BYTES", [b"a", b"\xff"])),
        ["'identity-bytes', revision 1", "input 'x': element 1", "not UTF-8"],
    ),
    "a BOOL of 2": (one_raw("BOOL", [1, 2], b"\1\2"), ["'identity-bool'", "input 'x'", "neither 0 nor 1"]),
    "an element longer than what follows": (
        one_raw("BYTES", [1, 1], b"\x64\0\0\0abc"),
        ["input 'x': element 0 is said to be 100 bytes long, 3 are left"],
    ),
    "an element of 4 GiB": (
        one_raw("BYTES", [1, 1], b"\xff\xff\xff\xffabc"),
        ["input 'x': element 0 is said to be 4294967295 bytes long, 3 are left"],
    ),
    "elements that swallow the next": (
        one_raw("BYTES", [1, 2], b"\4\0\0\0" + bytes(4)),
        ["input 'x' ends at element 1", "2 elements"],
    ),
    "bytes after the last element": (
        one_raw("BYTES", [1, 1], pack("BYTES", [b"a", b"bc"])),
        ["input 'x' has 6 bytes more than its 1 elements take"],
    ),
    "fewer bytes than lengths": (
        one_raw("BYTES", [1, 2], b"\0\0\0\0\0"),
        ["input 'x' with 5 bytes", "a 4-byte length before each of 2 elements"],
    ),
    "contents for an empty BYTES tensor": (
        one_raw("BYTES", [0, 2], b"\0\0\0\0"),
        ["input 'x' has 4 bytes more than its 0 elements take"],
    ),
}
TENSORS |= {
    f"{datatype}: {what}": (
        one_raw(datatype, [1, 2], bytes(wrong)),
        [f"input 'x' with {wrong} bytes", f"{datatype} of shape [1, 2] takes {2 * size} bytes"],
    )
    for datatype, size in ((str(each), each.size) for each in Datatype if each.size)
    for what, wrong in (("a byte too few", 2 * size - 1), ("a byte too many", 2 * size + 1), ("no bytes", 0))
}
TENSORS |= {
    f"{datatype}: {came} in {field} of {wanted}": (
        one(datatype, [1, wanted], **{field: [b""] * came if datatype == "BYTES" else [0] * came}),
        ["input 'x'", f"{datatype} of shape [1, {wanted}] takes"],
    )
    for datatype, (field, _) in TYPED.items()
    for came, wanted in ((2, 3), (3, 2))
    if not (datatype == "BYTES" and came > wanted)
}
TENSORS |= {
    f"{datatype} in {field}": (
        one(datatype, [1, 1], **{field: [b""] if field == "bytes_contents" else [1]}),
        ["input 'x'", f"'{datatype}'", f"came in {field}", TYPED.get(datatype, ("raw_input_contents only",))[0]],
    )
    for datatype in ELEMENTS
    for field in sorted({each for each, _ in TYPED.values()})
    if TYPED.get(datatype, ("",))[0] != field
}
TENSORS |= {
    f"{value} as {datatype}": (
        one(datatype, [1, 2], **{TYPED[datatype][0]: [1, value]}),
        [f"'identity-{datatype.lower()}'", "input 'x'", f"element 1 is {value}, which is no {datatype}"],
    )
    for datatype, value in (
        ("INT8", 128),
        ("INT8", -129),
        ("INT16", 2**15),
        ("INT16", -(2**15) - 1),
        ("UINT8", 256),
        ("UINT16", 2**16),
    )
}


@pytest.mark.parametrize(("wrong", "named"), TENSORS.values(), ids=TENSORS)
def test_a_wrong_tensor_is_refused_by_name(daemon: Daemon, wrong: pb.ModelInferRequest, named: list[str]) -> None:
    status, code, message = refused(daemon, wrong)
    assert (status, code) == INVALID
    assert [part for part in named if part not in message] == [], message


def parameter(name: str, **value: Any) -> dict[str, pb.InferParameter]:
    return {name: PARAMETER(**value)}


def with_parameter(kind: str, name: str, **value: Any) -> pb.ModelInferRequest:
    """A sound request whose first input or output has a parameter."""
    made = asked(outputs=["sum"])
    (made.inputs if kind == "input" else made.outputs)[0].parameters[name].CopyFrom(PARAMETER(**value))
    return made


OTHERS = {
    "an unknown model": (asked("nobody"), NO_MODEL, ["'nobody'", "digits", "identity-bf16"]),
    "no model": (asked(""), NO_MODEL, ["no model ''"]),
    "a model by another case": (asked("Sums"), NO_MODEL, ["'Sums'"]),
    "a model by its path": (asked("../sums"), NO_MODEL, ["'../sums'"]),
    "an unknown revision": (
        asked(model_version="2"),
        NO_REVISION,
        ["'sums' has no revision 2", "revision 1 serves"],
    ),
    "a revision of the past": (
        request("unbatched", tensor("x", "FP32", [1, 1, 1]), raw=[bytes(4)], model_version="2"),
        OLD_REVISION,
        ["revision 2 of model 'unbatched'", "revision 3 is"],
    ),
    **{
        f"a timeout of {value!r}": (
            asked(parameters=parameter("timeout", **{kind: value})),
            ARGUMENT,
            ["parameter 'timeout'", str(value)[:32], "an integer, in microseconds"],
        )
        for kind, value in (
            ("int64_param", -1),
            ("bool_param", True),
            ("string_param", ""),
            ("string_param", "soon"),
            ("string_param", "1.5"),
            ("string_param", "-1"),
            ("string_param", "٣"),
            ("string_param", "9" * 20),
            ("double_param", 1.5),
        )
    },
    **{
        f"version {version!r}": (asked(model_version=version), ARGUMENT, ["'sums'", repr(version[:32])])
        for version in ("x", "0", "01", "-1", "+1", "1.0", " 1", "1 ", "¹", "٣", "9" * 17, "latest", "1\n")
    },
    **{
        f"request parameter {name}": (asked(parameters=parameter(name, **value)), UNSUPPORTED, [f"'{name}'"])
        for name, value in (
            ("sequence_id", {"int64_param": 7}),
            ("sequence_id", {"string_param": "seven"}),
            ("sequence_start", {"bool_param": True}),
            ("sequence_end", {"bool_param": True}),
        )
    },
    "classes of an input": (
        with_parameter("input", "classification", int64_param=3),
        UNSUPPORTED,
        ["'classification' of input 'a'"],
    ),
}


@pytest.mark.parametrize(("wrong", "kind", "named"), OTHERS.values(), ids=OTHERS)
def test_what_cannot_be_done_is_refused_by_name(
    daemon: Daemon, wrong: pb.ModelInferRequest, kind: tuple[grpc.StatusCode, str], named: list[str]
) -> None:
    status, code, message = refused(daemon, wrong)
    assert (status, code) == kind
    assert [part for part in named if part not in message] == [], message


LONG = {"ascii": "x" * 100_000, "unicode": "🌍" * 30_000, "control characters": "\x00\n" * 20_000}


@pytest.mark.parametrize("name", LONG.values(), ids=LONG)
@pytest.mark.parametrize(
    ("place", "kind"),
    {"model": NO_MODEL, "version": ARGUMENT, "input": INVALID, "datatype": INVALID, "output": INVALID}.items(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_arrives_however_long_the_name(
    daemon: Daemon, name: str, place: str, kind: tuple[grpc.StatusCode, str]
) -> None:
    """gRPC loses a status whose headers are too long, and escapes what is not ASCII to thrice its size."""
    wrong = asked(outputs=["sum"])
    if place == "model":
        wrong.model_name = name
    elif place == "version":
        wrong.model_version = name
    elif place == "input":
        wrong.inputs[0].name = name
    elif place == "datatype":
        wrong.inputs[0].datatype = name
    else:
        wrong.outputs[0].name = name
    status, code, message = refused(daemon, wrong)
    assert (status, code) == kind
    assert message


OTHER_CALLS = {
    call: (f"{SERVICE}/{call}", ask, reply)
    for call, ask, reply in (
        ("ModelReady", pb.ModelReadyRequest, pb.ModelReadyResponse),
        ("ModelMetadata", pb.ModelMetadataRequest, pb.ModelMetadataResponse),
    )
}


@pytest.mark.parametrize(("method", "ask", "reply"), OTHER_CALLS.values(), ids=OTHER_CALLS)
@pytest.mark.parametrize(
    ("name", "version", "status", "code"),
    [
        ("nobody", "", *NO_MODEL),
        ("nobody", "1", *NO_MODEL),
        ("", "", *NO_MODEL),
        ("unbatched", "4", *NO_REVISION),
        ("unbatched", "2", *OLD_REVISION),
        ("unbatched", "new", *ARGUMENT),
    ],
)
def test_the_other_calls_refuse_in_the_same_words(
    daemon: Daemon, method: str, ask: Any, reply: Any, name: str, version: str, status: grpc.StatusCode, code: str
) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        daemon.call(method, ask(name=name, version=version), reply)
    assert raised.value.code() is status
    assert dict(raised.value.trailing_metadata())["edged-code"] == code
    assert (version or repr(name)) in raised.value.details()


@pytest.mark.parametrize(
    "method", ["ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer"]
)
def test_what_is_no_message_is_refused(daemon: Daemon, method: str) -> None:
    """As malformed and not as a defect, as gRPC itself would have it."""
    call = daemon.channel().unary_unary(f"/{SERVICE}/{method}")
    with pytest.raises(grpc.RpcError) as raised:
        call(b"\xff\xff\xff", timeout=60)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(raised.value.trailing_metadata())["edged-code"] == "malformed_request"
    assert f"{method}Request" in raised.value.details()


def test_a_call_that_does_not_exist_is_unimplemented(daemon: Daemon) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        daemon.channel().unary_unary(f"/{SERVICE}/ModelGuess")(b"", timeout=60)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_beyond_the_limit_is_refused_with_advice_and_not_to_be_tried_again(daemon: Daemon) -> None:
    """64 MiB by default."""
    size = 64 * 1024 * 1024
    asked = one_raw("INT8", [8, size // 8], bytes(size))
    with pytest.raises(grpc.RpcError) as raised:
        daemon.infer(asked)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"takes {asked.ByteSize()} bytes, at most {size} are taken; send less" in raised.value.details()
    told = {"edged-code": "message_too_large", "grpc-retry-pushback-ms": "-1"}
    assert dict(raised.value.trailing_metadata()) == told


def test_a_message_beyond_the_limit_costs_a_stream_no_other(daemon: Daemon) -> None:
    size = 64 * 1024 * 1024
    small = one_raw("INT8", [1, 8], bytes(8))
    stream = daemon.channel().stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    asked = [small, one_raw("INT8", [8, size // 8], bytes(size)), small]
    found = list(stream(iter(asked), timeout=60))
    told = sorted(each.infer_response.parameters["edged_code"].string_param for each in found)
    assert told == ["", "", "message_too_large"]


def test_a_message_far_beyond_the_limit_is_turned_away_by_grpc(daemon: Daemon) -> None:
    """Before it is read, which bounds what a message may cost."""
    size = 96 * 1024 * 1024
    with pytest.raises(grpc.RpcError) as raised:
        daemon.infer(one_raw("INT8", [8, size // 8], bytes(size)))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "edged-code" not in dict(raised.value.trailing_metadata())


# Batches.

# Keeps a worker busy while others come: they wait, and make up its next batch.
PLUG = one_raw("BOOL", [8, 2_000_000], bytes(16_000_000))
ROUNDS = 50


def counters(daemon: Daemon, model: str) -> Any:
    return next(each for each in daemon.status().models if each.name == model)


@contextmanager
def kept_busy(daemon: Daemon) -> Iterator[Any]:
    """While a worker has the plug: gives ModelInfer as a call to make from the side."""
    call = daemon.channel().unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    plug = call.future(PLUG, timeout=60)
    until(lambda: plug.done() or counters(daemon, PLUG.model_name).executing, "a worker has the plug", again_s=0)
    yield call
    assert plug.result().raw_output_contents[0] == PLUG.raw_input_contents[0]


def test_a_bad_member_of_a_batch_hurts_no_other(daemon: Daemon) -> None:
    """Seven sound requests and a bad one wait together and are run as one batch; only the bad one is refused."""
    for turn in range(ROUNDS):
        before = counters(daemon, PLUG.model_name)
        rows = [bytes((turn >> bit & 1, bit & 1, bit >> 1 & 1, bit >> 2)) for bit in range(7)]
        rows.insert(turn % 8, b"\0\1\2\1")
        with kept_busy(daemon) as call:
            calls = [call.future(one_raw("BOOL", [1, 4], row), timeout=60) for row in rows]
            for row, answered in zip(rows, calls, strict=True):
                if row == b"\0\1\2\1":
                    assert answered.code() is grpc.StatusCode.INVALID_ARGUMENT
                    assert "neither 0 nor 1" in answered.details()
                else:
                    assert_same(answered.result(), "BOOL", [1, 4], row)
        after = counters(daemon, PLUG.model_name)
        assert after.requests_ok - before.requests_ok == 8
        assert after.requests_refused - before.requests_refused == 1
        assert after.requests_failed == before.requests_failed
        if after.batches - before.batches == 2:
            return
    pytest.fail(f"the eight never came into one batch in {ROUNDS} rounds")


def test_cancelled_work_is_not_begun(daemon: Daemon) -> None:
    """Its caller gives up while it waits behind another, and it is never run."""
    for _ in range(ROUNDS):
        before = counters(daemon, PLUG.model_name)
        with kept_busy(daemon) as call:
            waiting = call.future(one_raw("BOOL", [1, 1], b"\1"), timeout=60)
            until(
                lambda: counters(daemon, PLUG.model_name),
                "it waits, or the plug is out",
                holds=lambda now: now.queued or not now.executing,
                again_s=0,
            )
            waiting.cancel()
        after = until(
            lambda: counters(daemon, PLUG.model_name),
            "all is over",
            holds=lambda now: not now.queued and not now.executing,
        )
        if after.requests_refused > before.requests_refused and after.batches - before.batches == 1:
            assert after.requests_ok - before.requests_ok == 1
            return
    pytest.fail(f"the request was never given up in time in {ROUNDS} rounds")
