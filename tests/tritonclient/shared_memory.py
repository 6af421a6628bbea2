"""Uses edged's shared memory through tritonclient, in tritonclient's own environment, and prints what happened as JSON.

`python shared_memory.py SOCKET KEY`: files in /dev/shm begin with KEY. As driver.py, it judges nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from driver import ARRAYS, answered, given, identity, refused, same
from tritonclient.utils import serialize_byte_tensor

from edged.client import SharedRegion

KEY = sys.argv[2]
A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = A[::-1].copy()

CASES: dict[str, Callable[[triton.InferenceServerClient], Any]] = {}


def case(function: Callable[[triton.InferenceServerClient], Any]) -> Callable[[triton.InferenceServerClient], Any]:
    CASES[function.__name__] = function
    return function


@contextmanager
def region(client: triton.InferenceServerClient, name: str, size: int) -> Any:
    """A region as tritonclient makes it, registered under its name."""
    key = f"/{KEY}-{name}"
    handle = shm.create_shared_memory_region(name, key, size)
    try:
        client.register_system_shared_memory(name, key, size)
        yield handle
    finally:
        client.unregister_system_shared_memory(name)
        shm.destroy_shared_memory_region(handle)


def placed(name: str, datatype: str, shape: list[int], where: str, size: int, offset: int = 0) -> Any:
    tensor = triton.InferInput(name, shape, datatype)
    tensor.set_shared_memory(where, size, offset)
    return tensor


def wanted(name: str, where: str, size: int, offset: int = 0) -> Any:
    output = triton.InferRequestedOutput(name)
    output.set_shared_memory(where, size, offset)
    return output


@case
def round_trip(client: triton.InferenceServerClient) -> Any:
    """Every datatype, in and out."""
    found = {}
    with region(client, "in", 65536) as source, region(client, "out", 65536) as sink:
        for datatype, array in ARRAYS.items():
            data = serialize_byte_tensor(array) if datatype == "BYTES" else array
            shm.set_shared_memory_region(source, [data])
            size = len(data.item()) if datatype == "BYTES" else data.nbytes
            result = client.infer(
                identity(datatype),
                [placed("x", datatype, [2, 3], "in", size)],
                outputs=[wanted("y", "out", 65536)],
            )
            kind = np.object_ if datatype == "BYTES" else array.dtype
            back = shm.get_contents_as_numpy(sink, kind, [2, 3]).copy()
            output = result.get_output("y")
            found[datatype] = {
                "same": same(back, array),
                "region": output.parameters["shared_memory_region"].string_param,
                "size": output.parameters["shared_memory_byte_size"].int64_param == size,
                "shape": list(output.shape),
                "raw": [len(each) for each in result.get_response().raw_output_contents],
            }
    return found


@case
def mixed(client: triton.InferenceServerClient) -> Any:
    """One input sent, one shared; one output answered, one shared; offsets that are no whole pages."""
    with region(client, "mixed", 5000) as handle:
        shm.set_shared_memory_region(handle, [B], offset=4100)
        result = client.infer(
            "sums",
            [given("a", "FP32", A), placed("b", "FP32", [2, 3], "mixed", 24, 4100)],
            outputs=[wanted("sum", "mixed", 24, 100), triton.InferRequestedOutput("difference")],
        )
        return {
            "sum": same(shm.get_contents_as_numpy(handle, np.float32, [2, 3], offset=100).copy(), A + B),
            "difference": answered(result, "difference", A - B),
        }


@case
def offset_of_a_region(client: triton.InferenceServerClient) -> Any:
    """A region that begins inside its file."""
    handle = shm.create_shared_memory_region("part", f"/{KEY}-part", 20_000)
    try:
        client.register_system_shared_memory("part", f"{KEY}-part", 48, offset=10_001)
        shm.set_shared_memory_region(handle, [A, B], offset=10_001)
        inputs = [placed("a", "FP32", [2, 3], "part", 24), placed("b", "FP32", [2, 3], "part", 24, 24)]
        result = client.infer("sums", inputs)
        status = client.get_system_shared_memory_status("part", as_json=True)
        return [answered(result, "sum", A + B)["same"], status["regions"]["part"] | {"key": "its"}]
    finally:
        client.unregister_system_shared_memory("part")
        shm.destroy_shared_memory_region(handle)


@case
def status(client: triton.InferenceServerClient) -> Any:
    with region(client, "one", 100), region(client, "two", 200):
        found = client.get_system_shared_memory_status()
        named = client.get_system_shared_memory_status("two")
        both = {name: [each.name, each.key == f"/{KEY}-{name}", each.byte_size] for name, each in found.regions.items()}
        only = list(named.regions)
    return [both, only, list(client.get_system_shared_memory_status().regions)]


@case
def refusals(client: triton.InferenceServerClient) -> Any:
    """What `sums` and the calls for regions say to what cannot be; KEY is cut out of it."""
    found: dict[str, Any] = {}

    def register(name: str, key: str, size: int = 24, offset: int = 0) -> Any:
        return refused(lambda: client.register_system_shared_memory(name, key, size, offset))

    def ask(*, b: Any, outputs: Any = None) -> Any:
        return refused(lambda: client.infer("sums", [given("a", "FP32", A), b], outputs=outputs))

    link, pipe, folder = (Path(f"/dev/shm/{KEY}-{what}") for what in ("link", "pipe", "folder"))
    with region(client, "known", 96) as handle:
        shm.set_shared_memory_region(handle, [B])
        link.symlink_to(f"{KEY}-known")
        os.mkfifo(pipe)
        folder.mkdir()
        try:
            found["link"] = register("new", f"/{KEY}-link")
            found["pipe"] = register("new", f"/{KEY}-pipe")
            found["folder"] = register("new", f"/{KEY}-folder")
        finally:
            link.unlink()
            pipe.unlink()
            folder.rmdir()
        found["taken name"] = register("known", f"/{KEY}-known", 96)
        found["no file"] = register("new", f"/{KEY}-none")
        found["too short"] = register("new", f"/{KEY}-known", 97)
        found["too short from its offset"] = register("new", f"/{KEY}-known", 24, 2**63)
        found["no byte"] = register("new", f"/{KEY}-known", 0)
        found["no name"] = register("", f"/{KEY}-known")
        found["a long name"] = register("n" * 257, f"/{KEY}-known")
        for key in ("", "/", "..", "/../etc/passwd", "/a/b", "a\0b", "k" * 256):
            found[f"key {key[:20]!r}"] = register("new", key)
        found["unknown status"] = refused(lambda: client.get_system_shared_memory_status("nobody"))
        found["unknown region"] = ask(b=placed("b", "FP32", [2, 3], "nobody", 24))
        found["unknown region for an output"] = ask(b=given("b", "FP32", B), outputs=[wanted("sum", "nobody", 24)])
        found["wrong size"] = ask(b=placed("b", "FP32", [2, 3], "known", 20))
        found["beyond the end"] = ask(b=placed("b", "FP32", [2, 3], "known", 24, 80))
        found["far beyond the end"] = ask(b=placed("b", "FP32", [2, 3], "known", 24, 2**62))
        found["output too small"] = ask(b=given("b", "FP32", B), outputs=[wanted("sum", "known", 20)])
        os.truncate(f"/dev/shm/{KEY}-known", 50)
        found["shrunk"] = ask(b=placed("b", "FP32", [2, 3], "known", 24))
        os.truncate(f"/dev/shm/{KEY}-known", 96)
        grown = client.infer("sums", [given("a", "FP32", A), placed("b", "FP32", [2, 3], "known", 24)])
        found["grown again"] = grown.as_numpy("sum").shape == (2, 3)
        found["bytes that lie"] = bytes_that_lie(client, handle)
    return json.loads(json.dumps(found).replace(KEY, "KEY"))


def bytes_that_lie(client: triton.InferenceServerClient, handle: Any) -> Any:
    """A BYTES element that is said to reach far beyond its tensor."""
    shm.set_shared_memory_region(handle, [np.array([2**32 - 1, 0], np.uint32)])
    return refused(lambda: client.infer("identity-bytes", [placed("x", "BYTES", [1, 1], "known", 8)]))


@case
def own_region(client: triton.InferenceServerClient) -> Any:
    """What edged.client makes, with tritonclient's functions for the contents."""
    with SharedRegion(f"{KEY}-own", 100, group=None) as made:
        path = Path("/dev/shm", made.key.lstrip("/"))
        mode = oct(stat.S_IMODE(path.stat().st_mode))
        client.register_system_shared_memory("own", made.key, made.byte_size)
        shm.set_shared_memory_region(made, [A, B])
        inputs = [placed("a", "FP32", [2, 3], "own", 24), placed("b", "FP32", [2, 3], "own", 24, 24)]
        client.infer("sums", inputs, outputs=[wanted("sum", "own", 24, 48)])
        right = same(shm.get_contents_as_numpy(made, np.float32, [2, 3], offset=48).copy(), A + B)
        client.unregister_system_shared_memory("own")
    return {"mode": mode, "right": right, "gone": not path.exists()}


