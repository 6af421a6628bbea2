"""The servers that are compared, each a process of its own with everything it needs in one folder."""

from __future__ import annotations

import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import counters, processes
from benchmarks.models import Model
from benchmarks.notify import Manager
from benchmarks.processes import Cores

START_S = 60.0

# The floor's calls are this and a number: the length of the answer.
FLOOR = "/floor.Floor/"
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Target(msgspec.Struct, frozen=True):
    """What a load generator needs to know."""

    address: str
    """As gRPC clients write it: `unix:/path` or `127.0.0.1:8001`."""
    path: str
    request: str
    """A file."""
    answer_bytes: int
    """The length of the answer, by which it is recognized."""


class ServerError(Exception):
    """A server did not come up, or answers wrongly; with the end of its log."""


class Server(ABC):
    """One server. `ready_s` tells, once it has started, how long that took."""

    name = ""

    def __init__(self, folder: Path, models: Sequence[Model]) -> None:
        """`folder` is its own, and is there; `models` are those that it serves."""
        self.folder = folder
        self.models = models
        self.log = folder / "log"
        self.ready_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that was started. Raises ServerError before that."""
        if self._process is None:
            raise ServerError(f"{self.name} was not started")
        return self._process.pid

    @abstractmethod
    def arguments(self) -> list[str]:
        """The command that is started."""

    @abstractmethod
    def target(self, model: Model) -> Target:
        """How to ask for a model, once it has started."""

    def start(self, cores: Cores) -> None:
        """Starts it and waits for READY=1. Raises ServerError."""
        with Manager(self.folder / "notify") as manager, self.log.open("ab") as log:
            began = time.monotonic()
            self._process = processes.start(self.arguments(), cores, log, manager.environment)
            if not manager.wait_ready(self._process, START_S):
                raise self._failed()
            self.ready_s = time.monotonic() - began

    def end(self) -> None:
        """Ends it, with everything that it started."""
        if self._process is not None:
            processes.end(self._process)

    def counted(self, model: Model) -> counters.Counters | None:  # noqa: ARG002 - what edged answers differs
        """What the server itself has counted for a model; None when it does not tell."""
        return None

    def _failed(self) -> ServerError:
        return ServerError(f"{self.name} did not become ready\n{processes.tail(self.log)}")


class Echo(Server):
    """The floor: see echo.py."""

    name = "bare grpc.aio"

    def arguments(self) -> list[str]:
        return [sys.executable, "-m", "benchmarks.programs.echo", str(self._socket)]

    def target(self, model: Model) -> Target:
        path = f"{FLOOR}{model.answer_bytes}"
        return Target(f"unix:{self._socket}", path, model.request, model.answer_bytes)

    @property
    def _socket(self) -> Path:
        return self.folder / "socket"


class Inline(Echo):
    """The floor of a server that computes, of its one model: see inline.py."""

    name = "grpc.aio, the engine in it"

    def arguments(self) -> list[str]:
        (model,) = self.models
        module = [sys.executable, "-m", "benchmarks.programs.inline"]
        return [*module, model.onnx, model.request, str(self._socket)]


class Edged(Server):
    """edged as it is started on a device, below a root of its own."""

    name = "edged"

    def __init__(self, folder: Path, models: Sequence[Model]) -> None:
        super().__init__(folder, models)
        self._root = folder / "root"
        for model in models:
            place = self._root / "usr/share/edged/models" / model.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(Path(model.bundle).parent)

    def arguments(self) -> list[str]:
        return [sys.executable, "-m", "edged", "--root", str(self._root)]

    def target(self, model: Model) -> Target:
        return Target(f"unix:{self._root}/run/edged/edged.sock", INFER, model.request, model.answer_bytes)

    def state(self) -> counters.State:
        """What the daemon tells of itself. Raises ServerError."""
        try:
            return counters.read(self._root / "run/edged-admin/admin.sock")
        except subprocess.SubprocessError as error:
            raise ServerError(f"edged does not tell its state: {error}\n{processes.tail(self.log)}") from error

    def counted(self, model: Model) -> counters.Counters:
        return self.state().models[model.name]

    def batches(self, model: Model) -> dict[int, int]:
        """How many of a model's it has run, by their rows. Raises ServerError."""
        return self.state().batches[model.name]
