"""edgectl against a real daemon, as a person and as a program call it."""

from __future__ import annotations

import fcntl
import grp
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.shell_completion import ShellComplete
from support import bundles
from support.daemon import DIGITS, PATIENCE_S, REPO, Daemon

from edged import __version__
from edged._pb.edged.v1 import admin_pb2
from edged.ctl.asked import Asked
from edged.ctl.client import Client
from edged.ctl.main import cli
from edged.errors import EdgedError

PICTURES = sorted((REPO / "tests/data/digits").glob("*.png"))
WRONG = REPO / "tests/data/bundles/digits-3-wrong"
COMMAND = [sys.executable, "-m", "edged.ctl.main"]
NOBODY = 65534

Done = subprocess.CompletedProcess[str]


def edgectl(*arguments: object, root: Path | None = None, **options: Any) -> Done:
    """Runs it to its end."""
    where = ["--root", str(root)] if root else []
    words = [*COMMAND, *where, *(str(each) for each in arguments)]
    return subprocess.run(words, check=False, capture_output=True, text=True, timeout=PATIENCE_S, **options)


def document(done: Done) -> Any:
    """The one JSON document that it wrote."""
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def infer(daemon: Daemon, *arguments: object, **options: Any) -> Done:
    return edgectl("infer", *arguments, root=daemon.root, **options)


def test_version(daemon: Daemon):
    done = edgectl("version", root=daemon.root)
    assert (done.returncode, done.stdout) == (0, f"edgectl  {__version__}\nedged    {__version__}\n")
    assert document(edgectl("version", "--json", root=daemon.root)) == {
        "edgectl": __version__,
        "edged": __version__,
        "reason": "",
    }


def test_status(daemon: Daemon):
    done = edgectl("status", root=daemon.root)
    assert done.returncode == 0
    assert done.stderr == ""
    status = daemon.status()
    assert done.stdout.splitlines()[0] == status.summary
    assert re.search(rf"^pid +{daemon.pid}$", done.stdout, re.MULTILINE)
    assert f"unix:{daemon.admin_socket}" in done.stdout
    assert len(re.findall(r"\bready +\d+ ok", done.stdout)) == len(status.models)


def test_status_for_programs(daemon: Daemon):
    found = document(edgectl("--json", "status", root=daemon.root))
    assert found["state"] == "serving"
    assert found["ready"] is True
    assert found["pid"] == daemon.pid
    assert found["listening"] == [f"unix:{daemon.socket}", f"unix:{daemon.admin_socket}"]
    assert [model["name"] for model in found["models"]] == [model.name for model in daemon.status().models]
    assert {worker["state"] for worker in found["workers"]} == {"ready"}


def test_models(daemon: Daemon):
    assert infer(daemon, "digits", PICTURES[0]).returncode == 0
    (row,) = re.findall(r"^digits .*$", edgectl("models", root=daemon.root).stdout, re.MULTILINE)
    (found,) = [each for each in daemon.status().models if each.name == "digits"]
    assert re.fullmatch(
        rf"digits +1  fp32 +onnxruntime  ready  {found.requests_ok} ok(, .*)?  +(\d+ s|1 min|just now).*"
        + found.digest[:8],
        row,
    )
    (told,) = [
        each for each in document(edgectl("models", "--json", root=daemon.root))["models"] if each["name"] == "digits"
    ]
    assert told["digest"] == found.digest
    assert told["requests_ok"] == found.requests_ok
    assert told["last_success"].endswith("Z")


def test_workers(daemon: Daemon):
    done = edgectl("workers", root=daemon.root)
    (worker,) = [each for each in daemon.status().workers if each.model == "digits"]
    (row,) = re.findall(r"^digits .*$", done.stdout, re.MULTILINE)
    assert re.fullmatch(rf"digits +1  fp32 +{worker.pid}  ready +\d.*s( +\d+){{3}} +(\d+|-) +\d\.\d+ s +\d+", row)
    assert "all: at most " in done.stdout
    (told,) = [
        each
        for each in document(edgectl("workers", "--json", root=daemon.root))["workers"]
        if each["model"] == "digits"
    ]
    assert told["pid"] == worker.pid
    assert told["load_time_s"] > 0
    assert told["peak_bytes"] > 2**20
    assert told["charged_bytes"] > told["private_bytes"] > 2**20
    assert told["cpu_time_s"] >= 0
    assert told["pss_bytes"] == 0
    assert "PSS" not in done.stdout
    (told,) = [
        each
        for each in document(edgectl("workers", "--json", "--pss", root=daemon.root))["workers"]
        if each["model"] == "digits"
    ]
    assert told["resident_bytes"] > told["pss_bytes"] > 2**20
    assert "PSS" in edgectl("workers", "--pss", root=daemon.root).stdout


