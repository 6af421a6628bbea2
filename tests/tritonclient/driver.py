"""Uses edged through tritonclient, in tritonclient's own environment, and prints what happened as JSON.

`python driver.py SOCKET`. It judges nothing but whether arrays are the same: `tests/integration/test_tritonclient.py`
says what should have happened. The result is an object by case; a refused call is {"status": …, "message": …}.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

FLOATS = [[-np.inf, -0.0, 1.5], [np.nan, 0.1, 6e-5]]
ARRAYS = {
    "BOOL": np.array([[True, False, True], [False, False, True]]),
    **{
        name: np.array([[np.iinfo(kind).min, 0, 1], [2, 3, np.iinfo(kind).max]], kind)
        for name, kind in (
            ("INT8", np.int8),
            ("INT16", np.int16),
            ("INT32", np.int32),
            ("INT64", np.int64),
            ("UINT8", np.uint8),
            ("UINT16", np.uint16),
            ("UINT32", np.uint32),
            ("UINT64", np.uint64),
        )
    },
    "FP16": np.array(FLOATS, np.float16),
    "BF16": np.array(FLOATS, ml_dtypes.bfloat16),
    "FP32": np.array(FLOATS, np.float32),
    "FP64": np.array(FLOATS, np.float64),
    "BYTES": np.array([[b"", b"abc", b"a\0b"], ["grüße".encode(), "🌍".encode(), b"x" * 5000]], object),
}
MANY = 30

CASES: dict[str, Callable[[triton.InferenceServerClient], Any]] = {}


def case(function: Callable[[triton.InferenceServerClient], Any]) -> Callable[[triton.InferenceServerClient], Any]:
    CASES[function.__name__] = function
    return function


def given(name: str, datatype: str, array: np.ndarray, client: Any = triton) -> Any:
    tensor = client.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def identity(datatype: str) -> str:
    return f"identity-{datatype.lower()}"


def same(left: np.ndarray, right: np.ndarray) -> bool:
    """To the bit: NaN is NaN, and -0 is not 0."""
    if left.dtype == object:
        return left.tolist() == right.tolist()
    return left.dtype == right.dtype and left.tobytes() == right.tobytes()


def answered(result: triton.InferResult, name: str, wanted: np.ndarray) -> dict[str, Any]:
    found = result.as_numpy(name)
    return {"same": same(found, wanted), "shape": list(found.shape), "datatype": result.get_output(name).datatype}


def pair(rows: int = 2, client: Any = triton) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """Inputs for `sums`."""
    a = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
    b = a[::-1].copy()
    return [given("a", "FP32", a, client), given("b", "FP32", b, client)], a, b


@case
def round_trip(client: triton.InferenceServerClient) -> Any:
    return {
        datatype: answered(client.infer(identity(datatype), [given("x", datatype, array)]), "y", array)
        for datatype, array in ARRAYS.items()
    }


@case
def empty_batch(client: triton.InferenceServerClient) -> Any:
    found = {}
    for datatype, array in ARRAYS.items():
        result = client.infer(identity(datatype), [given("x", datatype, array[:0])])
        found[datatype] = {"rows": result.get_output("y").shape[0], "bytes": len(result.as_numpy("y").tobytes())}
    return found


@case
def text_arrays(client: triton.InferenceServerClient) -> Any:
    """Arrays of str and of fixed-size bytes, which tritonclient takes for BYTES too."""
    text = np.array([["grüße", "", "🌍"]], object)
    fixed = np.array([[b"abc", b"", b"defgh"]], "S5")
    found = [client.infer("identity-bytes", [given("x", "BYTES", each)]).as_numpy("y") for each in (text, fixed)]
    return [[element.decode() for element in each.reshape(-1)] for each in found]


@case
def no_batch_axis(client: triton.InferenceServerClient) -> Any:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    return answered(client.infer("unbatched", [given("x", "FP32", array)]), "y", array)


@case
def large_tensor(client: triton.InferenceServerClient) -> Any:
    array = np.arange(8 * 500_000, dtype=np.float32).reshape(8, -1)
    return answered(client.infer("identity-fp32", [given("x", "FP32", array)]), "y", array)


@case
def live(client: triton.InferenceServerClient) -> Any:
    return client.is_server_live()


@case
def ready(client: triton.InferenceServerClient) -> Any:
    return client.is_server_ready()


@case
def model_ready(client: triton.InferenceServerClient) -> Any:
    return [client.is_model_ready("unbatched"), client.is_model_ready("unbatched", "3")]


@case
def server_metadata(client: triton.InferenceServerClient) -> Any:
    return client.get_server_metadata(as_json=True)


@case
def model_metadata(client: triton.InferenceServerClient) -> Any:
    return client.get_model_metadata("sums", as_json=True)


@case
def model_metadata_of_a_version(client: triton.InferenceServerClient) -> Any:
    return client.get_model_metadata("unbatched", "3", as_json=True)


@case
def several_tensors(client: triton.InferenceServerClient) -> Any:
    inputs, a, b = pair()
    result = client.infer("sums", inputs)
    return {"sum": answered(result, "sum", a + b), "difference": answered(result, "difference", a - b)}


@case
def inputs_reversed(client: triton.InferenceServerClient) -> Any:
    inputs, a, b = pair()
    return answered(client.infer("sums", inputs[::-1]), "difference", a - b)


@case
def named_outputs(client: triton.InferenceServerClient) -> Any:
    inputs, a, b = pair()
    result = client.infer(
        "sums", inputs, outputs=[triton.InferRequestedOutput("difference"), triton.InferRequestedOutput("sum")]
    )
    return {
        "order": [output.name for output in result.get_response().outputs],
        "sum": answered(result, "sum", a + b),
        "difference": answered(result, "difference", a - b),
    }


@case
def one_output(client: triton.InferenceServerClient) -> Any:
    inputs, a, b = pair()
    result = client.infer("sums", inputs, outputs=[triton.InferRequestedOutput("sum")])
    return {"sum": answered(result, "sum", a + b), "difference": result.as_numpy("difference")}


@case
def request_id_and_version(client: triton.InferenceServerClient) -> Any:
    array = np.zeros((1, 1, 1), np.float32)
    result = client.infer("unbatched", [given("x", "FP32", array)], model_version="3", request_id="my-id")
    response = result.get_response(as_json=True)
    return [response["id"], response["model_name"], response["model_version"], response["parameters"]]


@case
def timeouts_that_are_kept(client: triton.InferenceServerClient) -> Any:
    inputs, a, b = pair()
    return answered(client.infer("sums", inputs, timeout=60_000_000, client_timeout=60), "sum", a + b)


@case
def compressed(client: triton.InferenceServerClient) -> Any:
    inputs, a, b = pair()
    return {
        kind: answered(client.infer("sums", inputs, compression_algorithm=kind), "sum", a + b)
        for kind in ("gzip", "deflate")
    }


@case
def own_parameters_and_headers(client: triton.InferenceServerClient) -> Any:
    inputs, a, b = pair()
    result = client.infer("sums", inputs, parameters={"camera": "left", "frame": 7}, headers={"x-camera": "left"})
    return answered(result, "sum", a + b)


def refused(call: Callable[[], Any]) -> dict[str, Any]:
    try:
        call()
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}
    return {"status": "none", "message": "it was answered"}


@case
def refusals(client: triton.InferenceServerClient) -> Any:
    inputs, *_ = pair()
    flat = given("a", "FP32", np.zeros(3, np.float32))
    wide = given("a", "FP32", np.zeros((2, 4), np.float32))
    wrong = given("a", "FP64", np.zeros((2, 3)))
    other = given("c", "FP32", np.zeros((2, 3), np.float32))
    text = given("x", "BYTES", np.array([[b"\xff"]], object))
    many, *_ = pair(9)
    large = given("x", "FP32", np.zeros((8, 1_000_000), np.float32))
    return {
        "wrong rank": refused(lambda: client.infer("sums", [flat, inputs[1]])),
        "wrong shape": refused(lambda: client.infer("sums", [wide, inputs[1]])),
        "wrong datatype": refused(lambda: client.infer("sums", [wrong, inputs[1]])),
        "wrong name": refused(lambda: client.infer("sums", [other, inputs[1]])),
        "missing input": refused(lambda: client.infer("sums", inputs[:1])),
        "too many rows": refused(lambda: client.infer("sums", many)),
        "no text": refused(lambda: client.infer("identity-bytes", [text])),
        "unknown output": refused(
            lambda: client.infer("sums", inputs, outputs=[triton.InferRequestedOutput("product")])
        ),
        "unknown model": refused(lambda: client.infer("nobody", inputs)),
        "unknown version": refused(lambda: client.infer("sums", inputs, model_version="2")),
        "no version": refused(lambda: client.infer("sums", inputs, model_version="latest")),
        "metadata of an unknown model": refused(lambda: client.get_model_metadata("nobody")),
        "readiness of an unknown model": refused(lambda: client.is_model_ready("nobody")),
        "readiness of an unknown version": refused(lambda: client.is_model_ready("sums", "2")),
        "too late": refused(lambda: client.infer("identity-fp32", [large], client_timeout=0.001)),
        "sequence": refused(lambda: client.infer("sums", inputs, sequence_id=7)),
        "classes of text": refused(
            lambda: client.infer("identity-bytes", [text], outputs=[triton.InferRequestedOutput("y", class_count=2)])
        ),
    }


@case
def callbacks(client: triton.InferenceServerClient) -> Any:
    """Many requests at a time, each answered with its own data; and one that is refused, through its callback."""
    done: queue.SimpleQueue[tuple[int, Any, Any]] = queue.SimpleQueue()
    arrays = [np.full((1, 4), number, np.int64) for number in range(MANY)]
    for number, array in enumerate(arrays):
        client.async_infer(
            "identity-int64",
            [given("x", "INT64", array)],
            lambda result, error, number=number: done.put((number, result, error)),
            request_id=str(number),
        )
    right = 0
    for _ in arrays:
        number, result, error = done.get(timeout=60)
        right += (
            error is None and result.get_response().id == str(number) and same(result.as_numpy("y"), arrays[number])
        )
    client.async_infer("nobody", [given("x", "INT64", arrays[0])], lambda result, error: done.put((-1, result, error)))
    _, result, error = done.get(timeout=60)
    return {"right": right, "result": result, "refused": {"status": error.status(), "message": error.message()}}


async def asynchronous(url: str) -> Any:
    """The same through the client for asyncio."""
    async with triton_aio.InferenceServerClient(url) as client:
        arrays = [np.full((1, 4), number, np.int64) for number in range(MANY)]
        results = await asyncio.gather(
            *(
                client.infer("identity-int64", [given("x", "INT64", array, triton_aio)], request_id=str(number))
                for number, array in enumerate(arrays)
            )
        )
        try:
            await client.infer("nobody", [given("x", "INT64", arrays[0], triton_aio)])
            refusal = "none"
        except InferenceServerException as error:
            refusal = error.status()
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready("sums", "1"),
            "server": (await client.get_server_metadata(as_json=True))["name"],
            "model": (await client.get_model_metadata("sums", as_json=True))["name"],
            "right": sum(
                result.get_response().id == str(number) and same(result.as_numpy("y"), array)
                for number, (result, array) in enumerate(zip(results, arrays, strict=True))
            ),
            "refused": refusal,
        }


def main() -> None:
    url = f"unix:{sys.argv[1]}"
    with triton.InferenceServerClient(url) as client:
        found = {name: function(client) for name, function in CASES.items()}
    found["asynchronous"] = asyncio.run(asynchronous(url))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
