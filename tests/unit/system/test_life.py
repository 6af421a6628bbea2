"""The daemon's life: its phases and its signals."""

import asyncio
import os
import signal

import pytest
from support.polling import PATIENCE_S

from edged.changes import Changes
from edged.system.life import Life, Phase, watch_signals


class TestPhases:
    def test_follow_each_other_and_whoever_waits_is_told(self):
        changes = Changes()
        life = Life(changes)
        assert life.phase is Phase.STARTING
        for count, phase in enumerate((Phase.RUNNING, Phase.DRAINING), start=1):
            life.enter(phase)
            assert (life.phase, changes.count) == (phase, count)

    def test_what_is_not_as_it_should_be_is_kept_and_whoever_waits_is_told(self):
        changes = Changes()
        life = Life(changes)
        life.degrade("one")
        life.degrade("two")
        assert (life.degraded_reasons, changes.count) == (["one", "two"], 2)

    def test_what_has_recovered_is_forgotten(self):
        changes = Changes()
        life = Life(changes)
        life.degrade("one \udcff")
        life.degrade("two")
        life.recover("one \udcff")
        assert (life.degraded_reasons, changes.count) == (["two"], 3)

    def test_what_names_a_file_that_is_no_text_can_be_told_all_the_same(self):
        life = Life(Changes())
        life.degrade("bundle \udcff is not usable")
        assert life.degraded_reasons == ["bundle ? is not usable"]


class TestSignals:
    @pytest.fixture
    async def watched(self):
        stop, reloads = asyncio.Event(), []
        loop = asyncio.get_running_loop()
        reloaded = asyncio.Event()

        def reload():
            reloads.append(1)
            reloaded.set()

        watch_signals(stop, reload)
        yield stop, reloaded, reloads
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_one_to_stop(self, watched, number):
        stop, _, reloads = watched
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        async with asyncio.timeout(PATIENCE_S):
            await stop.wait()
        assert not reloads

    async def test_one_to_read_the_settings_again(self, watched):
        stop, reloaded, reloads = watched
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(PATIENCE_S):
            await reloaded.wait()
        assert len(reloads) == 1
        assert not stop.is_set()

    @pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
    def test_a_second_one_to_stop_ends_the_process_at_once(self, other, first, second):
        busy = other(
            """
import asyncio
from edged.system.life import watch_signals

async def main():
    stop = asyncio.Event()
    watch_signals(stop, lambda: None)
    print('watching', flush=True)
    await stop.wait()
    print('stopping', flush=True)
    await asyncio.sleep(3600)

print('done', flush=True)
asyncio.run(main())
"""
        ).process
        assert busy.stdout.readline() == "watching\n"
        busy.send_signal(first)
        assert busy.stdout.readline() == "stopping\n"
        busy.send_signal(second)
        assert busy.wait(PATIENCE_S) == 143
