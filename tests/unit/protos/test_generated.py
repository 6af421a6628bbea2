"""`edged/_pb` is what tools/generate_protos.py makes of `protos/`, and it can be imported anywhere."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[3]
TOOL = REPOSITORY / "tools" / "generate_protos.py"
GENERATED = REPOSITORY / "edged" / "_pb"

MODULES = {
    "edged._pb.inference.grpc_service_pb2": "inference/grpc_service.proto",
    "edged._pb.inference.model_config_pb2": "inference/model_config.proto",
    "edged._pb.edged.v1.admin_pb2": "edged/v1/admin.proto",
    "edged._pb.edged.v1.update_pb2": "edged/v1/update.proto",
    "edged._pb.edged.v1.telemetry_pb2": "edged/v1/telemetry.proto",
}

Tree = dict[str, bytes]


def read(folder: Path) -> Tree:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_protos", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generated(tool: ModuleType) -> dict[object, str]:
    """What should stand in edged/_pb."""
    made: dict[object, str] = tool.generate(REPOSITORY / "protos")
    return made


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of edged/_pb that may be damaged."""
    return Path(shutil.copytree(GENERATED, tmp_path / "_pb", ignore=shutil.ignore_patterns("__pycache__")))


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_edged_pb_is_what_the_protos_say() -> None:
    done = subprocess.run([sys.executable, TOOL, "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", sorted(read(GENERATED)))
def test_one_changed_byte_is_reported_with_the_name_of_its_file(
    tool: ModuleType, copy: Path, name: str, generated: dict[object, str]
) -> None:
    change_a_byte(copy / name)
    assert tool.differences(generated, copy) == [f"{copy / name}: differs from what protos/ says"]


@pytest.mark.parametrize(
    ("damage", "name", "complaint"),
    [
        (change_a_byte, "edged/v1/admin_pb2.py", "differs from what protos/ says"),
        (Path.unlink, "inference/grpc_service_pb2.pyi", "is missing"),
        (Path.touch, "inference/gone_pb2.py", "is generated from nothing"),
    ],
    ids=["a changed byte", "a missing file", "a stray file"],
)
def test_check_fails_and_leaves_alone_what_generating_then_repairs(
    tool: ModuleType,
    copy: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    name: str,
    complaint: str,
) -> None:
    damage(copy / name)
    damaged = read(copy)

    assert tool.main(["--check", "--target", str(copy)]) == 1
    assert capsys.readouterr().err.splitlines()[:-1] == [f"{copy / name}: {complaint}"]
    assert read(copy) == damaged

    assert tool.main(["--target", str(copy)]) == 0
    assert read(copy) == read(GENERATED)


def test_a_changed_proto_is_reported_with_the_names_of_the_files_that_come_of_it(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = Path(shutil.copytree(REPOSITORY / "protos", tmp_path / "protos"))
    admin = sources / "edged" / "v1" / "admin.proto"
    text = admin.read_text()
    admin.write_text(text.replace("string hardware_class = 9;", "string hardware_kind = 9;"))
    assert admin.read_text() != text

    assert tool.main(["--check", "--sources", str(sources)]) == 1
    said = [line.partition(": ")[0] for line in capsys.readouterr().err.splitlines()[:-1]]
    assert said == [str(GENERATED / "edged/v1" / name) for name in ("admin_pb2.py", "admin_pb2.pyi")]


def test_every_proto_has_its_module_and_its_stubs_and_there_are_no_grpc_stubs() -> None:
    modules = {f"{proto.removesuffix('.proto')}_pb2" for proto in MODULES.values()}
    packages = {"", "inference/", "edged/", "edged/v1/"}
    assert set(read(GENERATED)) == (
        {f"{module}.py" for module in modules}
        | {f"{module}.pyi" for module in modules}
        | {f"{package}__init__.py" for package in packages}
    )
    protos = REPOSITORY / "protos"
    assert {path.relative_to(protos).as_posix() for path in protos.rglob("*.proto")} == set(MODULES.values())


@pytest.mark.parametrize("name", sorted(read(GENERATED)))
def test_imports_reach_protobuf_the_standard_library_and_edged_pb_only(name: str) -> None:
    for node in ast.walk(ast.parse((GENERATED / name).read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names):
                imported = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), level=0):
                imported = [module]
            case ast.ImportFrom():
                pytest.fail(f"line {node.lineno}: a relative import")
            case _:
                continue
        for module in imported:
            allowed = module.partition(".")[0] in {*sys.stdlib_module_names, "typing_extensions"}
            assert allowed or module.startswith(("google.protobuf", "edged._pb.")), module


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_imported_without_a_warning_and_without_grpc(module: str, tmp_path: Path) -> None:
    program = f"import sys, {module}; sys.exit('grpc' in sys.modules)"
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("module", "proto"), MODULES.items())
def test_reflection_shows_a_file_by_its_path_under_protos(module: str, proto: str) -> None:
    assert importlib.import_module(module).DESCRIPTOR.name == proto


@pytest.mark.parametrize("module", MODULES)
def test_a_message_says_in_which_module_it_is(module: str) -> None:
    namespace = importlib.import_module(module)
    messages = [getattr(namespace, name) for name in namespace.DESCRIPTOR.message_types_by_name]
    assert {message.__module__ for message in messages} == {module}