def test_events(daemon: Daemon):
    events = document(edgectl("events", "--json", root=daemon.root))["events"]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert "started" in [event["code"] for event in events]
    lines = edgectl("events", "--after", 2, "--limit", 1, root=daemon.root).stdout.splitlines()
    assert len(lines) == 2
    assert lines[1].endswith(f"{events[-1]['message']} [{events[-1]['code']}]")
    assert edgectl("events", "--after", 10**6, root=daemon.root).stdout == "no events\n"


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_pictures_of_digits_are_read_right(daemon: Daemon, picture: Path):
    done = infer(daemon, "digits", picture, "--top", 1)
    assert done.returncode == 0
    assert done.stderr == ""
    who, title, best = done.stdout.splitlines()
    assert re.fullmatch(r"digits revision 1, variant fp32, level nominal: answered in \d+\.\d ms", who)
    assert title == "scores  FP32 [1, 10], the largest:"
    assert best.split()[0] == picture.stem.split("-")[0]


def test_a_picture_for_programs(daemon: Daemon):
    found = document(infer(daemon, "digits", PICTURES[7], "--json", "--revision", 1, "--output", "scores"))
    assert (found["model"], found["revision"], found["variant"]) == ("digits", 1, "fp32")
    (scores,) = found["outputs"]
    assert scores["shape"] == [1, 10]
    assert scores["largest"][0][0]["index"] == int(np.argmax(scores["data"])) == 7


def test_arrays_come_back_as_they_went(daemon: Daemon, tmp_path: Path):
    values = np.array([[1, 2.5, -3]], np.float32)
    np.savez(tmp_path / "in.npz", x=values)
    (output,) = document(infer(daemon, "identity-fp32", tmp_path / "in.npz", "--json"))["outputs"]
    assert output["data"] == values.reshape(-1).tolist()
    np.savez(tmp_path / "two.npz", a=values, b=values)
    told = infer(daemon, "sums", tmp_path / "two.npz", "--output", "difference").stdout.splitlines()[1:]
    assert told == ["difference  FP32 [1, 3]: 0, 0, 0"]


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", [True, False]),
        ("UINT64", [2**64 - 1, 0]),
        ("INT8", [-128, 127]),
        ("FP16", [0.5, -2.0]),
        ("BF16", [1.0, -2.0]),
        ("FP64", [1e300, 0.1]),
        ("BYTES", ["\x1b[31mred", "é"]),
    ],
)
def test_json_comes_back_as_it_went(daemon: Daemon, datatype: str, data: list[Any]):
    done = infer(daemon, f"identity-{datatype.lower()}", "-", "--json", input=json.dumps({"x": [data]}))
    assert done.stderr == ""
    (output,) = document(done)["outputs"]
    assert (output["datatype"], output["shape"], output["data"]) == (datatype, [1, 2], data)


def test_what_a_model_says_cannot_steer_the_terminal(daemon: Daemon):
    done = infer(daemon, "identity-bytes", "-", input='["\\u001b[2J\\u009b\\u202e"]')
    assert done.stdout.splitlines()[1] == 'y  BYTES [1, 1]: "\\x1b[2J\\x9b\\u202e"'


def test_a_model_without_a_batch_axis_gets_none(daemon: Daemon):
    (output,) = document(infer(daemon, "unbatched", "-", "--json", input="[[[1, 2]]]"))["outputs"]
    assert output["shape"] == [1, 1, 2]


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        ("digits", "[1, 2]", "standard input: what is given for 'image' has shape [2]; the model takes [-1, 1, 8, 8]"),
        ("identity-uint8", "[1.5]", "standard input: x[0] is 1.5; UINT8 takes whole numbers from 0 to 255"),
        ("identity-bool", "[1]", "standard input: x[0] is 1; BOOL takes true and false"),
        ("sums", "[1]", "standard input names no inputs, and the model takes 2"),
        ("sums", '{"a": [1,2,3]}', "standard input holds no 'b'; the model's inputs are: a, b; it holds: a"),
        ("sums", "{", "standard input is not JSON"),
    ],
)
def test_what_does_not_fit_is_not_sent(daemon: Daemon, model: str, given: str, said: str):
    done = infer(daemon, model, "-", input=given)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("edgectl: standard input")
    assert said in line


