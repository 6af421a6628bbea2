"""A real edged, started on a folder of its own, as its service manager would start it."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from edged._pb.edged.v1 import admin_pb2
from edged._pb.inference import grpc_service_pb2 as pb
from support.polling import PATIENCE_S, until

REPO = Path(__file__).resolve().parents[2]
DIGITS = REPO / "bootc/models/digits/1"


class Daemon:
    """A process of `edged --root`, its sockets, and what it told its service manager."""

    def __init__(
        self, root: Path, bundles: Sequence[Path] = (), settings: str = "", interpreter: Path | None = None
    ) -> None:
        """`bundles`: packed bundle folders `…/<name>/<revision>`, copied in as the image's own."""
        self.root = root
        self._interpreter = interpreter or sys.executable
        self.socket = root / "run/edged/edged.sock"
        self.admin_socket = root / "run/edged-admin/admin.sock"
        self.log_file = root / "edged.log"
        self.told: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._channels: list[grpc.Channel] = []
        self._manager: socket.socket | None = None
        for bundle in bundles:
            add_bundle(root, bundle)
        if settings:
            self.write_settings(settings)

    def write_settings(self, text: str) -> None:
        """The device's own settings file."""
        path = self.root / "etc/edged/edged.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def start(self, *arguments: str, wait: bool = True, environment: dict[str, str] | None = None) -> Daemon:
        """Starts it and waits for READY=1."""
        self.root.mkdir(parents=True, exist_ok=True)
        notify = self.root / "notify"
        notify.unlink(missing_ok=True)
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(notify))
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [str(self._interpreter), "-m", "edged", "--root", str(self.root), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": str(notify), **(environment or {})},
            )
        if wait:
            self.wait_told("READY=1")
        return self

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        """All that it wrote."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def wait_logged(self, part: str, count: int = 1) -> None:
        """Waits until its log holds `part` `count` times: lines are written by a thread, after what they tell."""
        until(lambda: self.log().count(part) >= count, f"it logs {part!r}", log=self.log)

    def wait_told(self, line: str, count: int = 1) -> str:
        """Waits until it has sent `line` `count` times; gives the message that held the last of them."""
        return self._wait_told(lambda message: line in message.splitlines(), line, count)

    def wait_status(self, part: str) -> str:
        """Waits for a STATUS= that holds `part`."""
        return self._wait_told(lambda message: f"STATUS={part}" in message or part in message, part, 1)

    def _wait_told(self, fits: Callable[[str], bool], what: str, count: int) -> str:
        assert self._manager is not None
        assert self.process is not None
        end = time.monotonic() + PATIENCE_S
        while True:
            found = [message for message in self.told if fits(message)]
            if len(found) >= count:
                return found[count - 1]
            ready, _, _ = select.select([self._manager], [], [], 0.05)
            if ready:
                self.told.append(self._manager.recv(65536).decode())
            elif self.process.poll() is not None:
                raise AssertionError(f"edged ended with {self.process.returncode} before {what!r}:\n{self.log()}")
            elif time.monotonic() > end:
                raise AssertionError(f"edged did not say {what!r}; it said {self.told}:\n{self.log()}")

    def channel(self, *, admin: bool = False, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """A channel to one of its sockets, closed with the daemon."""
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), *options]
        channel = grpc.insecure_channel(f"unix:{self.admin_socket if admin else self.socket}", options)
        self._channels.append(channel)
        return channel

    def call(self, method: str, request: Any, reply: Any, *, admin: bool = False, timeout_s: float = PATIENCE_S) -> Any:
        """One unary call, such as `inference.GRPCInferenceService/ModelInfer`. Raises grpc.RpcError."""
        key = next((channel for channel in self._channels if getattr(channel, "for_admin", None) is admin), None)
        if key is None:
            key = self.channel(admin=admin)
            key.for_admin = admin
        stub = key.unary_unary(
            f"/{method}", request_serializer=type(request).SerializeToString, response_deserializer=reply.FromString
        )
        return stub(request, timeout=timeout_s)

    def infer(self, request: pb.ModelInferRequest, timeout_s: float = PATIENCE_S) -> pb.ModelInferResponse:
        """ModelInfer. Raises grpc.RpcError."""
        return self.call(
            "inference.GRPCInferenceService/ModelInfer", request, pb.ModelInferResponse, timeout_s=timeout_s
        )

    def status(self) -> admin_pb2.Status:
        """Admin.GetStatus."""
        return self.call("edged.v1.Admin/GetStatus", admin_pb2.GetStatusRequest(), admin_pb2.Status, admin=True)

    def events(self, *codes: str) -> list[admin_pb2.Event]:
        """Admin.ListEvents, oldest first: those of these codes, or all."""
        found = self.call(
            "edged.v1.Admin/ListEvents", admin_pb2.ListEventsRequest(), admin_pb2.ListEventsResponse, admin=True
        )
        return [event for event in found.events if not codes or event.code in codes]

    def wait_for(self, condition: Callable[[admin_pb2.Status], bool]) -> admin_pb2.Status:
        """Waits until the daemon's status fulfils `condition`."""
        end = time.monotonic() + PATIENCE_S
        watch = self.channel(admin=True).unary_stream(
            "/edged.v1.Admin/WatchStatus",
            request_serializer=admin_pb2.WatchStatusRequest.SerializeToString,
            response_deserializer=admin_pb2.Status.FromString,
        )(admin_pb2.WatchStatusRequest(), timeout=PATIENCE_S)
        try:
            for status in watch:
                if condition(status):
                    return status
                if time.monotonic() > end:
                    break
        finally:
            watch.cancel()
        raise AssertionError(f"the status never became what it should:\n{self.status()}\n{self.log()}")

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the daemon."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait_end(self) -> int:
        """Waits for the daemon's end and gives its exit status."""
        assert self.process is not None
        return self.process.wait(PATIENCE_S)

    def stop(self) -> int | None:
        """Ends what still runs and closes everything; gives the exit status."""
        for channel in self._channels:
            channel.close()
        self._channels.clear()
        status = None
        if self.process is not None:
            if self.process.poll() is None:
                self.process.terminate()
            try:
                status = self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        if self._manager is not None:
            self._manager.close()
            self._manager = None
        return status

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def add_bundle(root: Path, bundle: Path) -> Path:
    """Copies a packed bundle folder into the image's models under `root`, where its manifest says."""
    from edged.bundle.folder import read_manifest

    manifest = read_manifest(bundle)
    target = root / "usr/share/edged/models" / manifest.name / str(manifest.revision)
    shutil.copytree(bundle, target)
    return target
