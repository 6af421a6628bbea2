"""The fetcher as the child that it is: what the kernel leaves it, with whom it ends, whose word it takes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.daemon import PATIENCE_S
from support.fleets import Answered, Device, Fleet, Server

from edged.worker import landlock, seccomp

needs_landlock = pytest.mark.skipif(not landlock.abi(), reason="this kernel has no Landlock")

COMMAND = [sys.executable, "-I", "-m", "edged.update.fetch"]


def child(device: Device, *asked: str, **environment: str) -> Answered:
    """Runs the fetcher as the daemon does, in a process of its own."""
    ran = subprocess.run(
        [*COMMAND, *device.arguments(*asked)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={"PATH": os.defpath, **environment},
    )
    assert not ran.stderr
    return Answered(ran.returncode, ran.stdout)


def plan(device: Device, **environment: str) -> Answered:
    return child(device, "plan", "--fleet", "shops", "--into", str(device.into), **environment)


# For a program that tries what it may not.
MAY = """
def may(what):
    try:
        what()
    except PermissionError:
        return False
    return True
"""


class TestConfinement:
    @needs_landlock
    def test_holds_where_the_kernel_has_it_and_a_revision_comes_all_the_same(self, online, tmp_path):
        _, device = online
        (tmp_path / "scratch").mkdir()
        answered = plan(device, TMPDIR=str(tmp_path / "scratch"))
        assert (answered.status, answered.events[0]) == (0, {"event": "confined", "lacks": []})
        assert child(device, *device.fetching(1)).status == 0
        device.store.take_in(device.store.staging("digits", 1))
        from_installed = child(device, *device.fetching(2))
        assert from_installed.event("staged")["kept"] + from_installed.event("staged")["copied"] > 0

    @needs_landlock
    def test_a_repository_in_a_folder_can_be_read(self, device):
        assert plan(device).status == 0

    @needs_landlock
    def test_leaves_nothing_else_to_write_or_read(self, tmp_path):
        allowed, other = tmp_path / "allowed", tmp_path / "other"
        for folder in (allowed, other):
            folder.mkdir()
            (folder / "file").write_text("here")
        program = f"""
import json, socket, sys
from pathlib import Path
from edged.update.confine import confine
allowed, other = Path({str(allowed)!r}), Path({str(other)!r})
listener = socket.create_server(("127.0.0.1", 0))
lacks = confine([], [allowed])
{MAY}
print(json.dumps([
    lacks,
    may(lambda: (allowed / "new").write_text("x")),
    may(lambda: (allowed / "file").unlink()),
    may(lambda: (other / "new").write_text("x")),
    may(lambda: (other / "file").write_text("x")),
    may(lambda: (other / "file").unlink()),
    may(lambda: (other / "file").read_text()),
    may(lambda: Path("/etc/shadow").read_text()),
    may(lambda: socket.create_connection(listener.getsockname()).close()),
    Path("/proc/self/status").exists(),
]))
"""
        ran = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=PATIENCE_S)
        assert not ran.stderr
        assert json.loads(ran.stdout)[:-1] == [[], True, True, False, False, False, False, False, True]
        assert (other / "file").read_text() == "here"

    @needs_landlock
    @pytest.mark.skipif(os.uname().machine not in seccomp.MACHINES, reason="no filter for this machine")
    def test_reaches_no_socket_of_this_device_and_no_other_process(self, tmp_path):
        """Landlock lets it connect to any path, and the admin socket asks nobody who reaches it for more."""
        program = f"""
import ctypes, json, os, socket
from edged.update.confine import confine
from edged.worker import seccomp
path = {str(tmp_path / "admin.sock")!r}
admin = socket.socket(socket.AF_UNIX)
admin.bind(path)
admin.listen()
internet = socket.create_server(("127.0.0.1", 0))
parent = os.getppid()
lacks = confine([], [])
libc = ctypes.CDLL(None, use_errno=True)
column = seccomp.MACHINES[os.uname().machine].column
{MAY}
def call(name, *arguments):
    libc.syscall(seccomp.DENIED[name][column], *arguments)
    return os.strerror(ctypes.get_errno())
