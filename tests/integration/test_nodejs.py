"""A client in JavaScript, which shares no code with edged's own gRPC library. What it does stands in its script."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.daemon import PATIENCE_S, REPO, Daemon

from edged import __version__

FOLDER = REPO / "tests/nodejs"
HELD_OUT = REPO / "tests/data/digits-heldout.npz"

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(
        not (FOLDER / "node_modules/@grpc/grpc-js").exists(),
        reason="gRPC for node is not installed: make tests/nodejs/node_modules/.installed",
    ),
]


@pytest.fixture(scope="module")
def results(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the client found."""
    pixels: Path = tmp_path_factory.mktemp("nodejs") / "pixels"
    pixels.write_bytes(digit()[0].tobytes())
    done = subprocess.run(
        ["node", FOLDER / "client.js", daemon.socket, pixels], capture_output=True, text=True, timeout=2 * PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def digit() -> tuple[Any, int]:
    """An image that no model was trained on, and what it shows."""
    with np.load(HELD_OUT) as held_out:
        return (held_out["images"][0] / 16).astype("<f4"), int(held_out["labels"][0])


def test_the_server_answers_for_itself(results: Any) -> None:
    assert results["live"] == {"live": True}
    assert results["ready"] == {"ready": True}
    assert (results["server"]["name"], results["server"]["version"]) == ("edged", __version__)


def test_a_model_is_described(results: Any) -> None:
    model = results["model"]
    assert results["modelReady"] == {"ready": True}
    assert (model["name"], model["versions"]) == ("digits", ["1"])
    assert model["inputs"] == [{"name": "image", "datatype": "FP32", "shape": ["-1", "1", "8", "8"]}]
    assert model["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": ["-1", "10"]}]


def test_a_digit_is_recognised(results: Any) -> None:
    answer = results["answer"]
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("digits", "1", "node-1")
    assert [(output["name"], output["shape"]) for output in answer["outputs"]] == [("scores", ["1", "10"])]
    [scores] = answer["raw_output_contents"]
    assert max(range(10), key=scores.__getitem__) == digit()[1]
    assert answer["parameters"]["edged_variant"]["string_param"] == "fp32"


def test_typed_contents_are_the_same_as_raw(results: Any) -> None:
    assert results["typedIsTheSame"] is True


def test_numbers_beyond_those_of_javascript_are_exact(results: Any) -> None:
    assert results["exact"] == [["9007199254740993", "-9007199254740993"]]


def test_health_is_told(results: Any) -> None:
    assert results["health"] == {
        "server": {"status": "SERVING"},
        "model": {"status": "SERVING"},
        "unknown": {
            "status": "NOT_FOUND",
            "code": "model_not_found",
            "message": "there is no service or model 'nobody'; leave it empty for the server",
        },
        "watched": "SERVING",
    }


REFUSALS = {
    "model": ("NOT_FOUND", "model_not_found", "there is no model 'nobody'"),
    "shape": ("INVALID_ARGUMENT", "invalid_tensor", "model 'digits' got input 'image' with shape [1, 64]"),
    "bytes": ("INVALID_ARGUMENT", "invalid_tensor", "model 'digits' got input 'image' with 255 bytes"),
    "parameter": ("UNIMPLEMENTED", "unsupported", "parameter 'sequence_id' is not supported"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_has_a_status_a_code_and_words(results: Any, case: str) -> None:
    status, code, message = REFUSALS[case]
    found = results["refusals"][case]
    assert (found["status"], found["code"]) == (status, code)
    assert found["message"].startswith(message)
