"""Uses edged through tritonclient, in tritonclient's own environment, and prints what happened as JSON.

`python driver.py SOCKET ADMIN_SOCKET`. It judges nothing but whether arrays are the same: what should have happened
says `tests/integration/test_tritonclient.py`. The result is an object by case; a refused call is
{"status": …, "message": …}.
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
import tritonclient.utils.shared_memory as shared_memory
from tritonclient._plugin import InferenceServerClientPlugin
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

Case = Callable[[triton.InferenceServerClient], Any]
CASES: dict[str, Case] = {}
ADMIN_CASES: dict[str, Case] = {}

USED: dict[str, set[str]] = {"threads": set(), "asyncio": set()}
CLIENTS = {"threads": triton.InferenceServerClient, "asyncio": triton_aio.InferenceServerClient}


def public(kind: str) -> list[str]:
    """The public methods of a client."""
    return sorted(name for name in dir(CLIENTS[kind]) if not name.startswith("_"))


class Plugin(InferenceServerClientPlugin):
    """Adds a header to every request, as those for authentication do."""

    def __call__(self, request: Any) -> None:
        request.headers["x-plugin"] = "here"


class Client(triton.InferenceServerClient):
    """Notes which of its methods are used."""

    def __getattribute__(self, name: str) -> Any:
        USED["threads"].add(name)
        return super().__getattribute__(name)


class AioClient(triton_aio.InferenceServerClient):
    """Notes which of its methods are used."""

    def __getattribute__(self, name: str) -> Any:
        USED["asyncio"].add(name)
        return super().__getattribute__(name)


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def admin_case(function: Case) -> Case:
    """On the admin socket."""
    ADMIN_CASES[function.__name__] = function
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


@case
def model_config(client: triton.InferenceServerClient) -> Any:
    return client.get_model_config("sums", "1", as_json=True)["config"]


@case
def statistics(client: triton.InferenceServerClient) -> Any:
    inputs, *_ = pair()
    before = client.get_inference_statistics("sums").model_stats[0]
    client.infer("sums", inputs)
    after = client.get_inference_statistics("sums", "1").model_stats[0]
    return {
        "rows": after.inference_count - before.inference_count,
        "executions": after.execution_count - before.execution_count,
        "success": after.inference_stats.success.count - before.inference_stats.success.count,
        "models": len(client.get_inference_statistics(as_json=True)["model_stats"]),
    }


@case
def plugin(client: triton.InferenceServerClient) -> Any:
    client.register_plugin(Plugin())
    try:
        return isinstance(client.plugin(), Plugin) and client.is_server_live()
    finally:
        client.unregister_plugin()


@case
def priorities(client: triton.InferenceServerClient) -> Any:
    inputs, a, b = pair()
    return [answered(client.infer("sums", inputs, priority=level), "sum", a + b)["same"] for level in (0, 1, 2, 99)]


@case
def classes(client: triton.InferenceServerClient) -> Any:
    """The three largest of each row, as the client's users read them."""
    image = np.random.default_rng(0).random((2, 1, 8, 8), np.float32)
    inputs = [given("image", "FP32", image)]
    scores = client.infer("digits", inputs).as_numpy("scores")
    asked = [triton.InferRequestedOutput("scores", class_count=3)]
    found = client.infer("digits", inputs, outputs=asked).as_numpy("scores")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :3]
    wanted = [[f"{row[at]:f}:{at}:{at}" for at in order] for row, order in zip(scores, best, strict=True)]
    return {"shape": list(found.shape), "same": [[each.decode() for each in row] for row in found] == wanted}


def streamed(client: triton.InferenceServerClient, ask: Callable[[], int], **options: Any) -> list[tuple[Any, Any]]:
    """What comes back on a stream for the requests that `ask` sends, as (result, error)."""
    done: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    client.start_stream(lambda result, error: done.put((result, error)), **options)
    try:
        return [done.get(timeout=60) for _ in range(ask())]
    finally:
        client.stop_stream()


def number(of: int) -> np.ndarray:
    return np.full((1, 4), of, np.int64)


@case
def stream(client: triton.InferenceServerClient) -> Any:
    """Many requests over one stream: their answers come in order, each final."""

    def ask() -> int:
        for each in range(MANY):
            client.async_stream_infer(
                "identity-int64",
                [given("x", "INT64", number(each))],
                request_id=str(each),
                enable_empty_final_response=True,
                priority=1,
                timeout=60_000_000,
            )
        return MANY

    found = streamed(client, ask, stream_timeout=60, compression_algorithm="gzip")
    return {
        "right": sum(
            error is None
            and result.get_response().id == str(each)
            and same(result.as_numpy("y"), number(each))
            and result.get_response().parameters["triton_final_response"].bool_param
            for each, (result, error) in enumerate(found)
        )
    }


