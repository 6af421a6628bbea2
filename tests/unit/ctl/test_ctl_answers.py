"""What a model answered, as it is shown."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edged._pb.inference import grpc_service_pb2 as pb
from edged.ctl import answers
from edged.types import Datatype
from edged.worker.codec import encode


def response(*outputs: tuple[str, Datatype, Any]) -> pb.ModelInferResponse:
    found = pb.ModelInferResponse(model_name="digits", model_version="7")
    found.parameters["edged_variant"].string_param = "fp32"
    found.parameters["edged_level"].string_param = "nominal"
    found.parameters["edged_degraded"].bool_param = False
    for name, datatype, values in outputs:
        found.outputs.add(name=name, datatype=datatype.value, shape=values.shape)
        found.raw_output_contents.append(bytes(encode(values, datatype)))
    return found


def shown(datatype: Datatype, values: Any, top: int = 3) -> list[str]:
    (output,) = answers.outputs(response(("y", datatype, values)))
    return list(answers.text(output, top))


def told(datatype: Datatype, values: Any, top: int = 3) -> dict[str, Any]:
    given = response(("y", datatype, values))
    data = answers.data(given, answers.outputs(given), 0.0042, top)
    parsed = json.loads(json.dumps(data, allow_nan=False))
    (output,) = parsed["outputs"]
    return output


SCORES = np.zeros((1, 10), np.float32)
SCORES[0, [7, 2, 9]] = [0.75, 0.125, 0.0625]


def test_the_largest_scores_are_shown_by_index():
    assert shown(Datatype.FP32, SCORES) == ["y  FP32 [1, 10], the largest:", "  7 (0.75), 2 (0.125), 9 (0.0625)"]
    assert shown(Datatype.FP32, SCORES, top=1)[1] == "  7 (0.75)"


def test_each_row_has_its_own_and_many_rows_are_cut_short():
    lines = shown(Datatype.FP32, np.tile(np.arange(10, dtype=np.float32), (40, 1)), top=1)
    assert lines[1] == "  row 0: 9 (9)"
    assert len(lines) == 18
    assert lines[-1] == "  and 24 rows more; --json has all"


@pytest.mark.parametrize(
    ("datatype", "values", "line"),
    [
        (Datatype.FP32, np.array([[1, 2.5]], np.float32), "y  FP32 [1, 2]: 1, 2.5"),
        (Datatype.INT64, np.arange(10).reshape(1, 10), "y  INT64 [1, 10]: 0, 1, 2, 3, 4, 5, 6, 7, …"),
        (Datatype.BOOL, np.array([True, False]), "y  BOOL [2]: true, false"),
        (Datatype.FP32, np.zeros((1, 2, 9), np.float32), "y  FP32 [1, 2, 9]: 0, 0, 0, 0, 0, 0, 0, 0, …"),
        (Datatype.FP32, np.zeros((0, 10), np.float32), "y  FP32 [0, 10], the largest:"),
        (Datatype.BF16, np.array([[0x3F80, 0xC000]], np.uint16), "y  BF16 [1, 2]: 1, -2"),
        (
            Datatype.BYTES,
            np.array([b"\x1b[2J", "é".encode(), b"\xff", b"x" * 99], object),
            'y  BYTES [4]: "\\x1b[2J", "é", "\\xff", "' + "x" * 59 + '…"',
        ),
    ],
)
def test_other_outputs_show_their_first_values(datatype: Datatype, values: Any, line: str):
    assert shown(datatype, values) == [line]


def test_nan_is_never_among_the_largest_before_a_number():
    values = np.arange(10, dtype=np.float32).reshape(1, 10)
    values[0, 9] = np.nan
    assert shown(Datatype.FP32, values, top=2)[1] == "  8 (8), 7 (7)"


def test_who_answered():
    given = response()
    assert answers.who(given, 0.0042) == "digits revision 7, variant fp32, level nominal: answered in 4.2 ms"
    given.parameters["edged_degraded"].bool_param = True
    assert "level nominal, degraded:" in answers.who(given, 0.0042)
    bare = pb.ModelInferResponse(model_name="m", model_version="1")
    assert answers.who(bare, 0) == "m revision 1, variant ?: answered in 0.0 ms"


def test_programs_get_everything():
    given = response(("scores", Datatype.FP32, SCORES))
    assert answers.data(given, answers.outputs(given), 0.0042, 2) == {
        "model": "digits",
        "revision": 7,
        "variant": "fp32",
        "level": "nominal",
        "degraded": False,
        "took_ms": 4.2,
        "outputs": [
            {
                "name": "scores",
                "datatype": "FP32",
                "shape": [1, 10],
                "data": SCORES.reshape(-1).tolist(),
                "largest": [[{"index": 7, "value": 0.75}, {"index": 2, "value": 0.125}]],
            }
        ],
    }


def test_programs_get_json_whatever_the_values_are():
    odd = np.array([np.nan, np.inf, -np.inf, 1.5], np.float32)
    assert told(Datatype.FP32, odd)["data"] == ["NaN", "Infinity", "-Infinity", 1.5]
    assert told(Datatype.BYTES, np.array([b"\xff", "é".encode()], object))["data"] == [{"base64": "/w=="}, "é"]
    assert told(Datatype.UINT64, np.array([2**64 - 1], np.uint64))["data"] == [2**64 - 1]
    assert told(Datatype.BOOL, np.array([True]))["data"] == [True]
    wide = np.full((1, 2), np.nan, np.float16)
    assert told(Datatype.FP16, wide)["largest"][0][0]["value"] == "NaN"
