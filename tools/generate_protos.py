"""Regenerates `edged/_pb/` from `protos/`: message modules and their type stubs, without gRPC stubs.

    python tools/generate_protos.py            writes edged/_pb/
    python tools/generate_protos.py --check    writes nothing; names the files that differ; exits 1 if any do

The compiler writes absolute imports from the root of `protos/`; here they become imports from inside
`edged._pb`, so that nothing is claimed at the top level of `sys.path`. The names of the files in the
descriptors stay as they are under `protos/`: reflection shows them to clients.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path, PurePosixPath

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = REPOSITORY / "protos"
TARGET = REPOSITORY / "edged" / "_pb"
PACKAGE = "edged._pb"
INIT = '"""Generated from protos/ by tools/generate_protos.py. Do not edit."""\n'


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 0, or 1 where `--check` found a difference."""
    parser = argparse.ArgumentParser(description="Regenerates edged/_pb/ from protos/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file would change")
    parser.add_argument("--sources", type=Path, default=SOURCES, help="the root of the .proto files")
    parser.add_argument("--target", type=Path, default=TARGET, help="the folder of the generated package")
    options = parser.parse_args(arguments)

    generated = generate(options.sources)
    differing = differences(generated, options.target)
    if not options.check:
        write(generated, options.target)
        print(f"{options.target}: {len(generated)} files, {len(differing)} changed")
        return 0
    for line in differing:
        print(line, file=sys.stderr)
    if differing:
        print("run: python tools/generate_protos.py", file=sys.stderr)
    return 1 if differing else 0


def generate(sources: Path) -> dict[PurePosixPath, str]:
    """The text of every file of the package, by its path inside it.

    Raises subprocess.CalledProcessError when the compiler refuses the sources; stderr then has its reasons.
    """
    protos = sorted(path.relative_to(sources).as_posix() for path in sources.rglob("*.proto"))
    roots = {str(PurePosixPath(proto).parent).replace("/", ".") for proto in protos}
    with tempfile.TemporaryDirectory(prefix="edged-protos-") as folder:
        output = Path(folder)
        compile_protos(sources, protos, output)
        files = {
            PurePosixPath(path.relative_to(output)): inside_package(path.read_text("utf-8"), roots)
            for path in output.rglob("*.py*")
        }
    packages = {parent for path in files for parent in path.parents}
    return files | {package / "__init__.py": INIT for package in packages}


def compile_protos(sources: Path, protos: Iterable[str], output: Path) -> None:
    """Runs the compiler with the stub generator of this interpreter's environment."""
    stubs = Path(sysconfig.get_path("scripts")) / "protoc-gen-mypy"
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc"),
        f"--proto_path={sources}",
        f"--proto_path={resources.files('grpc_tools') / '_proto'}",
        f"--plugin=protoc-gen-mypy={stubs}",
        f"--python_out={output}",
        f"--mypy_out=quiet:{output}",
        *protos,
    ]
    subprocess.run(command, check=True)


def inside_package(text: str, roots: Iterable[str]) -> str:
    """Moves imports from `roots` and the module's name for itself into the package."""
    any_root = "|".join(re.escape(root) for root in sorted(roots))
    text = re.sub(rf"^from (?={any_root} import )", f"from {PACKAGE}.", text, flags=re.MULTILINE)
    return re.sub(rf"(?<=\(DESCRIPTOR, ')(?=(?:{any_root})\.\w+_pb2', _globals\))", f"{PACKAGE}.", text)


def differences(generated: dict[PurePosixPath, str], target: Path) -> list[str]:
    """One line for each file of the package that is not what it should be."""
    found = {PurePosixPath(path.relative_to(target)): path for path in package_files(target)}
    lines = []
    for path in sorted(generated.keys() | found.keys()):
        if path not in generated:
            lines.append(f"{target / path}: is generated from nothing")
        elif path not in found:
            lines.append(f"{target / path}: is missing")
        elif found[path].read_bytes() != generated[path].encode():
            lines.append(f"{target / path}: differs from what protos/ says")
    return lines


def write(generated: dict[PurePosixPath, str], target: Path) -> None:
    """Makes the package hold the generated files and no others."""
    for path in package_files(target):
        if PurePosixPath(path.relative_to(target)) not in generated:
            path.unlink()
    for name, text in generated.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


def package_files(target: Path) -> Iterator[Path]:
    """The files of the package as they are, but for what the interpreter caches."""
    return (path for path in target.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


if __name__ == "__main__":
    sys.exit(main())
