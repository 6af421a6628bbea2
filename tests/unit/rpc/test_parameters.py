"""The reserved parameters of a request and of its tensors: what they mean, and what none of them may say."""

from __future__ import annotations

from typing import Any

import pytest

from edged._pb.inference import grpc_service_pb2 as pb
from edged.errors import Code, EdgedError
from edged.rpc import parameters
from edged.rpc.wire import read_request
from edged.serving.request import Asked, Call, Contents, Place
from edged.worker.messages import Form

Input = pb.ModelInferRequest.InferInputTensor
Requested = pb.ModelInferRequest.InferRequestedOutputTensor
KINDS = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
PLACE = {"shared_memory_region": "frames", "shared_memory_byte_size": 12}


def given(**values: Any) -> dict[str, pb.InferParameter]:
    return {name: pb.InferParameter(**{KINDS[type(value)]: value}) for name, value in values.items()}


def asked(of: str = "request", *, raw: int = 1, **values: Any) -> Call:
    """A request of one input and one output, the one that `of` names with parameters."""
    own = {each: given(**values) if each == of else {} for each in ("request", "input", "output")}
    message = pb.ModelInferRequest(
        parameters=own["request"],
        inputs=[Input(name="x", datatype="FP32", shape=[3], parameters=own["input"])],
        outputs=[Requested(name="y", parameters=own["output"])],
        raw_input_contents=[bytes(12)] * raw,
    )
    return read_request(message.SerializeToString())


def refusal(of: str, *, raw: int = 1, **values: Any) -> EdgedError:
    with pytest.raises(EdgedError) as raised:
        asked(of, raw=raw, **values)
    return raised.value


def test_nothing_given_is_nothing_asked():
    call = asked()
    assert (call.priority, call.timeout_s, call.outputs) == (0, None, (Asked("y"),))
    assert call.contents[0].place is None


@pytest.mark.parametrize("value", [1, "1", "01"])
def test_a_priority_is_a_number_or_one_in_text(value):
    assert asked(priority=value).priority == 1


def test_a_priority_may_be_unsigned():
    message = pb.ModelInferRequest(parameters={"priority": pb.InferParameter(uint64_param=2)})
    assert read_request(message.SerializeToString()).priority == 2


@pytest.mark.parametrize("value", [-1, True, 1.0, "high", "", 2**32, "1" * 40])
def test_what_is_no_priority_is_refused(value):
    error = refusal("request", priority=value)
    assert error.code is Code.INVALID_ARGUMENT
    assert error.message == f"parameter 'priority' is {str(value)[:32]!r}"
    assert "1 is the highest" in error.hint


@pytest.mark.parametrize("value", [True, False])
def test_binary_data_output_changes_nothing(value):
    assert asked(binary_data_output=value) == asked()


def test_binary_data_output_is_a_bool():
    error = refusal("request", binary_data_output="yes")
    assert (error.code, error.message) == (Code.INVALID_ARGUMENT, "parameter 'binary_data_output' is 'yes'")


@pytest.mark.parametrize("name", parameters._UNSUPPORTED)
def test_sequences_are_refused_by_name(name):
    error = refusal("request", **{name: True if name != "sequence_id" else 7})
    assert (error.code, error.message) == (Code.UNSUPPORTED, f"parameter {name!r} is not supported")


@pytest.mark.parametrize(("name", "value"), [("sequence_id", 0), ("sequence_id", ""), ("sequence_start", False)])
def test_no_sequence_is_none(name, value):
    assert asked(**{name: value}) == asked()


def test_an_output_is_asked_for_as_classes():
    assert asked("output", classification=3).outputs == (Asked("y", classes=3),)
    assert asked("output", classification=0).outputs == (Asked("y"),)


@pytest.mark.parametrize("value", [-1, True, 65_537, "many"])
def test_what_is_no_number_of_classes_is_refused(value):
    error = refusal("output", classification=value)
    assert (error.code, error.message) == (
        Code.INVALID_ARGUMENT,
        f"parameter 'classification' of output 'y' is {str(value)!r}",
    )


def test_an_input_has_no_classes():
    error = refusal("input", classification=3)
    assert (error.code, error.message) == (
        Code.UNSUPPORTED,
        "parameter 'classification' of input 'x' is not supported",
    )


def test_an_input_lies_in_shared_memory():
    [contents] = asked("input", raw=0, **PLACE, shared_memory_offset=64).contents
    assert contents == Contents(Form.RAW, (), -1, Place("frames", 64, 12))


