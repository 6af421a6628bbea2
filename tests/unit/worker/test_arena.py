"""Shared memory between the front and a worker: slots that never meet, and a file that neither end can bend."""

from __future__ import annotations

import errno
import gc
import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.descriptors import count, held

from edged.worker.arena import Arena, Slots, Window

SIZE = 4096


class SlotsInUse(RuleBasedStateMachine):
    """Whatever is taken and given back, in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(SIZE)
        self.taken: dict[int, int] = {}

    @rule(size=st.integers(1, SIZE + 1) | st.sampled_from([1, 63, 64, 65, SIZE // 2, SIZE]))
    def take(self, size: int) -> None:
        offset = self.slots.take(size)
        if offset < 0:
            assert offset == -1
            assert not self.has_gap(size)
            return
        assert offset % 64 == 0
        assert offset + size <= SIZE
        assert offset not in self.taken
        self.taken[offset] = size

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.taken)))
        size = self.taken.pop(offset)
        self.slots.release(offset)
        again = self.slots.take(size)
        assert 0 <= again <= offset, "what is free is used again, the first of it first"
        self.slots.release(again)

    @rule(offset=st.integers(-1, SIZE))
    def release_what_is_not_taken(self, offset: int) -> None:
        if offset not in self.taken:
            with pytest.raises(KeyError):
                self.slots.release(offset)

    @rule()
    def release_all(self) -> None:
        for offset in self.taken:
            self.slots.release(offset)
        self.taken.clear()
        assert self.slots.take(SIZE) == 0
        self.slots.release(0)

    def has_gap(self, size: int) -> bool:
        at = 0
        for start, length in sorted(self.taken.items()):
            if start - at >= size:
                return True
            at = (start + length + 63) // 64 * 64
        return SIZE - at >= size

    @invariant()
    def none_meet(self) -> None:
        at = 0
        for start, length in sorted(self.taken.items()):
            assert start >= at
            at = start + length
        assert at <= SIZE

    @invariant()
    def what_is_taken_is_told(self) -> None:
        assert self.slots.taken_bytes == sum(self.taken.values())


TestSlots = SlotsInUse.TestCase


def memfds() -> int:
    return count("edged-arena")


@pytest.fixture
def arena():
    before = memfds()
    made = Arena(2**20)
    yield made
    if made.descriptor >= 0:
        made.close()
    del made
    gc.collect()
    assert memfds() == before


def test_both_ends_see_the_same(arena):
    window = Window(arena.descriptor)
    arena.view[100:105] = b"there"
    assert bytes(window.view(100, 5)) == b"there"
    window.view(200, 4)[:] = b"back"
    assert bytes(arena.view[200:204]) == b"back"


def test_only_what_is_written_takes_memory(arena):
    assert arena.used_bytes == 0
    page = mmap.PAGESIZE
    arena.view[:1] = b"x"
    assert arena.used_bytes == page
    arena.view[page * 10 : page * 14] = bytes(page * 4)
    assert arena.used_bytes == page * 5
    assert bytes(arena.view[5 * page : 6 * page]) == bytes(page), "to read takes none"


def test_a_worker_can_neither_shrink_nor_grow_it(arena):
    """Where it could, the front would be ended by SIGBUS when it reads."""
    arena.view[-5:] = b"still"
    child = os.fork()
    if not child:
        found = []
        for size in (0, 4096, 2**20 - 1, 2**20 + 1):
            try:
                os.ftruncate(arena.descriptor, size)
            except OSError as error:
                found.append(error.errno)
        os._exit(0 if found == [errno.EPERM] * 4 else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert bytes(arena.view[-5:]) == b"still"


def test_what_a_worker_writes_beyond_its_slot_harms_no_memory_of_the_front(arena):
    child = os.fork()
    if not child:
        window = Window(arena.descriptor)
        try:
            window.view(0, 2**20)[:] = b"\xff" * 2**20
            assert len(window.view(2**20 - 4, 100)) == 4
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert set(bytes(arena.view)) == {0xFF}


@pytest.mark.parametrize("reader", [np.frombuffer, memoryview, lambda view: view[10:20]], ids=["array", "view", "part"])
def test_it_may_be_closed_while_somebody_still_reads(reader):
    before = memfds()
    arena = Arena(2**20)
    arena.view[:30] = b"z" * 30
    part = reader(arena.view) if reader is not np.frombuffer else np.frombuffer(arena.view, np.uint8)
    arena.close()
    assert part[5] == ord("z")
    del part, arena
    gc.collect()
    assert memfds() == before


def test_an_arena_that_cannot_be_made_leaves_nothing():
    before = held()
    with pytest.raises((OSError, ValueError, OverflowError)):
        Arena(-1)
    assert held() == before


def test_it_leaves_no_file(arena):
    assert not list(Path("/dev/shm").glob("*edged*"))
    assert not os.get_inheritable(arena.descriptor)