def test_a_picture_for_a_model_that_takes_none(daemon: Daemon):
    done = infer(daemon, "sums", PICTURES[0], "--json")
    assert done.returncode == 2
    assert "a picture is one input, and the model takes 2: a FP32 [-1, 3], b FP32 [-1, 3]" in done.stderr
    assert document(done)["error"]["code"] == "invalid_argument"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nothing", PICTURES[0]], "model_not_found"),
        (["digits", PICTURES[0], "--revision", 9], "revision_not_found"),
        (["digits", PICTURES[0], "--output", "nothing"], "invalid_tensor"),
    ],
)
def test_what_the_daemon_refuses_is_told_in_its_words(daemon: Daemon, arguments: list[Any], code: str):
    done = infer(daemon, *arguments)
    assert done.returncode == 1
    assert done.stderr.endswith(f" ({code})\n")
    done = infer(daemon, *arguments, "--json")
    assert done.returncode == 1
    assert document(done)["error"]["code"] == code


def test_models_are_completed(daemon: Daemon):
    environment = {"_EDGECTL_COMPLETE": "bash_complete", "COMP_WORDS": "edgectl infer identity-bo", "COMP_CWORD": "2"}
    done = edgectl(env={**os.environ, **environment, "EDGED_ROOT": str(daemon.root)})
    assert done.stdout == "plain,identity-bool\n"
    environment["COMP_WORDS"] = f"edgectl --root {daemon.root} infer digi"
    done = edgectl(env={**os.environ, **environment, "COMP_CWORD": "4"})
    assert done.stdout == "plain,digits\n"


WANT_A_MODEL = "bench infer load unload stats explain history rollback pin unpin"


@pytest.mark.parametrize("words", [*WANT_A_MODEL.split(), "quarantine release"])
def test_models_are_offered_wherever_one_is_wanted(daemon: Daemon, words: str):
    offers = ShellComplete(cli, {"obj": Asked(root=daemon.root)}, "edgectl", "_EDGECTL_COMPLETE")
    assert "digits" in [each.value for each in offers.get_completions(words.split(), "dig")]


def on_terminal(arguments: list[str], columns: int = 80) -> str:
    """What a person sees who runs it in a terminal."""
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen(
        [*COMMAND, *arguments], stdin=its, stdout=its, stderr=its, env={**environment, "TERM": "xterm-256color"}
    ) as process:
        os.close(its)
        seen = b""
        with stopping(process):
            try:
                while part := os.read(mine, 65536):
                    seen += part
            except OSError:  # EIO: the other end is closed
                pass
        os.close(mine)
    return seen.decode()