def test_an_output_goes_to_shared_memory_from_its_begin_on():
    assert asked("output", **PLACE).outputs == (Asked("y", place=Place("frames", 0, 12)),)


def test_places_are_no_part_of_the_signature():
    """Each frame of a camera lies elsewhere: what is known of the request's metadata must not grow with them."""
    placed = [asked("output", **PLACE, shared_memory_offset=at) for at in (0, 64)]
    placed += [asked("input", raw=0, **PLACE, shared_memory_offset=at) for at in (0, 64)]
    assert {call.signature for call in placed} == {asked().signature}
    assert asked("output", classification=1).signature != asked().signature


@pytest.mark.parametrize("of", ["input", "output"])
@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"shared_memory_region": "frames"}, "comes without 'shared_memory_byte_size'"),
        ({"shared_memory_byte_size": 12}, "comes without 'shared_memory_region'"),
        ({"shared_memory_offset": 0}, "comes without 'shared_memory_region'"),
        ({**PLACE, "shared_memory_region": ""}, "is ''"),
        ({**PLACE, "shared_memory_region": 7}, "is '7'"),
        ({**PLACE, "shared_memory_byte_size": -1}, "is '-1'"),
        ({**PLACE, "shared_memory_byte_size": 1.5}, "is '1.5'"),
        ({**PLACE, "shared_memory_offset": -1}, "is '-1'"),
        ({**PLACE, "shared_memory_offset": 2**63 - 12}, f"is '{2**63 - 12}'"),
    ],
)
def test_what_is_no_place_is_refused_by_name(of, values, found):
    error = refusal(of, raw=int(of == "output"), **values)
    name = {"input": "x", "output": "y"}[of]
    assert error.code is Code.INVALID_ARGUMENT
    assert error.message.startswith("parameter 'shared_memory_")
    assert error.message.endswith(f" of {of} {name!r} {found}")


def test_the_last_byte_of_a_place_has_an_address():
    [contents] = asked("input", raw=0, **PLACE, shared_memory_offset=2**63 - 13).contents
    assert contents.place == Place("frames", 2**63 - 13, 12)


def test_classes_do_not_go_to_shared_memory():
    error = refusal("output", **PLACE, classification=1)
    assert (error.code, error.message) == (
        Code.INVALID_ARGUMENT,
        "output 'y' is asked for as classes, and in shared memory",
    )


def test_an_input_in_shared_memory_has_no_typed_contents():
    tensor = Input(name="x", datatype="FP32", parameters=given(**PLACE), contents={"fp32_contents": [1, 2, 3]})
    with pytest.raises(EdgedError, match="input 'x' has contents, and lies in shared memory") as raised:
        read_request(pb.ModelInferRequest(inputs=[tensor]).SerializeToString())
    assert raised.value.code is Code.INVALID_TENSOR


def test_an_input_in_shared_memory_takes_no_raw_contents():
    error = refusal("input", raw=1, **PLACE)
    assert (error.code, error.message) == (
        Code.INVALID_TENSOR,
        "the request has 0 inputs outside shared memory and 1 raw_input_contents",
    )


def test_raw_contents_belong_to_the_inputs_outside_shared_memory_in_order():
    message = pb.ModelInferRequest(
        inputs=[
            Input(name="a", datatype="UINT8", shape=[1]),
            Input(name="b", datatype="FP32", shape=[3], parameters=given(**PLACE)),
            Input(name="c", datatype="UINT8", shape=[1]),
        ],
        raw_input_contents=[b"a", b"c"],
    )
    contents = read_request(message.SerializeToString()).contents
    assert [b"".join(each.parts) for each in contents] == [b"a", b"", b"c"]
    assert [each.place for each in contents] == [None, Place("frames", 0, 12), None]


@pytest.mark.parametrize("size", [10, 2000], ids=["kept", "too long to keep"])
def test_parameters_are_read_alike_however_long_the_metadata(size):
    message = pb.ModelInferRequest(
        inputs=[Input(name="x", datatype="FP32", parameters=given(**PLACE, note="n" * size))],
        outputs=[Requested(name="y", parameters=given(classification=2, note="n" * size))],
    )
    for _ in range(2):
        call = read_request(message.SerializeToString())
        assert call.contents[0].place == Place("frames", 0, 12)
        assert call.outputs == (Asked("y", classes=2),)


def test_a_request_may_say_that_it_is_made_up():
    assert (asked().synthetic, asked(edged_synthetic=True).synthetic) == (False, True)
    error = refusal("request", edged_synthetic="yes")
    assert error.code is Code.INVALID_ARGUMENT
    assert "edged_synthetic" in error.message