@case
def stream_errors(client: triton.InferenceServerClient) -> Any:
    """An error for one request; the next is answered."""

    def ask() -> int:
        for model in ("identity-int64", "nobody", "identity-int64"):
            client.async_stream_infer(model, [given("x", "INT64", number(1))])
        return 3

    found = streamed(client, ask)
    [error] = [error for _, error in found if error is not None]
    right = sum(same(result.as_numpy("y"), number(1)) for result, _ in found if result is not None)
    return {"right": right, "message": error.message(), "status": error.status()}


@case
def stream_errors_as_statuses(client: triton.InferenceServerClient) -> Any:
    def ask() -> int:
        client.async_stream_infer("nobody", [given("x", "INT64", number(1))])
        return 1

    [(result, error)] = streamed(client, ask, headers={"triton_grpc_error": "true"})
    return {"result": result, "message": error.message(), "status": error.status()}


@case
def stream_cancelled(client: triton.InferenceServerClient) -> Any:
    """A stream that is stopped with requests under way; the next one is as good as the first."""
    done: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    client.start_stream(lambda result, error: done.put((result, error)))
    for each in range(MANY):
        client.async_stream_infer("identity-int64", [given("x", "INT64", number(each))])
    client.stop_stream(cancel_requests=True)
    return stream(client)