@contextmanager
def stopping(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Kills a process that does not end by itself, so that what waits for it fails and does not hang."""
    timer = threading.Timer(PATIENCE_S, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@pytest.mark.parametrize("command", ["status", "models", "workers", "events", "--help"])
def test_everything_fits_into_80_columns(daemon: Daemon, command: str):
    seen = on_terminal(["--root", str(daemon.root), command])
    bare = re.sub(r"\x1b\[[0-9;]*m", "", seen)
    assert "\x1b" not in bare
    if command in ("status", "models"):
        assert "\x1b[32mready" in seen
    too_long = [line for line in bare.splitlines() if len(line) > 80]
    assert not too_long
    if command == "models":
        assert re.search(r"^digits +1  fp32 +onnxruntime  ready", bare, re.MULTILINE)


class Watch:
    """`edgectl watch`, its lines read one by one."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "--root", str(root), "watch", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """The next line, without its time."""
        assert self.process.stdout is not None
        found = self.process.stdout.readline()
        assert found, f"watch has ended: {self.process.communicate()}"
        return found.rstrip("\n")

    def until(self, part: str) -> list[str]:
        """The next lines, up to the one that holds `part`."""
        lines = [self.line()]
        while part not in lines[-1]:
            lines.append(self.line())
        return lines


@contextmanager
def watching(root: Path, *arguments: str) -> Iterator[Watch]:
    watch = Watch(root, *arguments)
    with watch.process, stopping(watch.process):
        try:
            yield watch
        finally:
            watch.process.kill()


def test_watching_a_worker_die_and_the_daemon_stop(tmp_path: Path):
    with Daemon(tmp_path, [DIGITS], "[workers]\nrestart_min_s = 1\n") as daemon:
        daemon.start()
        (worker,) = daemon.status().workers
        os.kill(worker.pid, signal.SIGKILL)  # the first is replaced too fast to be seen
        daemon.wait_for(lambda status: status.ready and status.workers[0].pid != worker.pid)
        with watching(tmp_path) as watch, watching(tmp_path, "--json") as program:
            assert re.fullmatch(r"\d\d:\d\d:\d\d  serving, 1 of 1 models ready", watch.line())
            first = json.loads(program.line())
            assert first["ready"] is True
            (worker,) = daemon.status().workers
            os.kill(worker.pid, signal.SIGKILL)
            told = watch.until("loading → ready (variant fp32)")
            assert any(
                "digits revision 1 ready → loading: its worker ended (killed by SIGKILL)" in each for each in told
            )
            states = [first]
            while not (states[-1]["ready"] and states[-1]["workers"][0]["pid"] != worker.pid):
                states.append(json.loads(program.line()))
            assert any(not state["ready"] for state in states)
            assert states[-1]["workers"][0]["last_exit"] == "killed by SIGKILL"
            daemon.signal(signal.SIGTERM)
            for each in (watch, program):
                rest, errors = each.process.communicate(timeout=PATIENCE_S)
                assert (each.process.returncode, errors) == (0, "edgectl: edged has stopped\n")
                assert "draining" in rest.splitlines()[-1]
        assert daemon.wait_end() == 0


def test_watching_ends_with_ctrl_c(daemon: Daemon):
    with watching(daemon.root) as watch:
        assert "models ready" in watch.line()
        watch.process.send_signal(signal.SIGINT)
        _, errors = watch.process.communicate(timeout=PATIENCE_S)
    assert (watch.process.returncode, errors) == (0, "")


def test_a_device_that_is_not_ready(tmp_path: Path):
    inputs, outputs = [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])]
    node = bundles.helper.make_node("Identity", ["x"], ["y"])
    bundle = bundles.make_bundle(
        tmp_path / "tpu",
        bundles.onnx_model([node], inputs, outputs),
        inputs,
        outputs,
        name="tpu-only",
        extra='requires = { accelerator = "edgetpu" }\n',
    )
    why = "needs the accelerator edgetpu; there is none"
    with Daemon(tmp_path / "root", [bundle, DIGITS]) as daemon:
        daemon.start()
        done = edgectl("status", root=daemon.root)
        assert done.returncode == 1
        assert "state      degraded, not ready" in done.stdout
        assert why in done.stdout
        assert document(edgectl("status", "--json", root=daemon.root))["ready"] is False
        done = edgectl("models", root=daemon.root)
        assert done.returncode == 0
        assert f"tpu-only: variant cpu is passed over: {why} (incompatible_hardware)" in done.stdout.splitlines()
        done = infer(daemon, "tpu-only", "-", input="[1, 2]")
        assert done.returncode == 1
        assert done.stderr.endswith("(model_unavailable)\n")
        assert edgectl("status", "--wait", 0.2, root=daemon.root).returncode == 1


def test_waiting_for_a_daemon_that_is_being_started(tmp_path: Path):
    words = [*COMMAND, "--root", str(tmp_path), "status", "--wait", str(PATIENCE_S), "--json"]
    with (
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as waiting,
        stopping(waiting),
        Daemon(tmp_path, [DIGITS]) as daemon,
    ):
        daemon.start(wait=False)
        told, _ = waiting.communicate(timeout=PATIENCE_S)
        assert waiting.returncode == 0
        assert json.loads(told)["ready"] is True
        daemon.wait_told("READY=1")
    assert edgectl("status", "--wait", 0.2, root=tmp_path).returncode == 3


def test_a_message_too_large_names_the_setting(tmp_path: Path):
    bundle = bundles.identity_bundle(tmp_path, "FP32")
    with Daemon(tmp_path / "root", [bundle], "[listen]\nmax_message_mib = 1\n") as daemon:
        daemon.start()
        np.savez(tmp_path / "in.npz", x=np.zeros((1, 2**19), np.float32))
        done = infer(daemon, "identity-fp32", tmp_path / "in.npz")
    assert done.returncode == 1
    assert "listen.max_message_mib" in done.stderr


def test_a_daemon_that_hangs_is_told_in_time(tmp_path: Path):
    with Daemon(tmp_path, []) as daemon:
        daemon.start()
        daemon.signal(signal.SIGSTOP)
        try:
            for command in (["status"], ["watch"]):
                done = edgectl("--timeout", 0.3, *command, root=tmp_path)
                assert done.returncode == 3
                assert done.stderr.startswith(
                    "edgectl: edged did not answer within 0.3 s; give it longer with --timeout"
                )
            with Client(Asked(root=tmp_path, timeout_s=0.1), admin=True) as client:
                request, reply = admin_pb2.GetStatusRequest(), admin_pb2.Status
                with pytest.raises(EdgedError, match=r"did not answer within 0\.4 s"):
                    client.ask("edged.v1.Admin", "GetStatus", request, reply, timeout_s=0.4)
        finally:
            daemon.signal(signal.SIGCONT)


def test_a_daemon_that_was_killed_leaves_a_socket_that_nobody_listens_on(tmp_path: Path):
    with Daemon(tmp_path, []) as daemon:
        daemon.start()
        daemon.signal(signal.SIGKILL)
        daemon.wait_end()
        done = edgectl("status", root=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith(
        f"edgectl: edged is not running, or it listens elsewhere: nobody listens on {daemon.admin_socket}; start it"
    )


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="ctl-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


AS_ANOTHER = """\
import os, sys
import edged.ctl.client, edged.ctl.plain, edged.ctl.tables
from edged.ctl.main import run
groups = [int(each) for each in sys.argv.pop(1).split(",") if each]
os.setgroups(groups); os.setgid(65534); os.setuid(65534)
sys.exit(run(sys.argv[1:]))
"""
"""Becomes nobody once it has imported what it needs: nobody need not be able to read this checkout."""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a socket of another group, asked by another user")
def test_who_may_not_is_told_which_group_may(open_folder: Path):
    def as_nobody(*arguments: str, groups: str = "") -> Done:
        words = [sys.executable, "-c", AS_ANOTHER, groups, "--root", str(open_folder), *arguments]
        return subprocess.run(words, check=False, capture_output=True, text=True, timeout=PATIENCE_S)

    group = next(each for each in grp.getgrall() if each.gr_gid not in (0, NOBODY))
    folder = open_folder / "run/edged-admin"
    folder.mkdir(parents=True)
    folder.chmod(0o750)
    os.chown(folder, 0, group.gr_gid)
    with Daemon(open_folder, []) as daemon:
        daemon.start()
        assert daemon.admin_socket.stat().st_gid == group.gr_gid
        told = (
            f"edgectl: you may not connect to {daemon.admin_socket}: only the group {group.gr_name} may; "
            f"join it with `sudo usermod -aG {group.gr_name} $USER` and log in again, or try with sudo\n"
        )
        for barrier in ("folder", "socket"):
            done = as_nobody("status")
            assert (done.returncode, done.stderr, done.stdout) == (4, told, ""), barrier
            folder.chmod(0o755)
        done = as_nobody("models", "--json")
        assert done.returncode == 4
        assert document(done)["error"]["code"] == "not_permitted"
        done = as_nobody("version")
        assert done.returncode == 0
        assert f"you may not connect to {daemon.socket}" in done.stdout
        done = as_nobody("status", groups=str(group.gr_gid))
        assert (done.returncode, done.stderr) == (0, "")


def test_a_good_bundle_is_good():
    done = edgectl("bundle", "check", DIGITS)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "digits revision 1"
    for variant in ("fp32", "int8"):
        assert any(re.fullmatch(rf"{variant}  +\d+\.\d+ s  1 passed  +\d+", line) for line in lines)
        assert f"{variant}: goldens.npz: as expected: scores" in lines
    assert lines[-1] == "good"
    found = document(edgectl("bundle", "check", DIGITS, "--json"))
    assert found["good"] is True
    assert found["problems"] == found["warnings"] == []
    assert [variant["loads"] for variant in found["variants"]] == [True, True]
    assert all(variant["peak_bytes"] > 2**20 for variant in found["variants"])


def test_a_bundle_is_loaded_under_the_settings_of_the_device(tmp_path: Path):
    settings = tmp_path / "etc/edged/edged.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text("[workers]\nload_s = 0.001\nfirst_inference_s = 0.002\n")
    done = edgectl("bundle", "check", DIGITS, root=tmp_path)
    assert done.returncode == 1
    for variant in ("fp32", "int8"):
        assert f"{variant} does not load: loading took longer than 0.003 s; see caps of the variant" in done.stdout


def test_a_bundle_that_fails_its_goldens_is_not():
    done = edgectl("bundle", "check", WRONG)
    assert done.returncode == 1
    assert "goldens.npz: output scores: 6 of 64 rows agree (the least allowed share is 0.95)" in done.stdout
    assert done.stdout.splitlines()[-1] == "not good: 2 variants failed: fp32, int8"
    done = edgectl("bundle", "check", WRONG, "--json")
    assert done.returncode == 1
    goldens = [golden for variant in document(done)["variants"] for golden in variant["goldens"]]
    assert [(golden["ok"], golden["code"]) for golden in goldens] == [(False, "golden_mismatch")] * 2


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the digits bundle, not packed."""
    folder = Path(shutil.copytree(DIGITS, tmp_path / "digits"))
    (folder / "manifest.json").unlink()
    return folder


def test_a_bundle_is_checked_before_it_is_packed_and_then_packed(copy: Path):
    checked = document(edgectl("bundle", "check", copy, "--json"))
    assert checked["good"] is True
    assert not (copy / "manifest.json").exists()
    packed = document(edgectl("bundle", "pack", copy, "--json"))
    assert packed["digest"] == checked["digest"]
    assert (copy / "manifest.json").read_bytes() == (DIGITS / "manifest.json").read_bytes()
    assert {file["path"] for file in packed["files"]} == {path.name for path in copy.iterdir()} - {
        "bundle.toml",
        "manifest.json",
    }
    told = edgectl("bundle", "pack", copy).stdout
    assert f"digest  {packed['digest']}" in told
    (copy / "bundle.toml").unlink()
    assert edgectl("bundle", "check", copy).returncode == 0  # as a device has it


def test_warnings_are_told_and_do_not_fail(copy: Path):
    edgectl("bundle", "pack", copy)
    text = (copy / "bundle.toml").read_text()
    (copy / "bundle.toml").write_text(text.replace("revision = 1", "revision = 2"))
    (copy / "stray.bin").touch()
    done = edgectl("bundle", "check", copy)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"warning: {copy}/manifest.json: is not what packing the bundle would write now")
    assert lines[1].startswith(f"warning: {copy}/stray.bin: is not named by the bundle")
    assert lines[2] == "digits revision 2"
    assert lines[-1] == "good, with 2 warnings"


