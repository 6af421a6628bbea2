"""When a variant that did not fit is asked for again."""

import asyncio

from support.standins import manifest

from edged.config.settings import Workers
from edged.errors import Code, EdgedError
from edged.models.choosing import Choice
from edged.models.want import Want
from edged.system.hardware import Hardware

SETTINGS = Workers(restart_min_s=0.01, restart_max_s=0.01)


async def test_one_timer_asks_again_however_often_something_else_was_taken_up():
    asked = asyncio.Queue()
    choice = Choice(manifest(variants=("best", "lesser")), Hardware("generic"), {"onnxruntime": "1.0"}, lambda: None)
    choice.ask_again = lambda: asked.put_nowait(True)
    want = Want(choice)
    choice.spare(choice.variant, EdgedError(Code.MEMORY_SHORT, "no memory"))
    for _ in range(20):
        want.met(SETTINGS)
    async with asyncio.timeout(30):
        await asked.get()
    beyond = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.05, beyond.set_result, None)
    await beyond
    assert asked.empty()
