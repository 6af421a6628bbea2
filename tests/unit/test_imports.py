"""The shape of the code: imports point downward, an SDK has one place, files stay small, and one file renames files.

The checks read the sources, also inside functions and under TYPE_CHECKING. Each is shown to fail on sources made for
it.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

# Files by their path below the repository: `edged/rpc/server.py`.
Sources = dict[str, str]

# From the top down. A part may import those below it, never those beside it; a file straight in edged/ that is not
# named here lies on the ground floor, with _pb.
FLOORS = (
    ("__main__", "app", "fleet", "oshelper"),
    ("ctl",),
    ("rpc",),
    ("serving", "update", "telemetry", "pressure"),
    ("models",),
    ("worker", "bundle", "system"),
    ("runtimes", "config"),
)
GROUND = len(FLOORS)

# Who starts the composition root; nobody else may know it.
STARTS_APP = "edged/__main__.py"

# An SDK, and the files or folders that may import it; none: nobody.
SDKS = {
    "grpc": ("edged/rpc/", "edged/ctl/"),
    "grpc_health": ("edged/rpc/", "edged/ctl/"),
    "grpc_reflection": ("edged/rpc/", "edged/ctl/"),
    "paho": (*(f"edged/telemetry/{name}.py" for name in ("client", "connection", "mqtt", "packet")), "edged/fleet/"),
    "tuf": (*(f"edged/update/{name}.py" for name in ("trusted", "transport", "repository")), "edged/fleet/"),
    "urllib3": ("edged/update/transport.py",),
    "fastcdc": ("edged/fleet/",),
    "onnxruntime": ("edged/runtimes/onnxruntime.py",),
    "openvino": ("edged/runtimes/openvino.py",),
    "tensorrt": ("edged/runtimes/tensorrt.py",),
    "ai_edge_litert": ("edged/runtimes/edgetpu.py",),
    "pycoral": ("edged/runtimes/edgetpu.py",),
    "numpy": (
        *(
            f"edged/worker/{name}.py"
            for name in ("classes", "codec", "batch", "compare", "model", "observe", "samples", "host", "whole")
        ),
        "edged/runtimes/",
        "edged/ctl/",
    ),
    "pynvml": ("edged/pressure/sensors_nvml.py",),
    "onnx": (),
    "click": ("edged/ctl/", "edged/fleet/", "edged/__main__.py"),
    "rich": ("edged/ctl/", "edged/__main__.py"),
}

MAX_LINES = 400
RENAMES = "edged/durable.py"


def imported(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Every module that a file imports, with its line; `from a import b` gives `a.b`, which b may be."""
    package = path.removesuffix("/__init__.py").removesuffix(".py").split("/")
    if not path.endswith("/__init__.py"):
        package = package[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value)


def part(module: str, sources: Sources) -> str:
    """The package or file of edged that a module belongs to; the package itself for what it defines."""
    name = module.split(".")[1] if "." in module else ""
    known = {path.split("/")[1].removesuffix(".py") for path in sources} | {each for floor in FLOORS for each in floor}
    return name if name in known else "__init__"


def floor(name: str, sources: Sources) -> int:
    for number, names in enumerate(FLOORS):
        if name in names:
            return number
    assert name == "_pb" or f"edged/{name}.py" in sources, f"edged/{name} stands on no floor: add it to FLOORS"
    return GROUND


def imports_that_do_not_point_downward(sources: Sources) -> list[str]:
    found = []
    for path, source in sources.items():
        own = path.split("/")[1].removesuffix(".py")
        for line, module in imported(path, source):
            if module.partition(".")[0] != "edged":
                continue
            other = part(module, sources)
            both_on_the_ground = floor(own, sources) == floor(other, sources) == GROUND
            downward = floor(own, sources) < floor(other, sources)
            if not (own == other or both_on_the_ground or downward or (path, other) == (STARTS_APP, "app")):
                found.append(f"{path}:{line} imports {module}")
    return found


def sdks_out_of_their_place(sources: Sources) -> list[str]:
    return [
        f"{path}:{line} imports {module}"
        for path, source in sources.items()
        for line, module in imported(path, source)
        if (places := SDKS.get(module.partition(".")[0])) is not None and not path.startswith(places)
    ]


def long_files(sources: Sources) -> list[str]:
    return [
        f"{path} has {lines} lines"
        for path, source in sources.items()
        if (lines := len(source.splitlines())) > MAX_LINES and not path.startswith("edged/_pb/")
    ]