@case
def unregister_all(client: triton.InferenceServerClient) -> Any:
    with region(client, "one", 100), region(client, "two", 200):
        client.unregister_system_shared_memory()
        return list(client.get_system_shared_memory_status().regions)


async def asynchronous(url: str) -> Any:
    """The same through the client for asyncio, many at a time in one batch."""
    async with triton_aio.InferenceServerClient(url) as client:
        handle = shm.create_shared_memory_region("many", f"/{KEY}-many", 8 * 64)
        try:
            await client.register_system_shared_memory("many", f"/{KEY}-many", 8 * 64)
            arrays = [np.full((1, 4), number, np.int64) for number in range(8)]
            shm.set_shared_memory_region(handle, arrays)

            async def one(number: int) -> bool:
                output = triton_aio.InferRequestedOutput("y")
                output.set_shared_memory("many", 32, 256 + 32 * number)
                tensor = triton_aio.InferInput("x", [1, 4], "INT64")
                tensor.set_shared_memory("many", 32, 32 * number)
                await client.infer("identity-int64", [tensor], outputs=[output])
                found = shm.get_contents_as_numpy(handle, np.int64, [1, 4], offset=256 + 32 * number)
                return same(found.copy(), arrays[number])

            right = sum(await asyncio.gather(*(one(number) for number in range(8))))
            regions = await client.get_system_shared_memory_status(as_json=True)
            await client.unregister_system_shared_memory("many")
            return {"right": right, "regions": list(regions["regions"])}
        finally:
            shm.destroy_shared_memory_region(handle)


def main() -> None:
    url = f"unix:{sys.argv[1]}"
    with triton.InferenceServerClient(url) as client:
        found = {name: function(client) for name, function in CASES.items()}
    found["asynchronous"] = asyncio.run(asynchronous(url))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
