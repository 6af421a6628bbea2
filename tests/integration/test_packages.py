"""The wheel and the sdist: what they hold, and that what they install runs outside the checkout."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.calls import request, tensor
from support.daemon import DIGITS, REPO, Daemon

from edged import __version__

OUTSIDE = {**os.environ, "PYTHONSAFEPATH": "1"}
OUTSIDE.pop("PYTHONPATH", None)


def run(*command: object, cwd: Path) -> str:
    words = [str(part) for part in command]
    done = subprocess.run(words, check=False, capture_output=True, text=True, cwd=cwd, env=OUTSIDE)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist of the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=REPO)
    return folder


@pytest.fixture(scope="module")
def sources(made: Path) -> Path:
    """The sdist, unpacked."""
    with tarfile.open(made / f"edged-{__version__}.tar.gz") as packed:
        packed.extractall(made / "sources", filter="data")
    return made / "sources" / f"edged-{__version__}"


def wheel_in(folder: Path) -> Path:
    (found,) = folder.glob("*.whl")
    return found


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as packed:
        return set(packed.namelist())


def installed(wheel: Path, folder: Path) -> Path:
    """An environment with a wheel in it and, from where the tests have them, what it needs; gives its programs."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python"]
    run(*pip, "install", "-q", "--no-deps", "--no-index", wheel, cwd=folder.parent)
    spec = importlib.util.find_spec("msgspec")
    assert spec is not None
    assert spec.origin is not None
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "needed.pth").write_text(f"{Path(spec.origin).parents[1]}\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def programs(made: Path) -> Path:
    """The wheel's."""
    return installed(wheel_in(made), made / "venv")


def test_the_wheel_has_the_package_and_nothing_else(made: Path) -> None:
    held = names(wheel_in(made))
    ours = {str(path.relative_to(REPO)) for path in (REPO / "edged").rglob("*.py*") if "__pycache__" not in path.parts}
    assert {name for name in held if not name.startswith("edged-")} == ours
    assert f"edged-{__version__}.dist-info/licenses/LICENSE" in held


def test_the_sdist_has_all_that_an_image_is_made_of(sources: Path) -> None:
    for name in ("protos/edged/v1/admin.proto", "systemd/install.sh", "bootc/Containerfile", "requirements.lock"):
        assert (sources / name).is_file(), name
    for kept in (REPO / "bootc/models/digits/1").iterdir():
        assert (sources / "bootc/models/digits/1" / kept.name).read_bytes() == kept.read_bytes()
    assert not [path for path in sources.rglob("*") if path.name.startswith(".venv") or path.name == "__pycache__"]


def test_the_sdist_makes_the_same_wheel(made: Path, sources: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=sources)
    assert names(wheel_in(tmp_path)) == names(wheel_in(made))


def test_the_commands_run(programs: Path, tmp_path: Path) -> None:
    assert run(programs / "edged", "--version", cwd=tmp_path) == f"edged {__version__}\n"
    assert "settings are good" in run(programs / "edged", "--check-config", "--root", tmp_path, cwd=tmp_path)
    assert "doctor" in run(programs / "edgectl", "--help", cwd=tmp_path)
    assert "--root" in run(programs / "python", "-I", "-m", "edged.oshelper", "--help", cwd=tmp_path)
    where = run(programs / "python", "-c", "import edged; print(edged.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(programs.parent)


def test_the_daemon_answers(programs: Path, tmp_path: Path) -> None:
    with Daemon(tmp_path, [DIGITS], interpreter=programs / "python").start(environment=OUTSIDE) as daemon:
        asked = request("digits", tensor("image", "FP32", [1, 1, 8, 8]), raw=[bytes(4 * 64)])
        answer = daemon.infer(asked)
        assert answer.model_version == "1"
        maps = Path(f"/proc/{daemon.pid}/cmdline").read_bytes().decode()
        assert str(programs) in maps
    assert str(REPO / "edged") not in daemon.log()


def test_an_image_can_be_laid_out_from_the_sdist(sources: Path, tmp_path: Path) -> None:
    (sources / "bootc/trust/root.json").write_text("{}")
    run("sh", sources / "systemd/install.sh", tmp_path / "image", "coral-usb", "factory-gateway-gpu", cwd=tmp_path)
    run("sh", sources / "bootc/install.sh", tmp_path / "image", cwd=tmp_path)
    units = tmp_path / "image/usr/lib/systemd/system"
    assert {path.name for path in units.glob("edged*.service")} >= {"edged.service", "edged-os.service"}
    assert (tmp_path / "image/usr/share/edged/models/digits/1/manifest.json").is_file()
    assert (units / "edged-nodes.service").is_file()
    for name in ("udev/rules.d/60-edged-coral-usb.rules", "sysusers.d/edged-coral-usb.conf", "edged/edged.toml"):
        assert (tmp_path / "image/usr/lib" / name).is_file(), name
    assert (tmp_path / "image/usr/share/edged/trust/root.json").is_file()