def renames(sources: Sources) -> list[str]:
    """Files renamed or moved elsewhere than in durable.py.

    `replace` with one argument is a path's: text takes two, and what copies structs or dates names its fields.
    """
    return [
        f"{path}:{line} {what}"
        for path, source in sources.items()
        if path != RENAMES
        for line, what in _renames(ast.parse(source))
    ]


def _renames(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("rename", "renames"):
            yield node.lineno, "renames"
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "os" and node.attr == "replace":
            yield node.lineno, "replaces"
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "shutil" and node.attr == "move":
            yield node.lineno, "moves"
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            names = {"rename", "renames", "replace", "move"}.intersection(alias.name for alias in node.names)
            yield from ((node.lineno, f"imports {name}") for name in sorted(names))
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "replace"
            and len(node.args) == 1
            and not node.keywords
        ):
            yield node.lineno, "replaces"


@pytest.fixture(scope="module")
def sources() -> Sources:
    found = {str(path.relative_to(REPO)): path.read_text() for path in (REPO / "edged").rglob("*.py")}
    assert len(found) > 50
    return found


class TestTheSources:
    def test_import_downward_only(self, sources):
        assert imports_that_do_not_point_downward(sources) == []

    def test_import_each_sdk_in_its_own_place(self, sources):
        assert sdks_out_of_their_place(sources) == []

    def test_are_small_files(self, sources):
        assert long_files(sources) == []

    def test_rename_files_in_one_place(self, sources):
        assert renames(sources) == []
        assert list(_renames(ast.parse(sources[RENAMES]))), "which does"

    def test_all_stand_on_a_floor(self, sources):
        for path in sources:
            floor(path.split("/")[1].removesuffix(".py"), sources)


# Everything that must be found, and by which check.
WRONG = {
    "one floor up": (imports_that_do_not_point_downward, "edged/serving/a.py", "from edged.rpc import server"),
    "many floors up": (imports_that_do_not_point_downward, "edged/config/a.py", "import edged.rpc.server"),
    "up from the ground": (imports_that_do_not_point_downward, "edged/clock.py", "from edged.config import load"),
    "up from generated code": (imports_that_do_not_point_downward, "edged/_pb/a.py", "import edged.rpc"),
    "beside it, in the middle": (
        imports_that_do_not_point_downward,
        "edged/serving/a.py",
        "from edged.telemetry import b",
    ),
    "beside it, below": (imports_that_do_not_point_downward, "edged/bundle/a.py", "from edged.worker import codec"),
    "beside it, at the bottom": (imports_that_do_not_point_downward, "edged/runtimes/a.py", "import edged.config"),
    "the operator's side": (imports_that_do_not_point_downward, "edged/ctl/a.py", "from edged.fleet import keys"),
    "beside it, at the top": (imports_that_do_not_point_downward, "edged/app.py", "from edged.fleet import keys"),
    "the composition root": (imports_that_do_not_point_downward, "edged/ctl/a.py", "from edged.app import App"),
    "the composition root, from below": (imports_that_do_not_point_downward, "edged/rpc/a.py", "from edged import app"),
    "the command line": (imports_that_do_not_point_downward, "edged/app.py", "import edged.__main__"),
    "inside a function": (
        imports_that_do_not_point_downward,
        "edged/models/a.py",
        "def f():\n    from edged.serving import service\n",
    ),
    "for types only": (
        imports_that_do_not_point_downward,
        "edged/models/a.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from edged.serving.service import Service\n",
    ),
    "a package by its name": (imports_that_do_not_point_downward, "edged/models/a.py", "from edged import serving"),
    "relatively": (imports_that_do_not_point_downward, "edged/models/a.py", "from ..serving import service"),
    "relatively, in a package": (
        imports_that_do_not_point_downward,
        "edged/models/__init__.py",
        "from ..rpc.server import Server",
    ),
    "by its name in a call": (
        imports_that_do_not_point_downward,
        "edged/models/a.py",
        "import importlib\nimportlib.import_module('edged.serving.service')\n",
    ),
    "grpc below rpc": (sdks_out_of_their_place, "edged/serving/a.py", "import grpc"),
    "a part of grpc": (sdks_out_of_their_place, "edged/app.py", "from grpc.aio import server"),
    "an engine in another's file": (sdks_out_of_their_place, "edged/runtimes/openvino.py", "import onnxruntime"),
    "an engine in the worker": (sdks_out_of_their_place, "edged/worker/host.py", "import onnxruntime"),
    "numpy at the front's end": (sdks_out_of_their_place, "edged/worker/process.py", "import numpy as np"),
    "numpy for types only": (
        sdks_out_of_their_place,
        "edged/serving/a.py",
        "if TYPE_CHECKING:\n    from numpy.typing import NDArray\n",
    ),
    "onnx": (sdks_out_of_their_place, "edged/ctl/a.py", "import onnx"),
    "click in the daemon": (sdks_out_of_their_place, "edged/system/a.py", "def f():\n    import click\n"),
    "a long file": (long_files, "edged/clock.py", "\n" * (MAX_LINES + 1)),
    "os.rename": (renames, "edged/clock.py", "import os\nos.rename('a', 'b')"),
    "os.renames": (renames, "edged/clock.py", "import os\nos.renames('a', 'b')"),
    "os.replace": (renames, "edged/clock.py", "import os\nos.replace('a', 'b')"),
    "os.replace, handed on": (renames, "edged/clock.py", "import os\nmap(os.replace, a, b)"),
    "from os": (renames, "edged/clock.py", "from os import replace as r\nr('a', 'b')"),
    "shutil.move": (renames, "edged/clock.py", "import shutil\nshutil.move('a', 'b')"),
    "Path.rename": (renames, "edged/clock.py", "def f(path):\n    path.rename('b')"),
    "Path.replace": (renames, "edged/clock.py", "def f(path):\n    path.with_name('a').replace(target)"),
}

