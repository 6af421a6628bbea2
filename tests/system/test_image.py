"""The image: built of its Containerfile, checked, booted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from support import image
from support.container import Container
from support.daemon import REPO, add_bundle
from support.edgetpus import build_library, bundle_of_one_variant
from support.fleets import make_fleet
from support.image import Images

from edged.bundle.folder import pack

pytestmark = pytest.mark.skipif(bool(image.missing()), reason=image.missing() or "it can be built")

HADOLINT = Path(sysconfig.get_path("scripts")) / "hadolint"
CHECK = REPO / "bootc/check_image.py"
PLAIN = REPO / "bootc/container/Containerfile"

# Those with an engine of their own need the wheels of that engine, which are large.
OPENVINO = REPO / "bootc/overlays/intel-lowpower-detector.Containerfile"
CORAL = REPO / "bootc/overlays/coral.Containerfile"
OVERLAYS = [path for path in sorted((REPO / "bootc/overlays").glob("*.Containerfile")) if path not in (OPENVINO, CORAL)]

NVIDIA = [REPO / f"bootc/overlays/{name}.Containerfile" for name in ("factory-gateway-gpu", "jetson-vision-standard")]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an image is built from, with the root of trust of a fleet."""
    folder = tmp_path_factory.mktemp("image")
    return image.build_context(folder / "context", make_fleet(folder / "shops").root)


@pytest.fixture(scope="module")
def images(context: Path) -> Iterator[Images]:
    """A store with `localhost/edged` in it."""
    store = image.store()
    try:
        store.make_base("localhost/base")
        store.build(REPO / "bootc/Containerfile", "localhost/edged", context=context, BASE="localhost/base")
        yield store
    finally:
        store.remove()


@pytest.fixture(scope="module")
def root(images: Images) -> Path:
    """What is in the image."""
    return images.mount("localhost/edged")


@pytest.fixture(scope="module")
def plain(images: Images) -> Path:
    """What is in the plain container, `localhost/plain`."""
    images.build(PLAIN, "localhost/plain", BASE="localhost/base")
    return images.mount("localhost/plain")


def check(root: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, CHECK, root], check=False, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_the_image_passes_its_own_check(root: Path) -> None:
    assert check(root) == (0, "no fault found\n")


def test_what_devices_believe_and_start_from_lies_below_usr(images: Images, root: Path, context: Path) -> None:
    trust = root / "usr/share/edged/trust/root.json"
    assert trust.read_bytes() == (context / "bootc/trust/root.json").read_bytes()
    assert (root / "usr/lib/edged/edged.toml").read_bytes() == (REPO / "bootc/edged.toml").read_bytes()
    assert built(root) == datetime.fromtimestamp(int(image.EPOCH), UTC)
    labels = json.loads(images.buildah("inspect", "--type=image", "localhost/edged"))["OCIv1"]["config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == image.VERSION


def built(root: Path) -> datetime:
    return datetime.fromisoformat((root / "usr/lib/edged/built").read_text().strip())


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    """Of everything in an image: kind and permissions, owners, time, and what it holds."""
    found: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        about = path.lstat()
        held = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (about.st_mode, about.st_uid, about.st_gid, int(about.st_mtime), held)
    return found


def differences(one: Path, other: Path) -> list[str]:
    first, again = listing(one), listing(other)
    return sorted(name for name in first.keys() | again.keys() if first.get(name) != again.get(name))


def test_the_same_commit_makes_the_same_image(images: Images, root: Path, context: Path) -> None:
    images.build(REPO / "bootc/Containerfile", "localhost/again", context=context, BASE="localhost/base")
    assert differences(root, images.mount("localhost/again")) == []


def test_the_same_commit_makes_the_same_overlay(images: Images) -> None:
    for name in ("localhost/cart", "localhost/cart-again"):
        images.build(REPO / "bootc/overlays/medical-cart-cpu.Containerfile", name, EDGED="localhost/edged")
    assert differences(images.mount("localhost/cart"), images.mount("localhost/cart-again")) == []


@pytest.mark.slow
def test_the_same_commit_makes_the_same_plain_container(images: Images, plain: Path) -> None:
    images.build(PLAIN, "localhost/plain-again", BASE="localhost/base")
    assert differences(plain, images.mount("localhost/plain-again")) == []


def test_a_plain_container_says_when_it_was_built_and_of_what(plain: Path) -> None:
    assert built(plain) == datetime.fromtimestamp(int(image.EPOCH), UTC)
    assert billed(plain) == installed(plain)


def test_the_bill_of_materials_names_what_is_installed(root: Path) -> None:
    assert billed(root) == installed(root)


def billed(root: Path) -> set[str]:
    told = json.loads((root / "usr/share/edged/sbom.spdx.json").read_text())
    return {package["name"].lower().replace("-", "_") for package in told["packages"]}


def installed(root: Path) -> set[str]:
    found = {path.name.split("-")[0].lower() for path in root.glob("usr/lib/edged/venv/lib/*/*/*.dist-info")}
    assert "edged" in found
    return found


def test_it_boots_read_only_to_a_daemon_that_serves_its_factory_model(root: Path) -> None:
    booted = Container(root, "--volatile=state")
    try:
        booted.wait("systemctl is-active edged")
        for path in ("/etc/test", "/usr/test"):
            assert "Read-only file system" in booted.shell(f"touch {path}").stderr
        assert json.loads(booted.run("edgectl status --json"))["ready"] is True
        assert booted.property("StatusText") == "serving, 1 of 1 models ready"
        for unit in ("bootc-fetch-apply-updates.timer", "bootc-fetch-apply-updates.service"):
            assert booted.shell(f"systemctl is-enabled {unit}").stdout == "masked\n"
    finally:
        booted.stop()


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.name)
def test_an_overlay_names_its_class_and_its_devices_and_the_unit_stays_without_fault(
    images: Images, path: Path
) -> None:
    hardware_class = path.name.removesuffix(".Containerfile")
    images.build(path, f"localhost/{hardware_class}", EDGED="localhost/edged", ENGINE="none")
    found = images.mount(f"localhost/{hardware_class}")
    assert check(found) == (0, "no fault found\n")
    booted = Container(found)
    try:
        booted.wait("systemctl is-active edged")
        assert json.loads(booted.run("edgectl status --json"))["hardware_class"] == hardware_class
        assert booted.run("systemd-analyze verify edged.service 2>&1") == ""
        rules = booted.shell("ls /usr/lib/udev/rules.d/60-edged-*.rules").stdout.split()
        assert not rules or f"Success: {len(rules)}" in booted.run(f"udevadm verify {' '.join(rules)} 2>&1")
    finally:
        booted.stop()