print(json.dumps([
    lacks,
    may(lambda: socket.socket(socket.AF_UNIX).connect(path)),
    may(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)),
    may(socket.socketpair),
    may(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    may(lambda: os.kill(parent, 0)),
    may(lambda: os.execv("/bin/true", ["true"])),
    [call(name, parent, 0, 0, 0, 0, 0) for name in ("process_vm_readv", "process_vm_writev")],
    call("ptrace", 16, parent, 0, 0),
    may(lambda: socket.create_connection(internet.getsockname()).close()),
    [family for family, *_ in socket.getaddrinfo("localhost", 443, socket.AF_INET, socket.SOCK_STREAM)],
]))
"""
        ran = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=PATIENCE_S)
        assert not ran.stderr
        no = os.strerror(errno.EPERM)
        refused = [False] * 6
        assert json.loads(ran.stdout) == [[], *refused, [no, no], no, True, [socket.AF_INET]]

    def test_a_kernel_without_it_is_told(self, device):
        program = (
            "from edged.worker import landlock; landlock.abi = lambda: 0; from edged.update import fetch; fetch.main()"
        )
        arguments = device.arguments("plan", "--fleet", "shops", "--into", str(device.into))
        ran = subprocess.run([sys.executable, "-I", "-c", program, *arguments], capture_output=True, timeout=PATIENCE_S)
        assert ran.returncode == 0
        first = json.loads(ran.stdout.splitlines()[0])
        assert first["lacks"] == ["Landlock (this kernel has none, or it is not switched on)"]


def test_it_ends_with_the_daemon(online):
    server, device = online
    server.stall("timestamp")
    device.options = ["--timeout", "600"]
    arguments = [*COMMAND, *device.arguments("--daemon", "PARENT", "refresh")]
    program = (
        "import os, signal, subprocess, sys\n"
        f"arguments = {arguments!r}\n"
        "arguments[arguments.index('PARENT')] = str(os.getpid())\n"
        "print(subprocess.Popen(arguments, stdout=subprocess.DEVNULL).pid, flush=True)\n"
        "signal.pause()\n"
    )
    daemon = subprocess.Popen([sys.executable, "-I", "-c", program], stdout=subprocess.PIPE)
    try:
        held = os.pidfd_open(int(daemon.stdout.readline()))
        try:
            while not any("timestamp" in path for path in server.paths):
                assert not select.select([held], [], [], 0.02)[0], "it ended by itself"
            daemon.kill()
            assert select.select([held], [], [], PATIENCE_S)[0], "it is still there"
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(held, signal.SIGKILL)
            os.close(held)
    finally:
        daemon.kill()
        daemon.wait()
        daemon.stdout.close()


def test_it_does_not_begin_for_a_daemon_that_has_gone(device):
    device.options = ["--daemon", "1"]
    ran = subprocess.run([*COMMAND, *device.arguments("refresh")], capture_output=True, timeout=PATIENCE_S)
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert not device.metadata.exists()


class Authority:
    """A certificate authority of a test's own."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = folder / "ca.pem"
        self._folder = folder
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        made = self._builder(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self._write(self.certificate, made.add_extension(usage, critical=True))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )

    def _write(self, path: Path, made: x509.CertificateBuilder) -> None:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        signed = made.add_extension(identifier, critical=False).sign(self._key, hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def server(self, host: str) -> ssl.SSLContext:
        """What a server of that name shows."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        made = self._builder(name, key.public_key()).add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False
        )
        self._write(self._folder / "server.pem", made)
        (self._folder / "server-key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / "server.pem", self._folder / "server-key.pem")
        return context


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path / "authority", "ours")


@pytest.fixture
def over_tls(fleet: Fleet, authority, tmp_path) -> Iterator[tuple[Server, Device]]:
    """A server that shows what `authority` vouches for, and a device that takes its word."""
    with Server(fleet.home.repository, authority.server("localhost")) as server:
        device = Device(tmp_path / "device", fleet.root, server.url)
        device.options = ["--ca", str(authority.certificate)]
        yield server, device


class TestHttps:
    def test_a_private_authority_is_believed(self, over_tls):
        _, device = over_tls
        assert plan(device).status == 0
        assert child(device, *device.fetching(1)).status == 0

    def test_another_authority_is_not_and_the_reason_told(self, over_tls, tmp_path):
        server, device = over_tls
        device.options = ["--ca", str(Authority(tmp_path / "other", "theirs").certificate)]
        answered = plan(device)
        assert (answered.status, answered.code) == (1, "download_failed")
        assert "certificate verify failed" in answered.message
        assert server.url in answered.message
        assert not server.paths

    def test_without_its_file_the_systems_authorities_hold(self, over_tls, tmp_path):
        _, device = over_tls
        device.options = ["--ca", str(tmp_path / "nothing.pem")]
        assert "certificate verify failed" in plan(device).message

    def test_a_server_of_another_name_is_refused(self, fleet, authority, tmp_path):
        with Server(fleet.home.repository, authority.server("elsewhere")) as server:
            device = Device(tmp_path / "device", fleet.root, server.url)
            device.options = ["--ca", str(authority.certificate)]
            assert "localhost" in plan(device).message

    def test_a_file_that_is_no_certificate_is_told(self, over_tls, tmp_path):
        _, device = over_tls
        (tmp_path / "ca.pem").write_text("no certificate")
        device.options = ["--ca", str(tmp_path / "ca.pem")]
        answered = plan(device)
        assert answered.code == "download_failed"
        assert "certificate" in answered.message.lower()


class Proxy:
    """A proxy that connects its callers through (RFC 9110, 9.3.6), and says to whom."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._run)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Proxy:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._open):
            each.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                self._open.append(caller)
                head = b""
                while b"\r\n\r\n" not in head:
                    head += caller.recv(4096)
                method, target, _ = head.split(b" ", 2)
                self.asked.append(f"{method.decode()} {target.decode()}")
                host, _, port = target.decode().rpartition(":")
                server = socket.create_connection((host, int(port)))
                self._open.append(server)
                caller.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                for one, other in ((caller, server), (server, caller)):
                    thread = threading.Thread(target=_pass_on, args=(one, other))
                    self._threads.append(thread)
                    thread.start()


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := one.recv(65536):
            other.sendall(part)
        other.shutdown(socket.SHUT_WR)


class TestAProxy:
    def test_is_asked_to_connect_and_sees_nothing_of_it(self, over_tls):
        server, device = over_tls
        with Proxy() as proxy:
            assert plan(device, https_proxy=proxy.url).status == 0
        assert set(proxy.asked) == {f"CONNECT {server.url.removeprefix('https://')}"}

    def test_is_not_asked_for_what_is_excepted(self, over_tls):
        _, device = over_tls
        with Proxy() as proxy:
            assert plan(device, https_proxy=proxy.url, no_proxy="localhost").status == 0
        assert not proxy.asked

    def test_that_is_not_there_is_told(self, over_tls):
        _, device = over_tls
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        assert plan(device, https_proxy=url).code == "download_failed"


def test_what_is_no_root_of_trust_is_refused(made_fleet, tmp_path):
    broken = tmp_path / "root.json"
    broken.write_bytes(made_fleet.root.read_bytes().replace(b'"version"', b'"verzion"'))
    command = [*COMMAND, "--metadata-dir", str(tmp_path / "trusted"), "init", str(broken)]
    ran = subprocess.run(command, capture_output=True, timeout=PATIENCE_S)
    assert (ran.returncode, ran.stderr) == (1, b"")


def test_that_there_is_no_root_of_trust_is_told_with_its_place(device, tmp_path):
    device.root = tmp_path / "nowhere" / "root.json"
    told = plan(device)
    assert (told.status, told.code) == (1, "not_permitted")
    assert told.message == f"there is no root of trust at {device.root}"
    assert told.events[-1]["hint"] == "put the fleet's root.json there"
