"""The device of the tour: a real edged below a folder, started, asked, cut off and stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

REPO = Path(__file__).resolve().parents[2]
START_S = 30
UPDATE_S = 120


class Device:
    """edged and all that it keeps, below `root`; the image brings the models of `bootc/models`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "edged.log"
        self.channel: grpc.Channel
        self._daemon: subprocess.Popen[bytes] | None = None
        models = root / "usr/share/edged/models"
        models.parent.mkdir(parents=True)
        models.symlink_to(REPO / "bootc/models")

    @property
    def pid(self) -> int:
        """The daemon's process id, also of one that has ended."""
        assert self._daemon is not None
        return self._daemon.pid

    def start(self) -> float:
        """Starts edged and waits until it is ready; gives the seconds that it took. Exits with its log."""
        began = time.monotonic()
        with self.log.open("ab") as stream:
            self._daemon = subprocess.Popen(
                [sys.executable, "-m", "edged", "--root", str(self.root)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        self.channel = grpc.insecure_channel(f"unix:{self.root}/run/edged/edged.sock")
        wait_until_ready(self.channel, self._daemon, self.log)
        return time.monotonic() - began

    def edgectl(self, *words: str, fails: bool = False) -> str:
        """What a command says. Exits when it fails, unless it says by that that something is amiss."""
        command = [sys.executable, "-m", "edged.ctl.main", "--root", str(self.root), *words]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=UPDATE_S)
        if ended.returncode != 0 and not fails:
            sys.exit(f"edgectl {' '.join(words)} ended with status {ended.returncode}:\n{ended.stdout}{ended.stderr}")
        return ended.stdout.rstrip()

    def update(self) -> Iterator[str]:
        """Has the repository looked at, and follows what comes of it, line by line, until nothing is under way."""
        command = [sys.executable, "-m", "edged.ctl.main", "--root", str(self.root), "update", "--watch"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as following:
            assert following.stdout is not None
            limit = threading.Timer(UPDATE_S, following.kill)
            limit.start()
            try:
                yield from (line.rstrip() for line in following.stdout)
            finally:
                limit.cancel()
                following.kill()

    def cut_power(self) -> None:
        """kill -9."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()
        self.channel.close()

    def end(self) -> int:
        """Stops edged, by force where it does not want to; gives its exit status."""
        if self._daemon is None:
            return 0
        self.channel.close()
        self._daemon.send_signal(signal.SIGTERM)
        try:
            return self._daemon.wait(START_S)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            return self._daemon.wait()


def left_in(run: Path) -> list[str]:
    """Sockets below `run`, and the folders in which edged makes them."""
    return [str(path) for path in sorted(run.rglob("*")) if path.is_socket() or path.name.startswith(".bind-")]


def workers_of(daemon: int) -> list[str]:
    """Workers and templates of the process `daemon` that run still, whoever their parent is now."""
    programs = (b"edged.worker.host", b"edged.worker.template")
    ours = [[program, str(daemon).encode()] for program in programs]
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if any(words[at : at + 2] in ours for at in range(len(words))):
            found.append(f"worker process {entry.name}")
    return found


def wait_until_ready(channel: grpc.Channel, daemon: subprocess.Popen[bytes], log: Path) -> None:
    """Follows the gRPC health service until the server says SERVING. Exits with its log when it ends before that."""
    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )(health_pb2.HealthCheckRequest(), timeout=START_S, wait_for_ready=True)

    def give_up_with_it() -> None:
        daemon.wait()
        watch.cancel()

    threading.Thread(target=give_up_with_it, daemon=True).start()
    try:
        for state in watch:
            if state.status == health_pb2.HealthCheckResponse.SERVING:
                break
    except grpc.RpcError as error:
        status = daemon.poll()
        daemon.terminate()
        daemon.wait()
        why = str(error.details()) if status is None else f"it ended with status {status}"
        sys.exit(f"edged did not become ready: {why}; its log:\n{log.read_text()}")
    finally:
        watch.cancel()
