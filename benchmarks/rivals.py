"""Other servers of the same protocol, each in a virtual environment of its own under .cache/bench.

They listen on loopback TCP, and run the same ONNX files in the process that takes the requests.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from benchmarks import processes
from benchmarks.ask import once
from benchmarks.models import REPO, Model
from benchmarks.processes import Cores
from benchmarks.servers import INFER, START_S, Server, ServerError, Target

CACHE = REPO / ".cache/bench"
PROGRAMS = REPO / "benchmarks/programs"
INSTALL_S = 600.0
ACCEPT_S = 0.01


class Rival(Server):
    """A server of somebody else."""

    requirements: Sequence[str] = ()

    def __init__(self, folder: Path, models: Sequence[Model]) -> None:
        super().__init__(folder, models)
        self.port = _free_port()
        self._answer_bytes: dict[str, int] = {}

    @property
    def programs(self) -> Path:
        """The folder of what its virtual environment can run."""
        return CACHE / self.name / "bin"

    def start(self, cores: Cores) -> None:
        """Installs it when it is not, starts it, and waits until it answers for every model. Raises ServerError."""
        self._install()
        self.prepare()
        began = time.monotonic()
        with self.log.open("ab") as log:
            self._process = processes.start(self.arguments(), cores, log, {"PYTHONPATH": str(self.folder)})
        for _ in processes.deadline(START_S):
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            if self._process.poll() is not None:
                raise self._failed()
            time.sleep(ACCEPT_S)
        self.ready_s = time.monotonic() - began
        for model in self.models:
            self._answer_bytes[model.name] = self._first_answer(self._target(model, 0))

    def target(self, model: Model) -> Target:
        return self._target(model, self._answer_bytes[model.name])

    def prepare(self) -> None:
        """Writes what it needs into its folder."""

    @abstractmethod
    def arguments(self) -> list[str]: ...

    def _target(self, model: Model, answer_bytes: int) -> Target:
        return Target(f"127.0.0.1:{self.port}", INFER, model.request, answer_bytes)

    def _first_answer(self, target: Target) -> int:
        """The length of the answer; models may still be loading."""
        problem = ""
        for _ in processes.deadline(START_S):
            try:
                return once(target)
            except ServerError as error:
                problem = str(error)
        raise ServerError(f"{self.name} does not answer: {problem}\n{processes.tail(self.log)}")

    def _install(self) -> None:
        place = CACHE / self.name
        installed, wanted = place / "installed", "\n".join(self.requirements)
        if installed.exists() and installed.read_text() == wanted:
            return
        shutil.rmtree(place, ignore_errors=True)
        pip = [str(self.programs / "pip"), "--quiet", "--disable-pip-version-check", "install", *self.requirements]
        with self.log.open("ab") as log:
            try:
                for command in ([sys.executable, "-m", "venv", str(place)], pip):
                    subprocess.run(command, check=True, stdout=log, stderr=log, timeout=INSTALL_S)
            except (OSError, subprocess.SubprocessError) as error:
                raise ServerError(f"{self.name} cannot be installed: {error}\n{processes.tail(self.log)}") from error
        installed.write_text(wanted)


class KServe(Rival):
    """KServe: see programs/kserve_server.py."""

    name = "kserve"
    requirements = ("kserve==0.21.0", "onnxruntime")

    def arguments(self) -> list[str]:
        ports = [str(self.port), str(_free_port())]
        models = [f"{model.name}={model.onnx}" for model in self.models]
        return [str(self.programs / "python"), str(PROGRAMS / "kserve_server.py"), *ports, *models]


class MLServer(Rival):
    """MLServer, with its own start; without its parallel workers, which cost it more than they give here."""

    name = "mlserver"
    requirements = ("mlserver==1.7.1", "onnxruntime")

    def arguments(self) -> list[str]:
        return [str(self.programs / "mlserver"), "start", str(self.folder)]

    def prepare(self) -> None:
        settings = {
            "host": "127.0.0.1",
            "http_port": _free_port(),
            "grpc_port": self.port,
            "metrics_endpoint": None,
            "parallel_workers": 0,
            "debug": False,
            "environments_dir": str(self.folder / "environments"),
            "grpc_max_message_length": 64 * 1024 * 1024,
        }
        (self.folder / "settings.json").write_text(json.dumps(settings))
        shutil.copy(PROGRAMS / "mlserver_runtime.py", self.folder)
        for model in self.models:
            place = self.folder / model.name
            place.mkdir()
            served = {
                "name": model.name,
                "implementation": "mlserver_runtime.Onnx",
                "parameters": {"uri": model.onnx},
            }
            (place / "model-settings.json").write_text(json.dumps(served))


RIVALS: dict[str, type[Rival]] = {each.name: each for each in (KServe, MLServer)}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