# What looks like it, and is in order.
RIGHT = {
    "down": (imports_that_do_not_point_downward, "edged/rpc/a.py", "from edged.config.load import load"),
    "in the same package": (imports_that_do_not_point_downward, "edged/rpc/a.py", "from edged.rpc import server"),
    "on the ground": (imports_that_do_not_point_downward, "edged/clock.py", "from edged import log"),
    "what the package itself defines": (
        imports_that_do_not_point_downward,
        "edged/rpc/a.py",
        "from edged import __version__",
    ),
    "the root from the command line": (
        imports_that_do_not_point_downward,
        "edged/__main__.py",
        "def f():\n    from edged.app import App\n",
    ),
    "what is not edged": (imports_that_do_not_point_downward, "edged/clock.py", "import edgedlike.rpc, time"),
    "grpc in its place": (sdks_out_of_their_place, "edged/rpc/a.py", "import grpc"),
    "an engine in its file": (sdks_out_of_their_place, "edged/runtimes/openvino.py", "import openvino"),
    "our file called as an engine": (
        sdks_out_of_their_place,
        "edged/rpc/a.py",
        "import edged.runtimes.onnxruntime",
    ),
    "msgspec anywhere": (sdks_out_of_their_place, "edged/clock.py", "import msgspec"),
    "long generated code": (long_files, "edged/_pb/a.py", "\n" * (MAX_LINES + 1)),
    "a file of just so many lines": (long_files, "edged/clock.py", "\n" * MAX_LINES),
    "text": (renames, "edged/clock.py", "'a'.replace('b', 'c')"),
    "dates": (renames, "edged/clock.py", "now.replace(tzinfo=UTC)"),
    "structs": (renames, "edged/clock.py", "structs.replace(old, **changes)"),
    "durable.py": (renames, "edged/durable.py", "source.replace(target)"),
}

Check = Callable[[Sources], list[str]]


def made(path: str, source: str) -> Sources:
    """Sources with nothing else in them that matters."""
    return {f"edged/{name}.py": "" for name in ("__init__", "clock", "log")} | {path: source}


class TestTheChecks:
    @pytest.mark.parametrize(("check", "path", "source"), WRONG.values(), ids=WRONG)
    def test_find(self, check: Check, path, source):
        found = check(made(path, source))
        assert len(found) == 1
        assert found[0].startswith(path)

    @pytest.mark.parametrize(("check", "path", "source"), RIGHT.values(), ids=RIGHT)
    def test_let_pass(self, check: Check, path, source):
        assert check(made(path, source)) == []

    def test_do_not_let_a_package_pass_that_the_design_does_not_know(self):
        with pytest.raises(AssertionError, match="edged/helpers stands on no floor"):
            imports_that_do_not_point_downward(made("edged/helpers/a.py", "import edged.clock"))
