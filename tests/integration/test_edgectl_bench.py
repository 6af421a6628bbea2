"""edgectl's commands that look at a device at work and put it to work, on a real daemon."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from onnx import helper
from sim.sysfs import Sysfs
from support.bundles import make_bundle, onnx_model
from support.daemon import DIGITS, PATIENCE_S, Daemon
from support.polling import until

from edged.ctl import callers
from edged.ctl.bench import bench
from edged.rpc import connections, server

X, Y = [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])]
Done = subprocess.CompletedProcess[str]


def command(root: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "edged.ctl.main", "--root", str(root), *map(str, arguments)]


def edgectl(root: Path, *arguments: object) -> Done:
    return subprocess.run(command(root, *arguments), capture_output=True, text=True, timeout=PATIENCE_S)


def told(root: Path, *arguments: object, status: int = 0) -> Any:
    done = edgectl(root, "--json", *arguments)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


def answered(daemon: Daemon, model: str) -> int:
    [found] = [each for each in daemon.status().models if each.name == model]
    return int(found.requests_ok)


def until_answered(daemon: Daemon, model: str, requests: int) -> None:
    """Counters alone are no change that watchers are told of."""
    what = f"more than {requests} requests for {model} are answered"
    until(lambda: answered(daemon, model), what, holds=lambda count: count > requests, log=daemon.log)


class TestBench:
    def test_callers_ask_again_and_again(self, daemon: Daemon):
        before = answered(daemon, "digits")
        found = told(daemon.root, "bench", "digits", "--callers", 40, "--seconds", 0.5, "--rows", 2)
        [whole] = found["parts"]
        asked_first = 1
        assert answered(daemon, "digits") - before == whole["answered"] + asked_first
        assert (whole["errors"], whole["not_sent"]) == ({}, 0)
        assert 0 < whole["p50_ms"] <= whole["p90_ms"] <= whole["p99_ms"] <= whole["longest_ms"]
        assert whole["requests_per_s"] == pytest.approx(whole["answered"] / whole["seconds"])
        assert found["cpu"]["front_us"] > 0
        assert (found["revision"], found["variant"], found["rows"], found["callers"]) == (1, "fp32", 2, 40)

    def test_requests_come_at_a_rate(self, daemon: Daemon):
        """For longer than it takes until whoever holds too many connections loses some."""
        rate, seconds = 40, connections._EVERY_S + 0.5
        found = told(daemon.root, "bench", "digits", "--rate", rate, "--seconds", seconds)
        assert (found["parts"][0]["answered"], found["parts"][0]["errors"]) == (rate * seconds, {})

    def test_the_most_callers_have_no_more_connections_than_edged_leaves_them(self):
        [option] = [each for each in bench.params if each.name == "callers"]
        most = max(callers.MAX_UNDER_WAY, option.type.high)
        its_own = 1
        assert math.ceil(most / callers._CALLERS_A_CONNECTION) + its_own <= connections.MOST_PER_PROCESS
        assert callers._CALLERS_A_CONNECTION <= server._MAX_CALLS_PER_CONNECTION

    def test_too_many_for_the_queue_are_not_sent_or_refused_and_told(self, tmp_path: Path):
        with Daemon(tmp_path / "root", [DIGITS], "[serving]\nqueue_requests = 1\n") as daemon:
            daemon.start()
            daemon.wait_for(lambda status: status.ready)
            done = edgectl(daemon.root, "bench", "digits", "--callers", 32, "--seconds", 0.5)
        assert done.returncode == 0
        assert "errors: overloaded " in done.stdout

    @pytest.mark.parametrize("model", ["unbatched", "identity-bytes", "identity-bf16", "identity-bool"])
    def test_any_model_is_asked_for_what_it_takes(self, daemon: Daemon, model: str):
        assert told(daemon.root, "bench", model, "--seconds", 0.1)["parts"][0]["answered"] > 0

    def test_a_person_reads_what_was_found(self, daemon: Daemon):
        done = edgectl(daemon.root, "bench", "digits", "--seconds", 0.2, "--priority", 2)
        lines = done.stdout.splitlines()
        assert lines[0] == "digits revision 1, variant fp32: 1 caller, 1 row each, priority 2"
        assert lines[2].split() == ["PART", "ANSWERED", "REQ/S", "P50", "P90", "P99", "MAX", "ERRORS", "°C"]
        assert lines[3].split()[0] == "all"
        assert lines[5].startswith("processor time per request: ")
        assert "this device is loaded for 0.2 s" in done.stderr

    def test_the_hottest_sensor_is_told(self, tmp_path: Path):
        tree = Sysfs(tmp_path / "root")
        tree.zone(0, "cpu-thermal", 51.0, {"passive": 95.0})
        tree.zone(1, "gpu-thermal", 47.0, {"passive": 95.0})
        with Daemon(tmp_path / "root", [DIGITS]) as daemon:
            daemon.start()
            daemon.wait_for(lambda status: status.ready)
            assert told(daemon.root, "bench", "digits", "--seconds", 0.3)["parts"][0]["hottest_c"] == 51

    def test_ctrl_c_ends_it_and_tells_what_was_measured(self, daemon: Daemon):
        before = answered(daemon, "digits")
        with subprocess.Popen(
            command(daemon.root, "bench", "digits", "--minutes", 30),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            until_answered(daemon, "digits", before + 20)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert "ended early" in err
        row = next(line.split() for line in out.splitlines() if line.startswith("all "))
        assert int(row[1]) > 10

    @pytest.mark.parametrize("load", ["--callers=4", "--rate=50"])
    def test_a_daemon_that_dies_ends_it_and_what_was_measured_is_told(self, tmp_path: Path, load: str):
        with Daemon(tmp_path / "root", [DIGITS]) as daemon:
            daemon.start()
            daemon.wait_for(lambda status: status.ready)
            with subprocess.Popen(
                command(daemon.root, "bench", "digits", "--minutes", 30, load),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as process:
                until_answered(daemon, "digits", 20)
                daemon.signal(signal.SIGKILL)
                out, err = process.communicate(timeout=PATIENCE_S)
            daemon.wait_end()
        assert process.returncode == 3
        assert "edged went away while it was asked" in err
        assert "Traceback" not in err
        assert "processor time per request: n/a" in out

    @pytest.mark.parametrize(
        ("arguments", "status", "said"),
        [
            (("nobody",), 1, "there is no model 'nobody'"),
            (("digits", "--rows", "65536"), 1, "(invalid_tensor)"),
            (("unbatched", "--rows", "2"), 2, "this model has no batch axis"),
            (("digits", "--revision", "9"), 1, "(revision_not_found)"),
            (("digits", "--callers", "2", "--rate", "2"), 2, "exclude each other"),
            (("digits", "--seconds", "2", "--minutes", "2"), 2, "exclude each other"),
            (("digits", "--callers", "1001"), 2, "no whole number from 1 to 1000"),
            (("digits", "--rate", "nan"), 2, "no number from 0.01"),
        ],
    )
    def test_what_cannot_be_done_is_said_at_once(self, daemon: Daemon, arguments: Any, status: int, said: str):
        done = edgectl(daemon.root, "bench", *arguments)
        assert (done.returncode, done.stdout) == (status, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr


class TestTop:
    def test_one_look_is_told_where_there_is_no_terminal(self, daemon: Daemon):
        done = edgectl(daemon.root, "top", "--every", 0.2)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines[0].startswith(f"{daemon.status().summary}; nominal; edged ")
        assert lines[2].split()[:3] == ["MODEL", "REV", "STATE"]
        assert [line.split()[0] for line in lines[3:]] == [model.name for model in daemon.status().models]

    def test_programs_are_told_what_is_asked(self, tmp_path: Path):
        made = make_bundle(
            tmp_path / "neg", onnx_model([helper.make_node("Neg", ["x"], ["y"])], X, Y), X, Y, name="neg"
        )
        with Daemon(tmp_path / "root", [made]) as daemon:
            daemon.start()
            daemon.wait_for(lambda status: status.ready)
            with subprocess.Popen(
                command(daemon.root, "bench", "neg", "--seconds", 60),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as load:
                until_answered(daemon, "neg", 10)
                found = told(daemon.root, "top", "--every", 0.5)
                load.send_signal(signal.SIGINT)
        [model] = found["models"]
        assert (model["model"], model["state"], model["failed_per_s"]) == ("neg", "ready", 0)
        assert model["requests_per_s"] > 0
        assert model["rows_per_s"] == model["requests_per_s"]
        assert 0 < model["p50_ms"] <= model["p99_ms"]
        assert found["cpu_percent"] > 0
        assert found["resident_bytes"] > 2**20

    def test_a_terminal_shows_it_until_q_and_is_left_as_it_was(self, daemon: Daemon):
        mine, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        before = termios.tcgetattr(its)
        process = subprocess.Popen(
            command(daemon.root, "top", "--every", 0.2),
            stdin=its,
            stdout=its,
            stderr=its,
            env={**os.environ, "TERM": "xterm"},
        )
        seen = b""
        while b"digits" not in seen:
            seen += os.read(mine, 65536)
        os.write(mine, b"xq")
        while process.poll() is None:
            try:
                seen += os.read(mine, 65536)
            except OSError:
                break
            if b"\x1b[?1049l" in seen:  # the screen that was there before is shown again
                process.wait(PATIENCE_S)
        assert process.wait(PATIENCE_S) == 0
        assert termios.tcgetattr(its) == before
        os.close(mine)
        os.close(its)

    @pytest.mark.parametrize("kind", ["dumb", "unknown"])
    def test_a_terminal_that_draws_nothing_gets_one_look(self, daemon: Daemon, kind: str):
        mine, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        environment = {**os.environ, "TERM": kind}
        with subprocess.Popen(
            command(daemon.root, "top", "--every", 0.2), stdin=its, stdout=its, stderr=its, env=environment
        ) as process:
            try:
                assert process.wait(PATIENCE_S) == 0
            finally:
                process.kill()  # else one that goes on would be waited for
        seen = os.read(mine, 65536)
        os.close(mine)
        os.close(its)
        assert b"REQ/S" in seen
        assert b"digits" in seen
        assert b"\x1b" not in seen

    def test_nobody_to_look_at(self, tmp_path: Path):
        done = edgectl(tmp_path, "top")
        assert done.returncode == 3
        assert "edged is not running" in done.stderr