def test_every_problem_is_told_at_once(copy: Path):
    text = (copy / "bundle.toml").read_text()
    (copy / "bundle.toml").write_text(text.replace("FP32", "FP33").replace('file = "warmup.npz"', 'file = "w.npz"'))
    done = edgectl("bundle", "check", copy)
    assert done.returncode == 1
    *problems, verdict = done.stdout.splitlines()
    assert len(problems) == 3
    assert all(re.match(rf"problem: {re.escape(str(copy))}/\S+: ", line) for line in problems)
    assert verdict == "not good: 3 problems"
    told = document(edgectl("bundle", "check", copy, "--json"))
    assert {problem["key"] for problem in told["problems"]} == {
        "inputs[0].datatype",
        "outputs[0].datatype",
        "warmup[0].file",
    }
    done = edgectl("bundle", "pack", copy)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 3
    assert not (copy / "manifest.json").exists()


def test_a_model_that_is_not_as_declared_does_not_load(copy: Path):
    text = (copy / "bundle.toml").read_text()
    (copy / "bundle.toml").write_text(text.replace("[-1, 1, 8, 8]", "[-1, 1, 9, 9]"))
    done = edgectl("bundle", "check", copy)
    assert done.returncode == 1
    assert "fp32 does not load: model.onnx is not what the manifest says: input 'image' is declared" in done.stdout


