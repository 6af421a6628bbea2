"""The table of engines, and what is the same for all of them."""

from __future__ import annotations

import importlib
import re
import sys
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path, PurePath

import pytest

from edged.errors import Code, EdgedError
from edged.runtimes.base import ENGINES, Engine, cannot_derive, load_deriving, load_runtime, signature_problems
from edged.types import Datatype, TensorSpec


def test_engines_are_known_by_their_names():
    assert {name: engine.name for name, engine in ENGINES.items()} == {name: name for name in ENGINES}
    assert "onnxruntime" in ENGINES


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_is_installed_by_an_extra_that_there_is_or_says_where_it_comes_from(name):
    engine = ENGINES[name]
    assert bool(engine.extra) != bool(engine.origin)
    assert engine.origin or engine.extra in metadata.metadata("edged").get_all("Provides-Extra")
    assert engine.module.startswith("edged.runtimes.")
    assert engine.distributions


CLASSES = Path(__file__).parents[3] / "systemd/classes"


@pytest.mark.parametrize("name", ["factory-gateway-gpu", "jetson-vision-standard"])
def test_workers_of_tensorrt_may_use_the_nodes_that_the_unit_gives_the_daemon(name):
    nodes = re.findall(
        r"^DeviceAllow=(?:(/dev/\S+)|char-(nvidia-\w+))", (CLASSES / f"{name}.conf").read_text(), re.MULTILINE
    )
    wanted = [path or f"/dev/{kind}" for path, kind in nodes if kind != "nvidia-frontend"]  # which names no node
    assert wanted
    given = ENGINES["tensorrt"].devices
    assert [
        node for node in wanted if not any(PurePath(node).is_relative_to(g) or fnmatch(node, g) for g in given)
    ] == []


def test_onnxruntimes_telemetry_is_off_before_it_is_imported():
    assert ENGINES["onnxruntime"].environment == {"ORT_DISABLE_TELEMETRY": "1"}


def test_a_version_is_found_without_an_import(monkeypatch):
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    assert ENGINES["onnxruntime"].version() == metadata.version("onnxruntime")
    assert "onnxruntime" not in sys.modules


@pytest.mark.parametrize(
    ("distributions", "version"),
    [
        ((), None),
        (("no-such-distribution-of-edged",), None),
        (("no-such-distribution-of-edged", "msgspec"), metadata.version("msgspec")),
        (("msgspec", "click"), metadata.version("msgspec")),
    ],
)
def test_any_of_its_distributions_brings_an_engine(distributions, version):
    assert Engine("abacus", "edged.runtimes.abacus", distributions, "abacus", {}).version() == version


def test_a_runtime_is_its_module():
    assert load_runtime("onnxruntime") is importlib.import_module("edged.runtimes.onnxruntime")


@pytest.mark.parametrize("name", ["", "abacus", "ONNXRuntime", "base"])
def test_an_unknown_runtime_is_told_with_those_there_are(name):
    with pytest.raises(EdgedError) as caught:
        load_runtime(name)
    assert caught.value.code is Code.INCOMPATIBLE_RUNTIME
    assert caught.value.message == f"runtime {name!r} does not exist here"
    assert caught.value.hint == f"there are: {', '.join(ENGINES)}"


@pytest.mark.parametrize(
    ("name", "package", "hint"),
    [
        ("onnxruntime", "onnxruntime", "install it with: pip install 'edged[onnxruntime]'"),
        ("tensorrt", "tensorrt", ENGINES["tensorrt"].origin),
    ],
)
def test_a_runtime_that_is_not_installed_is_told_with_what_brings_it(monkeypatch, name, package, hint):
    monkeypatch.delitem(sys.modules, ENGINES[name].module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
    with pytest.raises(EdgedError) as caught:
        load_runtime(name)
    assert caught.value.code is Code.INCOMPATIBLE_RUNTIME
    assert caught.value.message.startswith(f"runtime {name!r} cannot be imported: ")
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("declared", "actual", "problems"),
    [
        ([], [], []),
        ([("x", "FP32", [-1, 3])], [("x", "FP32", [-1, 3])], []),
        ([("x", "FP32", [-1, 3])], [("x", "FP32", [-1, -1])], []),
        ([("x", "FP32", [4, 3])], [("x", "FP32", [-1, -1])], []),
        ([("x", "FP32", [])], [("x", "FP32", [])], []),
        ([("y", "FP32", []), ("x", "INT8", [])], [("x", "INT8", []), ("y", "FP32", [])], []),
        ([("x", "FP32", [-1, 3])], [], ["tensor 'x' is declared, the model has: "]),
        (
            [("X", "FP32", [3])],
            [("x", "FP32", [3]), ("a", "FP32", [3])],
            ["tensor 'X' is declared, the model has: a, x"],
        ),
        ([("x", "FP32", [3])], [("x", "FP16", [3])], ["tensor 'x' is declared FP32, the model has FP16"]),
        ([("x", "FP32", [3])], [("x", "FP16", [4])], ["tensor 'x' is declared FP32, the model has FP16"]),
        ([("x", "FP32", [3])], [("x", "FP32", [4])], ["tensor 'x' is declared [3], the model has [4]"]),
        ([("x", "FP32", [-1])], [("x", "FP32", [4])], ["tensor 'x' is declared [-1], the model has [4]"]),
        ([("x", "FP32", [-1, 3])], [("x", "FP32", [1, 3])], ["tensor 'x' is declared [-1, 3], the model has [1, 3]"]),
        ([("x", "FP32", [3])], [("x", "FP32", [3, 1])], ["tensor 'x' is declared [3], the model has [3, 1]"]),
        ([("x", "FP32", [1])], [("x", "FP32", [])], ["tensor 'x' is declared [1], the model has []"]),
        (
            [("x", "FP32", [3]), ("y", "FP32", [3])],
            [("x", "INT8", [3]), ("z", "FP32", [3])],
            [
                "tensor 'x' is declared FP32, the model has INT8",
                "tensor 'y' is declared, the model has: x, z",
            ],
        ),
    ],
)
def test_where_a_declaration_is_not_the_models_own(declared, actual, problems):
    found = signature_problems(_specs(declared), _specs(actual), "tensor", all_wanted=False)
    assert found == problems


@pytest.mark.parametrize(("all_wanted", "problems"), [(False, []), (True, ["input 'y' of the model is not declared"])])
def test_what_is_not_declared_matters_where_all_is_wanted(all_wanted, problems):
    actual = _specs([("x", "FP32", [3]), ("y", "FP32", [3])])
    assert signature_problems(actual[:1], actual, "input", all_wanted=all_wanted) == problems


def _specs(tensors: list[tuple[str, str, list[int]]]) -> list[TensorSpec]:
    return [TensorSpec(name, Datatype(datatype), tuple(shape)) for name, datatype, shape in tensors]


def test_an_engine_that_builds_nothing_is_not_asked_to():
    assert [name for name, engine in ENGINES.items() if engine.derives] == ["openvino", "tensorrt"]
    with pytest.raises(EdgedError) as caught:
        load_deriving("onnxruntime")
    assert str(caught.value) == str(cannot_derive("onnxruntime"))
    assert caught.value.code is Code.INCOMPATIBLE_RUNTIME
    assert "runtime 'onnxruntime'" in caught.value.message
    assert caught.value.hint == "leave `derived` out, or use a runtime that builds: openvino, tensorrt"
