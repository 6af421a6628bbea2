"""Every error has a gRPC status, and the one that makes clients do the right thing."""

import grpc
import pytest

from edged.errors import Code
from edged.rpc import server
from edged.rpc.status import CODE_KEY, STATUS

# What clients and proxies do of their own accord when they see them.
RETRIED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
PASSING = {
    Code.MODEL_UNAVAILABLE,
    Code.OVERLOADED,
    Code.SHUTTING_DOWN,
    Code.WORKER_CRASHED,
    Code.WORKER_HANG,
    Code.NOT_RUNNING,
    Code.DOWNLOAD_FAILED,
}


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_status(code):
    assert isinstance(STATUS[code], grpc.StatusCode)


def test_the_table_has_nothing_else():
    assert set(STATUS) == set(Code)


def test_no_error_is_a_success_or_unknown():
    assert {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN}.isdisjoint(STATUS.values())


@pytest.mark.parametrize("code", Code)
def test_what_may_pass_is_told_so_that_clients_try_again_and_nothing_else_is(code):
    told_not_to = server._PUSHBACK_MS.get(code, "").startswith("-")
    assert (STATUS[code] in RETRIED and not told_not_to) is (code in PASSING)


def test_the_code_travels_under_a_key_that_metadata_allows():
    assert CODE_KEY.islower()
    assert not CODE_KEY.startswith("grpc-")
    assert not CODE_KEY.endswith("-bin")
