"""Asks at a fixed rate, whatever comes back and however long it takes: what overload is, and what it costs.

Started as `python -m benchmarks.programs.open_loop ADDRESS PATH REQUEST RATE SECONDS LEAD_S SEED`, with the request's
bytes in a file. Prints one JSON object. Latencies count from when a request was due, so that a late generator hides
nothing. What was due in the first LEAD_S seconds counts apart: what is measured is a load that stays.

With a seed, requests come by chance, as those of many callers do who know nothing of each other (a Poisson process, as
in the server scenario of MLPerf Inference); with an empty one, one after the other in equal steps, as a camera's do.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import uvloop

from benchmarks.measure import percentile
from benchmarks.programs.client import MAX_BYTES, PATIENCE_S


class Seen:
    """How the requests ended."""

    def __init__(self) -> None:
        self.answered: list[float] = []
        self.refused: list[float] = []
        self.early: list[float] = []
        self.problem = ""
        self.failed = 0

    def told(self) -> dict[str, object]:
        """As JSON has it; latencies in µs."""
        found: dict[str, object] = {"failed": self.failed, "problem": self.problem}
        for name, seconds in (("answered", self.answered), ("refused", self.refused), ("early", self.early)):
            ordered = sorted(each * 1e6 for each in seconds)
            found[name] = len(ordered)
            found |= {f"{name}_p{percent}_us": percentile(ordered, percent) for percent in (50, 99)}
        return found


def gaps(rate: float, seed: str) -> Iterator[float]:
    """The seconds from each request to the next, without an end."""
    chance = random.Random(seed)
    while True:
        yield chance.expovariate(rate) if seed else 1 / rate


async def main(address: str, path: str, request: bytes, rate: float, seconds: float, lead_s: float, seed: str) -> None:
    """The whole run."""
    options = [("grpc.max_receive_message_length", MAX_BYTES), ("grpc.max_send_message_length", MAX_BYTES)]
    seen = Seen()
    async with grpc.aio.insecure_channel(address, options) as channel:
        ask = channel.unary_unary(path)

        async def one(due: float, *, early: bool) -> None:
            try:
                await ask(request, timeout=PATIENCE_S)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    if not early:
                        seen.refused.append(time.monotonic() - due)
                else:
                    seen.failed += 1
                    seen.problem = f"{error.code().name}: {error.details()}"
            else:
                (seen.early if early else seen.answered).append(time.monotonic() - due)

        under_way = set()
        due = began = time.monotonic()
        for gap in gaps(rate, seed):
            if due >= began + lead_s + seconds:
                break
            if (ahead := due - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
            task = asyncio.create_task(one(due, early=due < began + lead_s))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            due += gap
        await asyncio.gather(*under_way)
    print(json.dumps(seen.told()))


if __name__ == "__main__":
    _, where, method, file, per_s, duration, lead, chance = sys.argv
    signal.alarm(int(float(duration) + float(lead)) + 2 * PATIENCE_S)
    uvloop.run(main(where, method, Path(file).read_bytes(), float(per_s), float(duration), float(lead), chance))