def test_the_nodes_of_nvidia_cards_are_made_before_edged_starts(images: Images) -> None:
    """A program that notes how it was called stands for NVIDIA's, which makes nodes where there is a card."""
    images.build(NVIDIA[0], "localhost/gateway", EDGED="localhost/edged", ENGINE="none")
    root = images.mount("localhost/gateway")
    program = root / "usr/bin/nvidia-modprobe"
    program.write_text('#!/bin/sh\ntest -S /run/edged/edged.sock && exit 1\necho "$@" >> /run/nodes\n')
    program.chmod(0o755)
    booted = Container(root)
    try:
        booted.wait("systemctl is-active edged")
        assert booted.run("systemd-analyze verify edged-nodes.service 2>&1") == ""
        assert booted.run("cat /run/nodes").splitlines() == ["-c 0", "-c 0 -u"]
        assert booted.run("systemctl show edged-nodes.service -p Result --value") == "success"
    finally:
        booted.stop()


@pytest.mark.parametrize("path", NVIDIA, ids=lambda path: path.name)
def test_an_overlay_for_tensorrt_is_made_of_a_base_that_has_it_alone(images: Images, path: Path) -> None:
    """The package is not there, or no more than its metadata: nothing of it runs in a build, which has no GPU."""
    with pytest.raises(AssertionError, match="no tensorrt here: it comes with NVIDIA's base image"):
        images.build(path, "localhost/none", EDGED="localhost/edged")
    working = images.buildah("from", "--pull-never", "localhost/edged")
    packages = "usr/lib/python3/dist-packages/tensorrt-10.3.0.dist-info"
    metadata = Path(images.buildah("mount", working)) / packages / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: tensorrt\nVersion: 10.3.0\n")
    images.buildah("commit", "-q", working, "localhost/vendor")
    images.build(path, "localhost/both", EDGED="localhost/vendor")
    root = images.mount("localhost/both")
    assert check(root) == (0, "no fault found\n")
    environment = root / "usr/lib/edged/venv"
    assert "include-system-site-packages = true\n" in (environment / "pyvenv.cfg").read_text()
    for name in ("edged", "edgectl"):  # the user's packages would be those of the state folder
        started_by = (environment / "bin" / name).read_text().splitlines()[0]
        assert re.fullmatch(r"#!/usr/lib/edged/venv/bin/python[0-9.]* -s", started_by)


