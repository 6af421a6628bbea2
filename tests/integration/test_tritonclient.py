"""tritonclient, the protocol's reference client, used as its users use it. What is asked stands in its driver script.

It needs an older protobuf than edged, and so has an environment and a process of its own.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from support.daemon import PATIENCE_S, REPO, Daemon

from edged import __version__
from edged.types import Datatype

PYTHON = REPO / ".venv-tritonclient/bin/python"
DRIVER = REPO / "tests/tritonclient/driver.py"
MANY = 30

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="tritonclient is not installed: make .venv-tritonclient/.installed"
)


@pytest.fixture(scope="module")
def results(daemon: Daemon) -> Any:
    """What the driver found, by case."""
    done = subprocess.run(
        [PYTHON, DRIVER, daemon.socket, daemon.admin_socket],
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_S,
        cwd=daemon.root,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def same(datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"same": True, "shape": shape, "datatype": datatype}


@pytest.mark.parametrize("datatype", [str(each) for each in Datatype])
def test_arrays_come_back_to_the_bit(results: Any, datatype: str) -> None:
    assert results["round_trip"][datatype] == same(datatype, [2, 3])


@pytest.mark.parametrize("datatype", [str(each) for each in Datatype])
def test_an_empty_batch_comes_back_empty(results: Any, datatype: str) -> None:
    assert results["empty_batch"][datatype] == {"rows": 0, "bytes": 0}


SUM = same("FP32", [2, 3])
TENSORS = [{"name": name, "datatype": "FP32", "shape": ["-1", "3"]} for name in ("a", "b", "sum", "difference")]

ANSWERS = {
    "text_arrays": [["grüße", "", "🌍"], ["abc", "", "defgh"]],
    "no_batch_axis": same("FP32", [2, 3, 4]),
    "large_tensor": same("FP32", [8, 500_000]),
    "live": True,
    "ready": True,
    "model_ready": [True, True],
    "several_tensors": {"sum": SUM, "difference": SUM},
    "inputs_reversed": SUM,
    "named_outputs": {"order": ["difference", "sum"], "sum": SUM, "difference": SUM},
    "one_output": {"sum": SUM, "difference": None},
    "request_id_and_version": [
        "my-id",
        "unbatched",
        "3",
        {
            "edged_variant": {"string_param": "cpu"},
            "edged_level": {"string_param": "nominal"},
            "edged_degraded": {"bool_param": False},
        },
    ],
    "timeouts_that_are_kept": SUM,
    "compressed": {"gzip": SUM, "deflate": SUM},
    "own_parameters_and_headers": SUM,
    "callbacks": {
        "right": MANY,
        "result": None,
        "refused": {"status": "StatusCode.NOT_FOUND", "message": "there is no model 'nobody'; models here: "},
    },
    "plugin": True,
    "priorities": [True] * 4,
    "classes": {"shape": [2, 3], "same": True},
    "stream": {"right": MANY},
    "stream_errors": {"right": 2, "message": "there is no model 'nobody'", "status": None},
    "stream_errors_as_statuses": {
        "result": None,
        "message": "there is no model 'nobody'",
        "status": "StatusCode.NOT_FOUND",
    },
    "stream_cancelled": {"right": MANY},
    "cancelled": {"answered": True, "statuses": ["StatusCode.CANCELLED"]},
    "system_shared_memory": {"known": ["edged-driver"], "same": True, "left": {}},
    "statistics": {"rows": 2, "executions": 1, "success": 1, "models": len(Datatype) + 3},
    "not_carried_out": {
        case: {"status": "StatusCode.UNIMPLEMENTED", "message": f"{name} is not supported"}
        for case, name in (
            ("cuda status", "CudaSharedMemoryStatus"),
            ("cuda register", "CudaSharedMemoryRegister"),
            ("cuda unregister", "CudaSharedMemoryUnregister"),
            ("trace", "TraceSetting"),
            ("trace update", "TraceSetting"),
        )
    },
    "for_administrators": {
        case: {"status": "StatusCode.PERMISSION_DENIED", "message": message}
        for case, message in (
            ("index", "RepositoryIndex is answered on the admin socket only"),
            ("load", "RepositoryModelLoad is answered on the admin socket only"),
            ("unload", "RepositoryModelUnload is answered on the admin socket only"),
            ("log", "log settings are changed on the admin socket only"),
        )
    },
    "log_settings": {
        "log_level": {"string_param": "info"},
        "log_verbose_level": {"uint32_param": 0},
        "log_info": {"bool_param": True},
        "log_warning": {"bool_param": True},
        "log_error": {"bool_param": True},
        "log_file": {"string_param": ""},
        "log_format": {"string_param": "ISO8601"},
    },
    "repository": {
        "before": "READY",
        "unloaded": "UNAVAILABLE",
        "ready": False,
        "asked": {"status": "StatusCode.UNAVAILABLE", "message": "model 'unbatched' is unavailable"},
        "after": "READY",
        "answer": True,
        "override": {"status": "StatusCode.UNIMPLEMENTED", "message": "parameter 'config' is not supported"},
        "files": {"status": "StatusCode.UNIMPLEMENTED", "message": "parameter "},
    },
    "changed_log_settings": {"changed": {"string_param": "debug"}, "back": {"string_param": "info"}},
    "asynchronous_administration": {"unloaded": "UNAVAILABLE", "loaded": "READY", "log": True},
    "unused": {"threads": [], "asyncio": []},
    "asynchronous": {
        "live": True,
        "ready": True,
        "model ready": True,
        "server": "edged",
        "model": "sums",
        "right": MANY,
        "refused": "StatusCode.NOT_FOUND",
        "config": 8,
        "statistics": "sums",
        "log": "info",
        "not carried out": ["StatusCode.UNIMPLEMENTED"] * 5,
        "shared memory": ["edged-aio"],
        "stream": MANY,
    },
}


def matches(found: Any, wanted: Any) -> bool:
    """Equality, but that a message need only begin as it should."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(
            found[key].startswith(wanted[key]) if key == "message" else matches(found[key], wanted[key])
            for key in wanted
        )
    return bool(found == wanted)


