"""Frames come whole, however the socket cuts them."""

import socket

from hypothesis import given
from hypothesis import strategies as st

from edged.worker.inbox import Inbox
from edged.worker.messages import PREFIX

FRAMES = st.lists(
    st.tuples(st.binary(max_size=300), st.one_of(st.binary(max_size=300), st.integers(0, 200_000).map(bytes))),
    max_size=6,
)


class Cut:
    """A socket that gives a few bytes at a time, and then its end."""

    def __init__(self, content, sizes):
        self._content = content
        self._sizes = sizes

    def recv_into(self, room):
        count = min(self._sizes(), len(room), len(self._content))
        room[:count] = self._content[:count]
        self._content = self._content[count:]
        return count


@given(FRAMES, st.data())
def test_every_frame_comes_whole_and_stays_as_it_was(frames, data):
    content = b"".join(PREFIX.pack(len(head), len(body)) + head + body for head, body in frames)
    inbox = Inbox(Cut(content, lambda: data.draw(st.sampled_from([1, 7, 100, 10_000, 1_000_000]))))
    found = [inbox.read() for _ in frames]
    assert inbox.read() is None
    assert [(bytes(head), bytes(body)) for head, body in found] == frames


@given(FRAMES.filter(bool), st.data())
def test_an_end_within_a_frame_is_the_end(frames, data):
    content = b"".join(PREFIX.pack(len(head), len(body)) + head + body for head, body in frames)
    inbox = Inbox(Cut(content[: data.draw(st.integers(0, len(content) - 1))], lambda: 10_000))
    assert any(inbox.read() is None for _ in frames)  # which ends there, as a worker does


def test_a_usual_frame_takes_one_call():
    here, there = socket.socketpair()
    with here, there:
        calls = []

        class Counted:
            def recv_into(self, room):
                calls.append(len(room))
                return here.recv_into(room)

        there.sendall(PREFIX.pack(3, 5) + b"abc12345")
        head, body = Inbox(Counted()).read()
        assert (bytes(head), bytes(body)) == (b"abc", b"12345")
        assert len(calls) == 1