def test_a_file_that_was_changed_after_packing_does_not_load(copy: Path):
    edgectl("bundle", "pack", copy)
    (copy / "bundle.toml").unlink()
    content = bytearray((copy / "model.onnx").read_bytes())
    content[-1] ^= 1
    (copy / "model.onnx").write_bytes(content)
    done = edgectl("bundle", "check", copy)
    assert done.returncode == 1
    assert "fp32 does not load: model.onnx has the digest" in done.stdout


def test_a_folder_that_is_no_bundle(tmp_path: Path):
    done = edgectl("bundle", "check", tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith(f"problem: {tmp_path}: has no bundle.toml; write one there")


def test_what_this_device_cannot_run_is_not_called_good(copy: Path):
    text = (copy / "bundle.toml").read_text().replace('requires.runtime = ">=1.20"', 'requires.accelerator = "edgetpu"')
    (copy / "bundle.toml").write_text(text)
    done = edgectl("bundle", "check", copy)
    assert done.returncode == 1
    assert "fp32 is passed over: needs the accelerator edgetpu" in done.stdout
    assert done.stdout.splitlines()[-1] == "not good: no variant can run on this device, so none was tried"


def running_worker(process: subprocess.Popen[Any]) -> psutil.Process:
    """Its worker, once that runs its own program: until then the process that starts it waits for it."""
    while process.poll() is None:
        for child in psutil.Process(process.pid).children():
            with suppress(psutil.NoSuchProcess):
                if "edged.worker.host" in child.cmdline():
                    return child
    raise AssertionError("it ended before a worker was seen")


def test_ctrl_c_ends_a_check_and_its_worker():
    words = [*COMMAND, "bundle", "check", str(DIGITS)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process, stopping(process):
        worker = running_worker(process)
        worker.suspend()  # so that the check cannot come to its end
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
    assert not worker.is_running()


TRITON = """\
name: "digits"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [{ name: "image" data_type: TYPE_FP32 dims: [1, 8, 8] }]
output [{ name: "scores" data_type: TYPE_FP32 dims: [10] }]
optimization {}
"""


def test_a_triton_model_becomes_a_bundle(tmp_path: Path):
    source = tmp_path / "triton"
    (source / "4").mkdir(parents=True)
    shutil.copy(DIGITS / "model.onnx", source / "4/model.onnx")
    (source / "config.pbtxt").write_text(TRITON)
    done = edgectl("bundle", "import", source, tmp_path / "made", "--name", "imported")
    assert done.returncode == 0
    assert re.search(r"^model +imported revision 4$", done.stdout, re.MULTILINE)
    assert re.search(r"^left out +optimization: not carried over", done.stdout, re.MULTILINE)
    checked = edgectl("bundle", "check", tmp_path / "made")
    assert checked.returncode == 0, checked.stdout
    assert "acceptance.goldens: there are none" in checked.stdout
    told = document(edgectl("bundle", "import", source, tmp_path / "again", "--revision", 4, "--json"))
    assert (told["name"], told["revision"], told["files"]) == ("digits", 4, ["model.onnx"])
    refused = edgectl("bundle", "import", source, tmp_path / "again")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"edgectl: {tmp_path}/again: is no empty folder")


def test_the_command_is_installed(daemon: Daemon):
    script = Path(sys.executable).with_name("edgectl")
    if not script.exists():
        pytest.skip("edged is not installed beside this Python")
    done = subprocess.run([script, "--root", daemon.root, "status"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_plain_data_matches_what_the_daemon_says(daemon: Daemon):
    """Every field of the messages, also of those that are added later, reaches programs."""
    found = document(edgectl("status", "--json", root=daemon.root))
    assert set(found) == {field.name for field in admin_pb2.Status.DESCRIPTOR.fields} - {"cpu_time"} | {"cpu_time_s"}
    fields = {field.name for field in admin_pb2.Worker.DESCRIPTOR.fields} - {"load_time", "cpu_time"}
    fields |= {"load_time_s", "cpu_time_s"}
    assert all(set(worker) == fields for worker in found["workers"])
