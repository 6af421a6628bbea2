"""Accepted commands: none is begun twice, none is forgotten before its answer was told."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.telemetry.messages import Command, Result
from edged.telemetry.orders import MOST, Accepted, Order
from edged.telemetry.spool import Spool
from edged.telemetry.spool_file import NAME


@contextlib.contextmanager
def spool_in(folder: Path) -> Iterator[Spool]:
    found = Spool(folder, 8 * 2**20, 1000)
    try:
        yield found
    finally:
        found.close()


def order(number: int = 0, expires_ms: int = 2000) -> Order:
    command = Command(
        schema=1,
        command="report",
        fleet="shops",
        issued_ms=1000,
        expires_ms=expires_ms,
        nonce=f"{number:016d}",
    )
    return Order(command=command, operator="alice", envelope=b"\x00signed", topics=("t",), correlation=b"\xff")


ANSWER = Result(device="till-7", nonce="0" * 16, command="report", status="done")


def test_an_order_is_taken_once_and_outlives_a_restart(tmp_path):
    with spool_in(tmp_path) as spool:
        assert spool.orders.accept(order(), 1000) is Accepted.NEW
        assert spool.orders.accept(order(), 1000) is Accepted.REPLAYED
    with spool_in(tmp_path) as spool:
        assert spool.orders.all() == [order()]
        spool.orders.end(order().command.nonce)
        assert spool.orders.all() == []
        assert spool.orders.accept(order(), 1000) is Accepted.REPLAYED, "its nonce is remembered all the same"


def test_a_clock_that_was_ahead_for_a_while_makes_no_room_for_replays(tmp_path):
    with spool_in(tmp_path) as spool:
        spool.orders.accept(order(1), 1000)
        spool.orders.accept(order(2, 10**13), 9 * 10**12)
        assert spool.orders.accept(order(1), 1000) is Accepted.REPLAYED


def test_what_has_ended_stays_so(tmp_path):
    with spool_in(tmp_path) as spool:
        spool.orders.accept(order(), 1000)
        spool.orders.end(order().command.nonce)
        spool.orders.change(order())
        assert spool.orders.all() == []


def test_those_that_wait_to_be_done_are_bounded_and_answers_make_room(tmp_path):
    import msgspec

    with spool_in(tmp_path) as spool:
        for number in range(MOST):
            assert spool.orders.accept(order(number), 1000) is Accepted.NEW
        assert spool.orders.accept(order(MOST), 1000) is Accepted.TOO_MANY
        spool.orders.change(msgspec.structs.replace(order(3), answer=ANSWER))
        assert spool.orders.accept(order(MOST), 1000) is Accepted.NEW
        numbers = [int(each.command.nonce) for each in spool.orders.all()]
        assert numbers == [each for each in range(MOST + 1) if each != 3]


def test_a_spool_of_an_older_release_gets_its_table(tmp_path):
    with spool_in(tmp_path):
        pass
    with sqlite3.connect(tmp_path / NAME) as database:
        database.execute("DROP TABLE orders")
    database.close()
    with spool_in(tmp_path) as spool:
        assert spool.orders.accept(order(), 1000) is Accepted.NEW


@pytest.mark.parametrize("document", [b"", b"{}", b"\xff" * 100])
def test_an_order_that_is_none_is_forgotten(tmp_path, document):
    with spool_in(tmp_path) as spool:
        spool.orders.accept(order(1), 1000)
        spool.orders.accept(order(2), 1000)
        spool._db.execute("UPDATE orders SET document = ? WHERE number = 1", (document,))
        assert [each.command.nonce for each in spool.orders.all()] == [order(2).command.nonce]
        assert len(spool.orders.all()) == 1