@pytest.mark.parametrize("case", ANSWERS)
def test_what_is_asked_is_answered(results: Any, case: str) -> None:
    assert matches(results[case], ANSWERS[case]), results[case]


def test_every_case_of_the_driver_is_judged(results: Any) -> None:
    elsewhere = {
        "round_trip",
        "empty_batch",
        "server_metadata",
        "model_metadata",
        "model_metadata_of_a_version",
        "model_config",
        "refusals",
    }
    assert set(results) == set(ANSWERS) | elsewhere


def test_the_server_is_described(results: Any) -> None:
    found = results["server_metadata"]
    assert (found["name"], found["version"]) == ("edged", __version__)


def test_a_model_is_described(results: Any) -> None:
    found = results["model_metadata"]
    assert (found["name"], found["versions"]) == ("sums", ["1"])
    assert found["platform"].startswith("onnxruntime")
    assert found["inputs"] == TENSORS[:2]
    assert found["outputs"] == TENSORS[2:]
    assert results["model_metadata_of_a_version"]["versions"] == ["3"]


def test_a_model_is_configured(results: Any) -> None:
    found = results["model_config"]
    assert (found["name"], found["platform"], found["max_batch_size"]) == ("sums", "onnxruntime_onnx", 8)
    assert [each["name"] for each in found["input"]] == ["a", "b"]
    assert [(each["data_type"], each["dims"]) for each in found["output"]] == [("TYPE_FP32", ["3"])] * 2
    assert (found["dynamic_batching"]["priority_levels"], found["dynamic_batching"]["default_priority_level"]) == (
        "3",
        "2",
    )


INVALID = "StatusCode.INVALID_ARGUMENT"
NOT_FOUND = "StatusCode.NOT_FOUND"
UNIMPLEMENTED = "StatusCode.UNIMPLEMENTED"

REFUSALS = {
    "wrong rank": (INVALID, "model 'sums' got input 'a' with shape [3]; it takes [-1, 3]"),
    "wrong shape": (INVALID, "model 'sums' got input 'a' with shape [2, 4]; it takes [-1, 3]"),
    "wrong datatype": (INVALID, "model 'sums' got input 'a' as 'FP64'; it takes FP32"),
    "wrong name": (INVALID, "model 'sums' has no input 'c'; its inputs: a, b"),
    "missing input": (INVALID, "model 'sums' misses input 'b'; its inputs: a, b"),
    "too many rows": (INVALID, "model 'sums' got 9 rows; it takes at most 8 in one request"),
    "no text": (INVALID, "model 'identity-bytes', revision 1: input 'x': element 0 is not UTF-8 text"),
    "unknown output": (INVALID, "model 'sums' has no output 'product'; its outputs: sum, difference"),
    "unknown model": (NOT_FOUND, "there is no model 'nobody'"),
    "unknown version": (NOT_FOUND, "model 'sums' has no revision 2"),
    "no version": (INVALID, "model 'sums': 'latest' is no version"),
    "metadata of an unknown model": (NOT_FOUND, "there is no model 'nobody'"),
    "readiness of an unknown model": (NOT_FOUND, "there is no model 'nobody'"),
    "readiness of an unknown version": (NOT_FOUND, "model 'sums' has no revision 2"),
    "too late": ("StatusCode.DEADLINE_EXCEEDED", ""),  # in the words of whoever noticed first
    "sequence": (UNIMPLEMENTED, "parameter 'sequence_id' is not supported"),
    "classes of text": (INVALID, "model 'identity-bytes' was asked for classes of output 'y', which is BYTES"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_is_refused_in_words(results: Any, case: str) -> None:
    status, message = REFUSALS[case]
    found = results["refusals"][case]
    assert found["status"] == status
    assert found["message"].startswith(message)


def test_every_refusal_is_judged(results: Any) -> None:
    assert set(results["refusals"]) == set(REFUSALS)
