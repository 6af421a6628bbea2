"""`edgectl doctor` on a device that is sound, and on devices broken on purpose: each fault named with its remedy."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from support.fleets import Server
from support.sound_device import NOW, UID, Break, find, in_class, mode, put, remove, usb

from edged.ctl.checkup import Grade
from edged.ctl.main import run


def test_on_a_sound_device_nothing_is_found(root: Path) -> None:
    assert find(root) == []


def coral_stick(vendor: str, product: str) -> Break:
    return lambda root: usb(root, "1-2", vendor, product, "001/004")


def masked(root: Path) -> None:
    (root / "etc/systemd/system/edged.service").symlink_to("/dev/null")


def absent_engine(root: Path) -> None:
    path = root / "usr/share/edged/models/digits/1/manifest.json"
    path.write_text(path.read_text().replace('"runtime":"onnxruntime"', '"runtime":"abacus"'))


def tls(days: int = 30, *, other_key: bool = False, open_key: bool = False) -> Break:
    def change(root: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", not_after=NOW + timedelta(days=days))
        folder = root / "etc/edged"
        folder.mkdir(parents=True)
        issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        key = authority.issue_cert("localhost").private_key_pem if other_key else issued.private_key_pem
        key.write_to_path(folder / "key.pem")
        (folder / "key.pem").chmod(0o644 if open_key else 0o600)
        authority.cert_pem.write_to_path(folder / "ca.pem")
        put(
            "etc/edged/edged.toml",
            '[listen]\ntcp = "0.0.0.0:8001"\ntls_certificate = "/etc/edged/cert.pem"\n'
            'tls_key = "/etc/edged/key.pem"\ntls_client_ca = "/etc/edged/ca.pem"\n',
        )(root)

    return change


def no_key(root: Path) -> None:
    tls()(root)
    (root / "etc/edged/key.pem").unlink()


def no_certificate(root: Path) -> None:
    tls()(root)
    (root / "etc/edged/ca.pem").write_text("hello")


def broker(url: str, *more: str) -> Break:
    return put("etc/edged/edged.toml", "\n".join([f'[mqtt]\nbroker = "{url}"', *more, ""]))


def fetching(url: str, *, trusting: bool = True) -> Break:
    def change(root: Path) -> None:
        put("etc/edged/edged.toml", f'[update]\nrepository = "{url}"\n')(root)
        if trusting:
            put("usr/share/edged/trust/root.json", "{}")(root)

    return change


DROP_IN = "etc/systemd/system/edged.service.d/50.conf"

ONNX = "usr/share/edged/models/digits/1/model.onnx"

BROKEN: list[tuple[str, Break, str, str]] = [
    ("a setting that does not exist", put("etc/edged/edged.toml", "[log]\nlevle = 'x'\n"), "levle", "mend it"),
    ("no user", put("etc/passwd", "root:x:0:0::/:/bin/sh\n"), "the user edged does not exist", "systemd-sysusers"),
    (
        "no admin group",
        put("etc/group", f"edged:x:{UID}:\n"),
        "the group edged-admin does not exist",
        "systemd-sysusers",
    ),
    (
        "a drop-in for a missing group",
        put(DROP_IN, "[Service]\nSupplementaryGroups=apex\n"),
        "group apex, which does not exist",
        "groupadd --system apex",
    ),
    ("state of another user", lambda root: os.chown(root / "var/lib/edged", 12345, -1), "belongs to", "tmpfiles"),
    ("state that others may enter", mode("var/lib/edged", 0o755), "others may enter", "chmod 0700"),
    ("no admin folder", lambda root: (root / "run/edged-admin").rmdir(), "edged-admin is missing", "tmpfiles"),
    ("an admin folder without setgid", mode("run/edged-admin", 0o750), "does not hand its group on", "chmod 2750"),
    ("a socket folder for everybody", mode("run/edged", 0o777), "anybody may put a socket", "chmod o-w"),
    ("no models", lambda root: shutil.rmtree(root / "usr/share/edged/models"), "holds no bundle", "put packed bundles"),
    ("a model without one of its files", remove(ONNX), f"{ONNX}: does not exist", "replace it by a sound one"),
    (
        "a model with a cut file",
        put(ONNX, "cut"),
        f"{ONNX} has 3 bytes, and the manifest says",
        "replace it by a sound one",
    ),
    ("a missing engine", absent_engine, "no variant of digits revision 1 runs here", "publish a variant"),
    ("a class without its nodes", in_class("jetson-vision-standard"), "needs /dev/nvmap", "load its driver"),
    (
        "a GPU without the node for its memory",
        in_class("factory-gateway-gpu", "dev/nvidia0", "dev/nvidiactl"),
        "needs /dev/nvidia-uvm, and there is none",
        "make the nodes before edged starts",
    ),
    (
        "a class of USB sticks without one",
        in_class("coral", "dev/bus/usb/001/001"),  # a hub
        "needs /dev/apex_*, or a USB Coral",
        "set another device.hardware_class",
    ),
    ("a stick that edged may not use", coral_stick("18d1", "9302"), "may not use", "SupplementaryGroups="),
    ("one without its firmware", coral_stick("1a6e", "089a"), "may not use", "SupplementaryGroups="),
    ("a node that edged may not use", in_class("coral", "dev/apex_0"), "may not use", "SupplementaryGroups="),
    ("no pressure information", remove("proc/pressure/memory"), "tells nothing of memory pressure", "psi=1"),
    ("no Landlock", put("sys/kernel/security/lsm", "capability"), "Landlock is off", "lsm=landlock"),
    ("no memory controller", put("sys/fs/cgroup/cgroup.controllers", "cpu"), "no memory controller", "hierarchy=1"),
    (
        "not started at boot",
        remove("etc/systemd/system/multi-user.target.wants/edged.service"),
        "does not start at boot",
        "systemctl enable edged",
    ),
    ("masked", masked, "is masked", "systemctl unmask edged"),
    ("an expired certificate", tls(-2), "expired on", "renew it"),
    ("a certificate that expires soon", tls(5), "expires on", "renew it"),
    ("a certificate that is none", no_certificate, "no certificate in PEM form", "replace it"),
    ("a missing key", no_key, "key.pem is not there", "put it there"),
    ("a key that all may read", tls(open_key=True), "everybody may read", "chmod 0600"),
    ("a key of another certificate", tls(other_key=True), "does not belong to", "replace both"),
    (
        "a broker that does not listen",
        broker("mqtt://127.0.0.1:1"),
        "cannot be reached: Connection refused",
        "check mqtt.broker",
    ),
    (
        "a broker without a certificate for it",
        broker("mqtts://127.0.0.1:1"),
        "certificate.pem cannot be read",
        "enroll",
    ),
    (
        "a broker's login without its password",
        broker("mqtt://127.0.0.1:1", 'username = "till-7"'),
        "no credential edged.mqtt-password",
        "systemd-creds encrypt",
    ),
    ("a secret that all may read", put("etc/credstore/edged.mqtt-password", "s3cret"), "others may read", "chmod 0600"),
    (
        "a repository without a root of trust",
        fetching("file:///nowhere", trusting=False),
        "no root of trust",
        "root.json into the image",
    ),
    ("a repository's folder that is gone", fetching("file:///nowhere"), "/nowhere/metadata", "check update.repository"),
    (
        "a repository that does not listen",
        fetching("http://127.0.0.1:1"),
        "cannot be reached: [Errno 111] Connection refused",
        "what is installed serves on",
    ),
]


@pytest.mark.parametrize(("change", "found", "remedy"), [each[1:] for each in BROKEN], ids=[each[0] for each in BROKEN])
def test_what_is_broken_is_named_with_its_remedy(root: Path, change: Break, found: str, remedy: str) -> None:
    change(root)
    told = find(root)
    assert any(found in each.found and remedy in each.remedy for each in told), told
    assert all(each.remedy for each in told)


def test_there_are_twenty_of_them() -> None:
    assert len(BROKEN) >= 20


def test_hubs_beside_a_coral_are_nobodys_concern(root: Path) -> None:
    usb(root, "usb1", "1d6b", "0002", "001/001")
    put("sys/bus/usb/devices/1-2:1.0/bInterfaceClass", "ff\n")(root)
    usb(root, "1-2", "18d1", "9302", "001/004")
    (root / "dev/bus/usb/001/004").chmod(0o666)
    assert find(root) == []


@pytest.mark.parametrize("gpu", ["nvhost-gpu", "nvgpu/igpu0/power", "nvidia0"], ids=["Xavier", "Orin", "Thor"])
def test_each_generation_of_the_jetson_has_its_own_node(root: Path, gpu: str) -> None:
    found = [f"dev/{name}" for name in ("nvmap", gpu)]
    in_class("jetson-vision-standard", *found)(root)
    for node in found:
        (root / node).chmod(0o666)
    assert find(root) == []


def test_accounts_of_the_image_itself_are_found(root: Path) -> None:
    """As nss-altfiles has them: what packages brought stands in /usr/lib, what was made later in /etc."""
    put(DROP_IN, "[Service]\nSupplementaryGroups=render\n")(root)
    in_class("intel-lowpower-detector", "dev/dri/renderD128")(root)
    put("usr/lib/group", "render:x:9:\n")(root)
    assert find(root) == []
    for name in ("passwd", "group"):
        (root / "etc" / name).rename(root / f"usr/lib/{name}")
    (root / "usr/lib/group").write_text((root / "usr/lib/group").read_text() + "render:x:9:\n")
    assert find(root) == []


def test_a_clock_before_the_image_was_built_is_a_fault(root: Path) -> None:
    """By what the image says of itself: OSTree gives all its files the same time."""
    put("usr/lib/edged/built", f"{NOW:%Y-%m-%dT%H:%M:%SZ}\n")(root)
    (found,) = find(root, NOW - timedelta(days=1))
    assert found.grade is Grade.FAULT
    assert "this image was built on" in found.found
    assert find(root, NOW + timedelta(days=1)) == []


def test_a_clock_that_nobody_keeps_is_a_warning(root: Path) -> None:
    (found,) = find(root, synchronized=False)
    assert (found.topic, found.grade) == ("clock", Grade.WARNING)
    assert "chronyc tracking" in found.remedy
    assert find(root, synchronized=None) == []  # a root folder that is no machine's


def test_a_full_and_a_read_only_state_folder_are_faults(root: Path) -> None:
    state = root / "var/lib/edged"
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    for options, told in (("size=1m,mode=0700", "MiB left"), ("ro,mode=0700", "read-only")):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", state], check=True)
        try:
            assert any(told in each.found for each in find(root))
        finally:
            subprocess.run(["umount", state], check=True)


def test_the_command_tells_what_it_found_and_fails(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "var/lib/edged").chmod(0o755)
    assert run(["--root", str(root), "doctor", "--only", "folders"]) == 1
    told = capsys.readouterr().out
    assert told.startswith("fault: folders: others may enter")
    assert "\n    `chmod 0700" in told


def test_a_daemon_that_does_not_run_is_a_fault(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--root", str(root), "doctor", "--only", "daemon"]) == 1
    assert "edged is not running" in capsys.readouterr().out


def test_warnings_alone_are_no_failure(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "proc/pressure/memory").unlink()
    assert run(["--root", str(root), "doctor", "--only", "kernel"]) == 0
    assert run(["--root", str(root), "--json", "doctor", "--only", "kernel"]) == 0
    assert '"grade": "warning"' in capsys.readouterr().out


def test_a_broker_that_others_vouch_for_is_a_fault_and_one_of_ours_is_none(root: Path) -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    folder = root / "var/lib/edged/identity"
    folder.mkdir()
    issued = ours.issue_cert("till-7", not_after=NOW + timedelta(days=30))
    issued.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    ours.cert_pem.write_to_path(folder / "ca.pem")
    for authority, told in ((theirs, ["do not trust each other"]), (ours, [])):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", not_after=NOW + timedelta(days=30)).configure_cert(context)
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=shake_hands, args=(server, context))
            thread.start()
            broker(f"mqtts://127.0.0.1:{server.getsockname()[1]}")(root)
            found = find(root)
            thread.join()
        assert len(found) == len(told)
        assert all(part in each.found and each.grade is Grade.FAULT for part, each in zip(told, found, strict=True))


def shake_hands(server: socket.socket, context: ssl.SSLContext) -> None:
    """Takes one connection, and ends it."""
    link, _ = server.accept()
    with link, contextlib.suppress(OSError):
        context.wrap_socket(link, server_side=True).close()


def test_a_repository_that_answers_is_no_finding_and_one_that_lacks_its_metadata_is(root: Path, tmp_path: Path) -> None:
    served = tmp_path / "served"
    (served / "metadata").mkdir(parents=True)
    with Server(served) as server:
        fetching(server.url)(root)
        (found,) = find(root)
        assert "answers 404" in found.found
        (served / "metadata/timestamp.json").write_text("{}")
        assert find(root) == []