def test_the_overlay_with_openvino_has_it_serve_read_only(images: Images) -> None:
    """The CPU stands for the GPU and the NPU, which are asked the same way; the model is the image's own."""
    images.build(OPENVINO, "localhost/intel", "requirements-openvino.lock", EDGED="localhost/edged")
    root = images.mount("localhost/intel")
    assert check(root) == (0, "no fault found\n")
    digits = root / "usr/share/edged/models/digits"
    described = (digits / "1/bundle.toml").read_text()
    shutil.copytree(digits / "1", digits / "2")
    # Left to itself, OpenVINO computes in bf16 where the processor has that.
    described = described.replace('runtime = "onnxruntime"', 'runtime = "openvino", options.precision = "fp32"')
    (digits / "2/bundle.toml").write_text(described.replace("revision = 1", "revision = 2"))
    pack(digits / "2")
    with np.load(digits / "1/goldens.npz") as goldens:
        np.savez(root / "usr/share/images.npz", image=goldens["inputs/image"][:32])
        expected = goldens["outputs/scores"][:32]
    booted = Container(root, "--volatile=state")
    try:
        booted.wait("edgectl status --wait 60")
        assert json.loads(booted.run("edgectl status --json"))["hardware_class"] == "intel-lowpower-detector"
        assert booted.run("systemd-analyze verify edged.service 2>&1") == ""
        (worker,) = json.loads(booted.run("edgectl workers --json"))["workers"]
        assert (worker["revision"], worker["runtime"]) == (2, "openvino")
        answer = json.loads(booted.run("edgectl infer digits /usr/share/images.npz --json"))
        scores = np.reshape(answer["outputs"][0]["data"], expected.shape)
        np.testing.assert_allclose(scores, expected, atol=1e-4)
    finally:
        booted.stop()


def test_the_overlay_for_coral_serves_on_an_edge_tpu_read_only(images: Images, tmp_path: Path) -> None:
    """A library that stands in for libedgetpu's, as the base would bring it; it hears of devices as libusb does."""
    images.build(CORAL, "localhost/coral", "requirements-edgetpu.lock", EDGED="localhost/edged")
    root = images.mount("localhost/coral")
    assert check(root) == (0, "no fault found\n")
    bundle = bundle_of_one_variant(tmp_path)
    add_bundle(root, bundle)
    build_library(root / "usr/lib" / f"{os.uname().machine}-linux-gnu")
    np.savez(root / "usr/share/row.npz", x=np.int8([[1, 2, 3, 4]]))
    booted = Container(root, "--volatile=state")
    try:
        booted.wait("edgectl status --wait 60")
        assert json.loads(booted.run("edgectl status --json"))["hardware_class"] == "coral"
        assert booted.run("systemd-analyze verify edged.service 2>&1") == ""
        rules = booted.shell("ls /usr/lib/udev/rules.d/60-edged-*.rules").stdout.split()
        assert f"Success: {len(rules)}" in booted.run(f"udevadm verify {' '.join(rules)} 2>&1")
        workers = json.loads(booted.run("edgectl workers --json"))["workers"]
        (worker,) = [each for each in workers if each["model"] == "small"]
        assert (worker["variant"], worker["runtime"]) == ("cpu", "edgetpu")
        answer = json.loads(booted.run("edgectl infer small /usr/share/row.npz --json"))
        assert answer["outputs"][0]["data"] == [2, 3, 4, 5]
        assert booted.shell("edgectl doctor --only engines").stdout == "nothing is wrong\n"
    finally:
        booted.stop()


@pytest.mark.usefixtures("plain")
def test_a_plain_container_serves_its_embedded_model_as_its_own_user(images: Images, tmp_path: Path) -> None:
    working = images.buildah("from", "--pull-never", "localhost/plain")
    told = json.loads(images.buildah("inspect", working))["OCIv1"]["config"]
    assert (told["User"], told["Entrypoint"]) == ("961:961", ["/usr/bin/edged"])
    script = (
        "edged > /var/cache/edged/log 2>&1 & "
        "for turn in $(seq 600); do edgectl status > /dev/null 2>&1 && "
        "edgectl status --json && kill $! && wait && exit; sleep 0.1; done; "
        "cat /var/cache/edged/log; exit 1"
    )
    for name in ("edged", "edged-admin"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, 961, 961)
    folders = [part for name in ("edged", "edged-admin") for part in ("-v", f"{tmp_path / name}:/run/{name}")]
    said = images.buildah("run", "--isolation=chroot", *folders, working, "--", "sh", "-c", script)
    assert json.loads(said)["models"][0]["name"] == "digits"


def test_an_image_of_models_holds_packed_bundles_and_nothing_else(images: Images) -> None:
    models = REPO / "bootc/models"
    images.build(REPO / "bootc/container/model.Containerfile", "localhost/models", context=models)
    held = images.mount("localhost/models")
    assert {path.name for path in held.iterdir()} == {path.name for path in models.iterdir()}
    assert (held / "digits/1/manifest.json").read_bytes() == (models / "digits/1/manifest.json").read_bytes()


def test_hadolint_finds_nothing() -> None:
    files = sorted((REPO / "bootc").rglob("*Containerfile"))
    done = subprocess.run([HADOLINT, *files], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert len(files) == len([*OVERLAYS, OPENVINO, CORAL, "ours", "plain", "of models"])
