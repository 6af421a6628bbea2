"""docs/protocol.md says what is so: its names and numbers are the code's, and its retry policy works."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from pathlib import Path
from typing import Any, get_args

import grpc
import pytest
from support.polling import PATIENCE_S

from edged._pb.inference import grpc_service_pb2 as pb
from edged.config.settings import Settings
from edged.errors import Code, EdgedError
from edged.log import Level as LogLevel
from edged.log import Levels
from edged.rpc import (
    answer,
    bounds,
    contents,
    health,
    inference,
    log_settings,
    parameters,
    reflection,
    server,
    stream,
)
from edged.rpc.status import STATUS
from edged.serving.admission import MAX_TEXTS
from edged.serving.request import Answer
from edged.types import Datatype, Level

PAGE = (Path(__file__).resolve().parents[2] / "docs/protocol.md").read_text()


def section(heading: str) -> str:
    """What stands under a heading, in one line."""
    return " ".join(PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0].split())


def words(text: str) -> set[str]:
    """All that is set as code."""
    return set(re.findall(r"`([^`]+)`", text))


def test_the_calls_are_those_that_are_served(daemon: Any):
    """Each is known, on both sockets: what is refused is refused by edged, and not by gRPC for want of a method."""
    names = set(pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name)
    assert names <= words(section("Calls"))
    for name, admin in itertools.product(names, (False, True)):
        call = daemon.channel(admin=admin).stream_stream(f"/{inference.SERVICE}/{name}")(
            iter([b""]), timeout=PATIENCE_S
        )
        with contextlib.suppress(grpc.RpcError):
            list(call)
        assert "Method not found" not in call.details()


def test_what_is_not_carried_out_is_what_the_page_says():
    [row] = [line for line in PAGE.splitlines() if "not carried out" in line]
    assert words(row) - {"unsupported"} == set(inference._NOT_CARRIED_OUT)


def test_the_log_settings_are_those_that_are_shown():
    named = words(section("Log settings"))
    assert set(log_settings.shown(Levels())) <= named
    assert set(get_args(LogLevel)) <= named


def test_the_bounds_of_streams_are_the_codes():
    page = section("Streams")
    assert f"{stream._MAX_UNDER_WAY} requests under way" in page
    assert f"{stream._SPARE_BYTES // 2**10} KiB more than" in page
    assert f"fit in {stream._HELD_BYTES // 2**20} MiB, and" in page
    assert f"count {stream._HELD_BYTES_IN_ALL // 2**21} MiB at most" in page
    assert f"or {stream._HELD_BYTES_IN_ALL // 2**20} MiB of all" in page


def test_the_bound_of_watches_is_the_codes():
    assert f"keeps {health._MOST_WATCHES} watches" in section("Health and reflection")


def test_the_table_of_tensors_is_what_is_read():
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if re.match(r"\| [A-Z]", line)]
    sizes = {
        datatype: size
        for datatypes, _, raw in rows
        for datatype, size in zip(datatypes.split(", "), re.findall(r"\d+", raw.split(" byte")[0]) * 2, strict=False)
    }
    assert sizes == {str(each): str(each.size or 4) for each in Datatype}
    fields = {
        datatype: fields[min(at, len(fields) - 1)] if (fields := re.findall(r"`(\w+)`", typed)) else None
        for datatypes, typed, _ in rows
        for at, datatype in enumerate(datatypes.split(", "))
    }
    assert fields == dict.fromkeys(Datatype) | {
        datatype: field for field, datatypes in contents._TYPED.values() for datatype in datatypes
    }


def test_the_bounds_are_the_codes():
    tensors = section("Tensors")
    assert f"BYTES inputs of a request have {MAX_TEXTS:,} elements at most" in tensors
    assert f"{contents._MAX_VARINT_BYTES:,} bytes at most" in tensors
    assert f"{bounds.MAX_FIELDS:,} protobuf fields at most" in tensors
    varints = {name for number, (name, _) in contents._TYPED.items() if number not in (*contents._SIZES, 8)}
    [sentence] = re.findall(r"All (.*?) of a request have", tensors)
    assert words(sentence) == varints
    assert f"{Settings().listen.max_message_mib} MiB by default" in section("Sizes")
    assert f"while {server._MAX_CALLS:,} calls are under way" in section("When it is busy")


def test_the_parameters_are_those_that_are_given_and_refused():
    page = section("Parameters")
    assert {*parameters._UNSUPPORTED, *parameters.RESERVED, Level.NOMINAL} <= words(page)
    assert f"{parameters._MAX_CLASSES:,} at most" in page
    written = answer.write_answer(Answer("m", 1, "v", False, (), review=True), "", Level.NOMINAL)
    given = pb.ModelInferResponse.FromString(written).parameters
    assert {name for name in words(page) if name.startswith("edged_")} == {*given, parameters.SYNTHETIC}


def test_every_setting_service_and_code_that_it_names_is_there():
    settings = Settings()
    for name in words(PAGE):
        if re.fullmatch(r"(listen|serving)\.\w+", name):
            table, key = name.split(".")
            assert hasattr(getattr(settings, table), key), name
    assert {"", inference.SERVICE, health.SERVICE, *reflection.SERVICES} - {""} <= words(
        section("Health and reflection")
    )
    codes = set(re.findall(r"\[`(\w+)`\]", PAGE))
    assert codes
    for code in codes:
        assert Code(code) in STATUS
    for status, code in re.findall(r"\b([A-Z]+_?[A-Z]+) \[`(\w+)`\]", PAGE):
        assert STATUS[Code(code)].name == status


class Busy:
    """A server whose queue is full for the first attempts."""

    def __init__(self, full: int) -> None:
        self.attempts = 0
        self._full = full

    async def infer(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        self.attempts += 1
        if self.attempts <= self._full:
            raise EdgedError(Code.OVERLOADED, "the queue is full", "try again later")
        return data[:1]


def options(*, buffer: bool) -> list[tuple[str, Any]]:
    """What the page tells clients to set."""
    [config] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    [code] = re.findall(r"```python\n(options = .*?)\n", PAGE)
    scope: dict[str, Any] = {"config": json.dumps(json.loads(config))}
    exec(code, scope)
    found: list[tuple[str, Any]] = scope["options"]
    return found if buffer else found[:1]


@pytest.mark.parametrize(
    ("full", "size", "buffer", "attempts"),
    [
        pytest.param(0, 10, False, 1, id="not busy"),
        pytest.param(4, 10, False, 5, id="busy"),
        pytest.param(5, 10, False, 5, id="busy for too long"),
        pytest.param(2, 1024 * 1024, False, 1, id="a large request without the second option"),
        pytest.param(2, 1024 * 1024, True, 3, id="a large request"),
    ],
)
async def test_the_retry_policy_retries(
    tmp_path_factory: pytest.TempPathFactory, full: int, size: int, buffer: bool, attempts: int
):
    socket = tmp_path_factory.mktemp("s") / "s"
    busy = Busy(full)
    serving = server.Server({inference.SERVICE: {"ModelInfer": server.unary(busy.infer)}}, 8 * 1024 * 1024)
    serving.add_socket(socket)
    await serving.start()
    async with grpc.aio.insecure_channel(f"unix:{socket}", options(buffer=buffer)) as channel:
        call = channel.unary_unary(f"/{inference.SERVICE}/ModelInfer")(b"x" * size, timeout=PATIENCE_S)
        status = await call.code()
    await serving.stop(PATIENCE_S)  # a call that was answered is still on its way out
    assert busy.attempts == attempts
    assert (status is grpc.StatusCode.OK) is (attempts > full)
