"""What `edgectl doctor` says of the engines: one that is not whole, and the one that the hardware class is for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import msgspec
import pytest
from support.edgetpus import build_library
from support.sound_device import NOW, find, in_class

from edged.config.load import load
from edged.ctl import engines
from edged.ctl.checkup import Subject
from edged.ctl.main import run
from edged.runtimes.base import ENGINES

ENGINES_BROKEN = [
    ("raise ImportError('libmissing.so.1: cannot open shared object file')", "libmissing.so.1"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
]


@pytest.mark.parametrize(("content", "why"), ENGINES_BROKEN, ids=["a library", "a crash"])
def test_an_engine_whose_libraries_are_missing_is_named(root: Path, tmp_path: Path, content: str, why: str) -> None:
    """Its package is installed, as far as the metadata goes; what is imported in its place is not whole."""
    broken = tmp_path / "broken/onnxruntime"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(content)
    done = subprocess.run(
        [sys.executable, "-m", "edged.ctl.main", "--root", root, "doctor", "--only", "engines"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(broken.parent)},
    )
    assert done.returncode == 1
    assert why in done.stdout
    assert "edged[onnxruntime]" in done.stdout


def test_packages_of_the_users_own_are_not_taken_for_the_images(root: Path, tmp_path: Path) -> None:
    """As the commands of the images that share their base's packages, edgectl is started without them."""
    shared = tmp_path / "venv"
    venv.create(shared, system_site_packages=True, symlinks=True)
    packages = next(shared.glob("lib/python3*/site-packages"))
    (packages / "edged.pth").write_text("\n".join(entry for entry in sys.path if entry))
    own, ran = tmp_path / "home" / packages.relative_to(shared), tmp_path / "ran"
    own.mkdir(parents=True)
    (own / "usercustomize.py").write_text(f"open({str(ran)!r}, 'w')")
    command = ["-m", "edged.ctl.main", "--root", root, "doctor", "--only", "engines"]
    done = subprocess.run(
        [shared / "bin/python", "-s", *command],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUSERBASE": str(tmp_path / "home")},
    )
    assert (done.returncode, done.stdout) == (0, "nothing is wrong\n"), done.stderr
    assert not ran.exists()


without_tensorrt = pytest.mark.skipif(ENGINES["tensorrt"].version() is not None, reason="TensorRT is installed")


@without_tensorrt
@pytest.mark.parametrize("name", ["factory-gateway-gpu", "jetson-vision-standard"])
def test_a_class_without_its_engine_is_told_where_that_comes_from(
    root: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    in_class(name)(root)
    assert run(["--root", str(root), "doctor", "--only", "engines", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["findings"]
    assert found["found"].startswith(f"the class {name} computes by tensorrt, which this Python does not find")
    assert found["remedy"].startswith("it comes with NVIDIA's base image")
    assert "pip install" not in found["remedy"]


@without_tensorrt
def test_a_model_whose_engine_no_extra_installs_is_told_where_that_comes_from(root: Path) -> None:
    manifest = root / "usr/share/edged/models/digits/1/manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"onnxruntime"', b'"tensorrt"'))
    (found,) = find(root)
    assert "the runtime tensorrt is not installed" in found.found
    assert found.remedy.startswith("tensorrt: it comes with NVIDIA's base image")


def test_engines_that_can_be_imported_are_no_finding(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--root", str(root), "doctor", "--only", "engines"]) == 0
    assert capsys.readouterr().out == "nothing is wrong\n"


@pytest.mark.skipif(ENGINES["edgetpu"].version() is None, reason="ai-edge-litert is not installed")
def test_the_library_for_an_edge_tpu_is_named_where_the_class_needs_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert list(engines.check(Subject(root, (), load(root).settings, NOW))) == []
    in_class("coral")(root)
    subject = Subject(root, (), load(root).settings, NOW)
    (found,) = engines.check(subject)
    assert "has no accelerator: libedgetpu.so.1: cannot open shared object file" in found.found
    assert found.remedy.startswith("install the library that is named in the image")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(build_library(tmp_path / "library")))
    assert list(engines.check(subject)) == []


def test_the_engine_of_the_class_is_named_where_it_is_not_installed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = msgspec.structs.replace(ENGINES["edgetpu"], distributions=("no-such-distribution-of-edged",))
    monkeypatch.setitem(ENGINES, "edgetpu", absent)
    in_class("coral")(root)
    (found,) = engines.check(Subject(root, (), load(root).settings, NOW))
    assert found.found.startswith("the class coral computes by edgetpu, which this Python does not find")
    assert found.remedy == "install it with: pip install 'edged[edgetpu]'"