@case
def cancelled(client: triton.InferenceServerClient) -> Any:
    """Requests that are cancelled while others wait for theirs."""
    done: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    large = given("x", "FP32", np.zeros((8, 100_000), np.float32))
    for each in range(MANY):
        context = client.async_infer("identity-fp32", [large], lambda result, error: done.put((result, error)))
        if each % 2:
            context.cancel()
    found = [done.get(timeout=60) for _ in range(MANY)]
    statuses = {error.status() for _, error in found if error is not None}
    return {"answered": sum(error is None for _, error in found) >= MANY // 2, "statuses": sorted(statuses)}


@case
def system_shared_memory(client: triton.InferenceServerClient) -> Any:
    """A tensor that lies in shared memory, and an answer put there."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    handle = shared_memory.create_shared_memory_region("edged-driver", f"/edged-driver-{id(client)}", 2 * array.nbytes)
    try:
        shared_memory.set_shared_memory_region(handle, [array])
        client.register_system_shared_memory("edged-driver", handle._shm_key, 2 * array.nbytes)
        known = sorted(client.get_system_shared_memory_status(as_json=True)["regions"])
        tensor = triton.InferInput("x", [2, 3], "FP32")
        tensor.set_shared_memory("edged-driver", array.nbytes)
        wanted = triton.InferRequestedOutput("y")
        wanted.set_shared_memory("edged-driver", array.nbytes, offset=array.nbytes)
        client.infer("identity-fp32", [tensor], outputs=[wanted])
        answer = shared_memory.get_contents_as_numpy(handle, np.float32, [2, 3], offset=array.nbytes)
        found = {"known": known, "same": same(np.array(answer), array)}
        client.unregister_system_shared_memory("edged-driver")
        return {**found, "left": client.get_system_shared_memory_status("", as_json=True)}
    finally:
        shared_memory.destroy_shared_memory_region(handle)


@case
def not_carried_out(client: triton.InferenceServerClient) -> Any:
    return {
        "cuda status": refused(client.get_cuda_shared_memory_status),
        "cuda register": refused(lambda: client.register_cuda_shared_memory("x", b"", 0, 1)),
        "cuda unregister": refused(client.unregister_cuda_shared_memory),
        "trace": refused(client.get_trace_settings),
        "trace update": refused(lambda: client.update_trace_settings(settings={"trace_rate": "1"})),
    }


@case
def for_administrators(client: triton.InferenceServerClient) -> Any:
    return {
        "index": refused(client.get_model_repository_index),
        "load": refused(lambda: client.load_model("sums")),
        "unload": refused(lambda: client.unload_model("sums")),
        "log": refused(lambda: client.update_log_settings({"log_verbose_level": 1})),
    }


@case
def log_settings(client: triton.InferenceServerClient) -> Any:
    return client.get_log_settings(as_json=True)["settings"]


def states(index: Any) -> dict[str, str]:
    return {each.name: each.state for each in index.models}


@admin_case
def repository(client: triton.InferenceServerClient) -> Any:
    """A model goes, with its readiness, and comes back."""
    found: dict[str, Any] = {"before": states(client.get_model_repository_index())["unbatched"]}
    client.unload_model("unbatched", unload_dependents=True)
    found["unloaded"] = states(client.get_model_repository_index())["unbatched"]
    found["ready"] = client.is_model_ready("unbatched")
    array = np.zeros((1, 1, 1), np.float32)
    found["asked"] = refused(lambda: client.infer("unbatched", [given("x", "FP32", array)]))
    client.load_model("unbatched")
    found["after"] = states(client.get_model_repository_index())["unbatched"]
    found["answer"] = answered(client.infer("unbatched", [given("x", "FP32", array)]), "y", array)["same"]
    found["override"] = refused(lambda: client.load_model("sums", config="{}"))
    found["files"] = refused(lambda: client.load_model("sums", config="{}", files={"file:1/model.onnx": b"x"}))
    return found


@admin_case
def changed_log_settings(client: triton.InferenceServerClient) -> Any:
    changed = client.update_log_settings({"log_verbose_level": 1}, as_json=True)["settings"]
    back = client.update_log_settings({"log_verbose_level": 0}, as_json=True)["settings"]
    return {"changed": changed["log_level"], "back": back["log_level"]}


async def refused_later(call: Any) -> str:
    try:
        await call
    except InferenceServerException as error:
        return str(error.status())
    return "none"


async def asynchronous(url: str) -> Any:
    """The same through the client for asyncio."""
    async with AioClient(url) as client:
        client.register_plugin(Plugin())
        assert isinstance(client.plugin(), Plugin)
        client.unregister_plugin()
        arrays = [number(each) for each in range(MANY)]
        results = await asyncio.gather(
            *(
                client.infer("identity-int64", [given("x", "INT64", array, triton_aio)], request_id=str(each))
                for each, array in enumerate(arrays)
            )
        )
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready("sums", "1"),
            "server": (await client.get_server_metadata(as_json=True))["name"],
            "model": (await client.get_model_metadata("sums", as_json=True))["name"],
            "config": (await client.get_model_config("sums", as_json=True))["config"]["max_batch_size"],
            "statistics": (await client.get_inference_statistics("sums", as_json=True))["model_stats"][0]["name"],
            "log": (await client.get_log_settings(as_json=True))["settings"]["log_level"]["string_param"],
            "right": sum(
                result.get_response().id == str(each) and same(result.as_numpy("y"), array)
                for each, (result, array) in enumerate(zip(results, arrays, strict=True))
            ),
            "refused": await refused_later(client.infer("nobody", [given("x", "INT64", arrays[0], triton_aio)])),
            "not carried out": [
                await refused_later(call)
                for call in (
                    client.get_cuda_shared_memory_status(),
                    client.register_cuda_shared_memory("x", b"", 0, 1),
                    client.unregister_cuda_shared_memory(),
                    client.get_trace_settings(),
                    client.update_trace_settings(settings={"trace_rate": "1"}),
                )
            ],
            "shared memory": await asynchronous_shared_memory(client),
            "stream": await asynchronous_stream(client),
        }


async def asynchronous_shared_memory(client: triton_aio.InferenceServerClient) -> Any:
    handle = shared_memory.create_shared_memory_region("edged-aio", f"/edged-aio-{id(client)}", 64)
    try:
        await client.register_system_shared_memory("edged-aio", handle._shm_key, 64)
        known = sorted((await client.get_system_shared_memory_status(as_json=True))["regions"])
        await client.unregister_system_shared_memory("edged-aio")
        return known
    finally:
        shared_memory.destroy_shared_memory_region(handle)


async def asynchronous_stream(client: triton_aio.InferenceServerClient) -> Any:
    """A stream to its end, and one that is cancelled half way."""

    async def ask() -> Any:
        for each in range(MANY):
            yield {
                "model_name": "identity-int64",
                "inputs": [given("x", "INT64", number(each), triton_aio)],
                "request_id": str(each),
            }

    found = [(result, error) async for result, error in client.stream_infer(ask(), stream_timeout=60)]
    cut = client.stream_infer(ask())
    await cut.__anext__()
    cut.cancel()
    return sum(error is None and same(result.as_numpy("y"), number(each)) for each, (result, error) in enumerate(found))


async def asynchronous_administration(url: str) -> Any:
    async with AioClient(url) as client:
        await client.unload_model("unbatched")
        unloaded = states(await client.get_model_repository_index())["unbatched"]
        await client.load_model("unbatched")
        loaded = states(await client.get_model_repository_index())["unbatched"]
        changed = (await client.update_log_settings({"log_info": True}, as_json=True))["settings"]
        return {"unloaded": unloaded, "loaded": loaded, "log": changed["log_info"]["bool_param"]}


def main() -> None:
    url, admin_url = (f"unix:{socket}" for socket in sys.argv[1:])
    found = {}
    for each, cases in ((url, CASES), (admin_url, ADMIN_CASES)):
        client = Client(each)
        found |= {name: function(client) for name, function in cases.items()}
        client.close()
    found["asynchronous"] = asyncio.run(asynchronous(url))
    found["asynchronous_administration"] = asyncio.run(asynchronous_administration(admin_url))
    found["unused"] = {kind: sorted(set(public(kind)) - USED[kind]) for kind in USED}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
