"""Who loses connections, and how those that this process has accepted are found."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.events import EventLog
from edged.rpc import connections
from edged.rpc.connections import Connection, Connections, surplus


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(1, 10_000)), max_size=60),
    st.integers(1, 8),
)
def test_nobody_keeps_more_than_the_share_and_nobody_loses_what_is_in_it(drawn, most):
    found = {descriptor: Connection(*each) for descriptor, each in enumerate(drawn)}
    beyond = surplus(found, most)
    for key in {(each.socket, each.process) for each in found.values()}:
        of = {descriptor for descriptor, each in found.items() if (each.socket, each.process) == key}
        lost, kept = of & beyond.keys(), of - beyond.keys()
        if not key[1]:
            assert not lost, "who cannot be told apart from others"
            continue
        assert len(kept) == min(len(of), most)
        assert all(found[here].inode <= found[there].inode for here in kept for there in lost)


@pytest.fixture
def stack():
    with ExitStack() as made:
        yield made


class Peers:
    """Connections of this process to a socket of its own, as a daemon has them."""

    def __init__(self, stack, path):
        self.name = str(path)
        self.stack = stack
        self.listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        self.listener.bind(self.name)
        self.listener.listen()

    def connect(self):
        client = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(self.name)
        accepted, _ = self.listener.accept()
        self.stack.enter_context(accepted)
        return client


def ended(client):
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False


def test_the_newest_of_a_process_beyond_its_share_are_ended_on_each_socket_and_told_once(stack, tmp_path):
    watched, other = Peers(stack, tmp_path / "watched"), Peers(stack, tmp_path / "other")
    most = connections.MOST_PER_PROCESS
    clients = [watched.connect() for _ in range(most + 3)]
    elsewhere = [other.connect() for _ in range(most + 3)]
    events = EventLog(10)
    watch = Connections([watched.name], events)
    for _ in range(2):
        watch.trim()
    assert [ended(client) for client in clients] == [False] * most + [True] * 3
    assert not any(map(ended, elsewhere))
    [event] = events.after(0)
    assert (event.code, event.subject, event.details["closed"]) == ("overloaded", "connections", "3")


def test_those_within_their_share_and_other_descriptors_are_left_alone(stack, tmp_path):
    watched = Peers(stack, tmp_path / "watched")
    clients = [watched.connect() for _ in range(connections.MOST_PER_PROCESS)]
    events = EventLog(10)
    Connections([watched.name], events).trim()
    assert not any(map(ended, clients))
    assert events.after(0) == []
