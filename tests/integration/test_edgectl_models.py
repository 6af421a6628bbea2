"""edgectl's commands that load, unload and count models, on a real daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from onnx import helper
from support import long_lived
from support.bundles import make_bundle, onnx_model
from support.calls import request, tensor
from support.daemon import PATIENCE_S, Daemon

X, Y = [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])]


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with `neg`, whose revision 2 serves and 1 is as good."""
    folder = tmp_path_factory.mktemp("edgectl-models")
    model = onnx_model([helper.make_node("Neg", ["x"], ["y"])], X, Y)
    bundles = [make_bundle(folder / str(each), model, X, Y, name="neg", revision=each) for each in (1, 2)]
    with Daemon(folder / "root", bundles) as daemon:
        daemon.start()
        long_lived.PROCESSES.add(daemon.pid)
        daemon.wait_for(lambda status: status.ready)
        ask(daemon)
        yield daemon
        long_lived.PROCESSES.discard(daemon.pid)


def ask(daemon: Daemon, rows: int = 1) -> str:
    """The revision that answers."""
    asked = request("neg", tensor("x", "FP32", [rows, 2]), raw=[bytes(8 * rows)])
    return str(daemon.infer(asked).model_version)


def edgectl(daemon: Daemon, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edged.ctl.main", "--root", str(daemon.root), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, **environment},
    )


def told(daemon: Daemon, *arguments: str) -> Any:
    done = edgectl(daemon, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_model_is_unloaded_and_loaded(shared_daemon: Daemon) -> None:
    done = edgectl(shared_daemon, "unload", "neg")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "neg revision 1 is unavailable: never loaded",
        "neg revision 2 is unavailable: somebody asked for that; `edgectl load neg` has it serve again",
    ]
    with pytest.raises(grpc.RpcError):
        ask(shared_daemon)
    assert "unavailable" in edgectl(shared_daemon, "models").stdout
    assert told(shared_daemon, "load", "neg")["models"][1] == {
        "name": "neg",
        "version": "2",
        "state": "READY",
        "reason": "",
    }
    assert ask(shared_daemon) == "2"


def test_another_revision_is_asked_for(shared_daemon: Daemon) -> None:
    done = edgectl(shared_daemon, "load", "neg", "--revision", "1")
    assert done.stdout.splitlines() == [
        "neg revision 1 is ready",
        "neg revision 2 is unavailable: revision 1 took its place",
    ]
    assert ask(shared_daemon) == "1"
    assert edgectl(shared_daemon, "load", "neg", "--revision", "2").returncode == 0
    assert ask(shared_daemon) == "2"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("load", "nobody"), 1, "there is no model 'nobody'; models here: neg (model_not_found)"),
        (("unload", "nobody"), 1, "there is no model 'nobody'; models here: neg (model_not_found)"),
        (("load", "neg", "--revision", "9"), 1, "model 'neg' has no revision 9 on this device; it has 1, 2 (revision"),
        (("stats", "nobody"), 1, "there is no model 'nobody'"),
        (("stats", "--revision", "2"), 2, "--revision wants a MODEL"),
        (("load", "neg", "--revision", "0"), 2, "0 is no whole number"),
    ],
)
def test_what_cannot_be_done_is_said(shared_daemon: Daemon, arguments: Any, status: int, said: str) -> None:
    done = edgectl(shared_daemon, *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr


def test_statistics_are_told(shared_daemon: Daemon) -> None:
    [before] = told(shared_daemon, "stats", "neg", "--revision", "2")["model_stats"]
    for _ in range(3):
        ask(shared_daemon, rows=5)
    [after] = told(shared_daemon, "stats", "neg", "--revision", "2")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 15
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 3
    done = edgectl(shared_daemon, "stats", "neg")
    lines = [line.split() for line in done.stdout.splitlines()]
    row = next(line for line in lines if line[:2] == ["neg", "2"])
    assert (row[2], row[4]) == (str(after["inference_count"]), str(after["inference_stats"]["success"]["count"]))
    assert [line[:3] for line in lines if line[:2] == ["2", "5"]] == [["2", "5", "3"]]
    assert "BATCH " not in edgectl(shared_daemon, "stats").stdout


def test_unloaded_models_are_offered_to_shells(shared_daemon: Daemon) -> None:
    edgectl(shared_daemon, "unload", "neg")
    done = edgectl(
        shared_daemon,
        _EDGECTL_COMPLETE="bash_complete",
        COMP_WORDS=f"edgectl --root {shared_daemon.root} load n",
        COMP_CWORD="4",
    )
    assert done.stdout.strip() == "plain,neg"
    edgectl(shared_daemon, "load", "neg")
