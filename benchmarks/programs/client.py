"""The load generator: callers that each ask again as soon as they are answered, over one channel.

Started as `python -m benchmarks.programs.client ADDRESS PATH REQUEST CALLERS SECONDS`, with the request's bytes in a
file. It warms up, prints a line, waits for a line, asks for SECONDS, and prints one JSON object. With `--once` for
CALLERS it waits until the server is there, asks once, and prints the length of the answer.
"""

from __future__ import annotations

import array
import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import uvloop

from benchmarks.measure import percentile

WARM_UP_S = 0.2
PATIENCE_S = 60
MAX_BYTES = 64 * 1024 * 1024

Ask = Callable[[bytes], Awaitable[bytes]]


class Load:
    """What the callers share."""

    def __init__(self, ask: Ask, request: bytes) -> None:
        self._ask = ask
        self._request = request
        self._took_ns = array.array("Q")
        self.failed = 0
        self.problem = ""

    async def run(self, callers: int, seconds: float) -> dict[str, object]:
        """Asks for `seconds`; what is under way then is waited for and counts."""
        self._took_ns, self.failed = array.array("Q"), 0
        began = time.monotonic()
        await asyncio.gather(*(self._call(began + seconds) for _ in range(callers)))
        elapsed_s = time.monotonic() - began
        took_us = [each / 1e3 for each in sorted(self._took_ns)]
        return {
            "answered": len(took_us),
            "failed": self.failed,
            "problem": self.problem,
            "elapsed_s": elapsed_s,
            **{f"p{percent}_us": percentile(took_us, percent) for percent in (50, 90, 99)},
        }

    async def _call(self, end: float) -> None:
        now_ns, ask, request, end_ns = time.monotonic_ns, self._ask, self._request, int(end * 1e9)
        while (began := now_ns()) < end_ns:
            try:
                await ask(request)
            except grpc.aio.AioRpcError as error:
                self.failed += 1
                self.problem = f"{error.code().name}: {error.details()}"
            else:
                self._took_ns.append(now_ns() - began)


async def main(address: str, path: str, request: bytes, callers: int, seconds: float) -> None:
    """The whole run."""
    options = [
        ("grpc.max_receive_message_length", MAX_BYTES),
        ("grpc.max_send_message_length", MAX_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 100),
    ]
    async with grpc.aio.insecure_channel(address, options) as channel:
        ask = channel.unary_unary(path)
        if not callers:
            print(len(await ask(request, timeout=PATIENCE_S, wait_for_ready=True)))
            return
        load = Load(ask, request)
        await load.run(callers, WARM_UP_S)
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(await load.run(callers, seconds)))


if __name__ == "__main__":
    _, where, method, file, count, duration = sys.argv
    # Whatever happens, this process ends: what hangs is then seen as an answer that is missing.
    signal.alarm(int(float(duration)) + PATIENCE_S + 5)
    uvloop.run(main(where, method, Path(file).read_bytes(), 0 if count == "--once" else int(count), float(duration)))
