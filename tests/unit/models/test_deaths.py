"""What ended a worker as it loaded, and what kept one from being started."""

from __future__ import annotations

import pytest

from edged.errors import Code, EdgedError
from edged.models.deaths import Deaths


@pytest.mark.parametrize(
    ("error", "crashes"),
    [
        (EdgedError(Code.WORKER_CRASHED, "killed by SIGSEGV"), 1),
        (EdgedError(Code.WORKER_HANG, "it loads for ever"), 1),
        (EdgedError(Code.STORAGE_FULL, "no room for what is built"), 0),
        (OSError("no more processes"), 0),
    ],
    ids=lambda each: getattr(each, "code", None),
)
def test_what_does_not_come_up_has_crashed_where_there_was_a_worker(error: EdgedError | OSError, crashes: int):
    deaths = Deaths()
    deaths.add_loading(error)
    assert (deaths.crashes, deaths.hangs, deaths.in_a_row) == (crashes, 0, 1)
    deaths.forgive()
    assert (deaths.crashes, deaths.in_a_row) == (crashes, 0)


@pytest.mark.parametrize("verdict", [None, EdgedError(Code.WORKER_CRASHED, "it takes too much")])
def test_what_ends_once_it_is_up_has_crashed_unless_it_hung(verdict: EdgedError | None):
    deaths = Deaths()
    deaths.add(verdict)
    deaths.add(EdgedError(Code.WORKER_HANG, "it does not answer"))
    assert (deaths.crashes, deaths.hangs, deaths.in_a_row) == (1, 1, 2)
