"""The real daemon from its start to its end: what it tells its service manager, what it does on signals, which faults
it survives, and what it says of those that it does not."""

import gc
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import grpc
import psutil
import pytest
import trustme
from support.daemon import DIGITS, PATIENCE_S, REPO, Daemon, add_bundle
from support.polling import until
from support.ports import free_port
from support.slow import A_WHILE, VERY_LONG, count_to, counting_bundle

from edged import __version__
from edged._pb.edged.v1 import admin_pb2
from edged._pb.inference import grpc_service_pb2 as pb
from edged.rpc.status import CODE_KEY

SERVICE = "inference.GRPCInferenceService"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")


@pytest.fixture
def make(tmp_path):
    """Daemons on one root, ended when the test is."""
    made = []

    def make(bundles=(), settings="", root=tmp_path):
        made.append(Daemon(root, bundles, settings))
        return made[-1]

    before = open_sockets()
    yield make
    for each in made:
        if each.process is not None and each.process.poll() is None:
            each.process.kill()  # a test that wants to see an orderly end has seen it
            each.process.wait()
        each.stop()
    end = time.monotonic() + PATIENCE_S
    while open_sockets() - before and time.monotonic() < end:  # grpc closes its own in the background
        gc.collect()


def open_sockets():
    """Those of this process."""
    return {target for link in Path("/proc/self/fd").iterdir() if (target := read_link(link)).startswith("socket:")}


def read_link(link):
    try:
        return str(link.readlink())
    except OSError:  # closed meanwhile
        return ""


@pytest.fixture
def counts(tmp_path):
    """A bundle that is as slow as it is asked to be."""
    return counting_bundle(tmp_path / "made")


def digits_request():
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="FP32", shape=[1, 1, 8, 8])
    return pb.ModelInferRequest(model_name="digits", inputs=[tensor], raw_input_contents=[bytes(4 * 64)])


def is_ready(channel, model=""):
    """ServerReady, or ModelReady."""
    kind = "Model" if model else "Server"
    request = getattr(pb, f"{kind}ReadyRequest")(**({"name": model} if model else {}))
    reply = getattr(pb, f"{kind}ReadyResponse")
    stub = channel.unary_unary(f"/{SERVICE}/{kind}Ready", type(request).SerializeToString, reply.FromString)
    return stub(request, timeout=PATIENCE_S).ready


def begin(daemon, turns):
    """Asks for something slow, and returns once a worker has it."""
    stub = daemon.channel().unary_unary(
        f"/{SERVICE}/ModelInfer", pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
    )
    under_way = stub.future(count_to(turns), timeout=PATIENCE_S)
    until(
        lambda: under_way.done() or any(model.executing for model in daemon.status().models),
        "a worker has it",
        log=daemon.log,
    )
    assert not under_way.done(), under_way
    return under_way


def codes(daemon):
    return [event.code for event in daemon.events()]


def worker_pids(daemon):
    return [worker.pid for worker in daemon.status().workers]


def everything_told(daemon):
    """All that its service manager was told until now."""
    while select.select([daemon._manager], [], [], 0)[0]:
        daemon.told.append(daemon._manager.recv(65536).decode())
    return daemon.told


def wait_gone(pids):
    """Waits until no such process runs; one that has ended and waits for its parent does not run."""
    for pid in pids:
        until(
            lambda pid=pid: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE,
            f"process {pid} has ended",
        )


def refusal(call):
    """The status, the stable code and the message of a call that is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return told(caught.value)


def told(error):
    return error.code(), dict(error.trailing_metadata()).get(CODE_KEY), error.details()


def fails(root, *arguments, **options):
    """Starts a daemon that cannot run; its exit status and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "edged", "--root", str(root), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        **options,
    )
    return done.returncode, done.stderr


def write_settings(root, text):
    path = root / "etc/edged/edged.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


class TestStart:
    def test_is_told_when_both_sockets_answer_and_the_model_is_ready(self, make):
        daemon = make([DIGITS]).start()
        assert is_ready(daemon.channel())
        assert is_ready(daemon.channel(admin=True), "digits")
        assert daemon.infer(digits_request()).model_version == "1"

    def test_comes_with_a_status_for_people(self, make):
        daemon = make([DIGITS]).start()
        message = daemon.wait_told("READY=1")
        assert message == "READY=1\nSTATUS=serving, 1 of 1 models ready"
        assert daemon.status().summary == "serving, 1 of 1 models ready"

    def test_is_recorded(self, make):
        daemon = make([DIGITS]).start()
        assert codes(daemon) == ["model_ready", "started"]
        started = daemon.events()[-1]
        assert started.details["listening"] == f"unix:{daemon.socket}, unix:{daemon.admin_socket}"
        assert list(daemon.status().listening) == [f"unix:{daemon.socket}", f"unix:{daemon.admin_socket}"]

    def test_waits_for_a_model_and_answers_meanwhile(self, make, tmp_path):
        daemon = make([counting_bundle(tmp_path / "made", warmup_turns=VERY_LONG)]).start(wait=False)
        status = self.wait_starting(daemon)
        assert (status.state, status.ready, status.live) == (admin_pb2.STATE_STARTING, False, True)
        assert not is_ready(daemon.channel())
        assert not is_ready(daemon.channel(), "counts")
        status, code, details = refusal(lambda: daemon.infer(count_to(1)))
        assert (status, code) == (grpc.StatusCode.UNAVAILABLE, "model_unavailable")
        assert "is loading" in details
        assert daemon.told == []

    def test_ends_at_once_when_it_is_to_stop_before_it_was_ready(self, make, tmp_path):
        daemon = make([counting_bundle(tmp_path / "made", warmup_turns=VERY_LONG)]).start(wait=False)
        self.wait_starting(daemon)
        workers = psutil.Process(daemon.pid).children()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_end() == 0
        told = everything_told(daemon)
        assert [message.splitlines()[0] for message in told] == ["STOPPING=1"]
        wait_gone(worker.pid for worker in workers)

    def test_is_not_told_because_settings_are_read_again_before_it_is_done(self, make, tmp_path):
        daemon = make([counting_bundle(tmp_path / "made", warmup_turns=VERY_LONG)]).start(wait=False)
        self.wait_starting(daemon)
        daemon.write_settings("serving.drain_s = 1.5")
        daemon.signal(signal.SIGHUP)
        until(lambda: codes(daemon), "the settings are read", holds=lambda found: "setting_changed" in found)
        assert everything_told(daemon) == []

    def wait_starting(self, daemon):
        def is_there():
            assert daemon.process.poll() is None, daemon.log()
            return daemon.socket.exists() and daemon.admin_socket.exists()

        until(is_there, "its sockets are there", log=daemon.log)
        return daemon.status()


class TestStop:
    def test_answers_what_is_under_way_and_leaves_nothing(self, make, counts):
        daemon = make([counts]).start()
        workers = worker_pids(daemon)
        under_way = begin(daemon, A_WHILE)
        daemon.signal(signal.SIGTERM)
        answer = under_way.result()
        assert int.from_bytes(answer.raw_output_contents[0], "little") == A_WHILE
        assert daemon.wait_end() == 0
        stopping = "STOPPING=1\nEXTEND_TIMEOUT_USEC=60000000\nSTATUS=answering what is under way"
        assert daemon.wait_told("STOPPING=1") == stopping
        assert not daemon.socket.exists()
        assert not daemon.admin_socket.exists()
        assert len(workers) == 1
        wait_gone(workers)

    def test_refuses_what_comes_while_it_answers_what_is_under_way(self, make, counts):
        daemon = make([counts], "serving.drain_s = 300\nworkers.inference_s = 300").start()
        begin(daemon, VERY_LONG)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_for(lambda status: status.state == admin_pb2.STATE_DRAINING).live
        status, code, _ = refusal(lambda: daemon.infer(count_to(1)))
        assert (status, code) == (grpc.StatusCode.UNAVAILABLE, "shutting_down")
        assert not is_ready(daemon.channel())

    def test_gives_up_what_takes_too_long_and_says_so_to_who_waits(self, make, counts):
        daemon = make([counts], "serving.drain_s = 0.2\nworkers.inference_s = 300").start()
        workers = worker_pids(daemon)
        under_way = begin(daemon, VERY_LONG)
        daemon.signal(signal.SIGTERM)
        status, code, _ = told(under_way.exception())
        assert (status, code) == (grpc.StatusCode.UNAVAILABLE, "shutting_down")
        assert daemon.wait_end() == 0
        assert "requests were still under way after 0.2 s" in daemon.log()
        wait_gone(workers)

    def test_a_second_time_ends_it_at_once(self, make, counts):
        daemon = make([counts], "serving.drain_s = 300\nworkers.inference_s = 300").start()
        workers = worker_pids(daemon)
        begin(daemon, VERY_LONG)
        daemon.signal(signal.SIGTERM)
        daemon.wait_told("STOPPING=1")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_end() == 143
        wait_gone(workers)

    def test_ends_the_calls_of_those_who_only_watch(self, make):
        daemon = make([DIGITS]).start()
        watch = daemon.channel(admin=True).unary_stream(
            "/edged.v1.Admin/WatchStatus",
            admin_pb2.WatchStatusRequest.SerializeToString,
            admin_pb2.Status.FromString,
        )(admin_pb2.WatchStatusRequest(), timeout=PATIENCE_S)
        assert next(watch).ready
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_end() == 0
        with pytest.raises(grpc.RpcError):
            for _ in watch:
                pass

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_without_anything_under_way_is_silent(self, make, number):
        daemon = make([DIGITS]).start()
        daemon.signal(number)
        assert daemon.wait_end() == 0
        assert '"level": "error"' not in daemon.log()
        assert "Traceback" not in daemon.log()


class TestReload:
    def reload(self, daemon, text):
        """SIGHUP with these settings; the events that it gave."""
        before = daemon.events()[-1].sequence
        count = sum("READY=1" in message for message in daemon.told)
        daemon.write_settings(text)
        daemon.signal(signal.SIGHUP)
        daemon.wait_told("READY=1", count + 1)
        return [event for event in daemon.events() if event.sequence > before]

    def test_is_told_with_its_time_and_its_end(self, make):
        daemon = make([DIGITS]).start()
        self.reload(daemon, "")
        reloading, ready = daemon.told[-2:]
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=[0-9]{5,}", reloading)
        assert ready == "READY=1\nSTATUS=serving, 1 of 1 models ready"

    def test_of_unchanged_settings_changes_nothing(self, make):
        daemon = make([DIGITS], "log.level = 'debug'").start()
        assert self.reload(daemon, "log.level = 'debug'") == []

    def test_takes_what_can_change(self, make):
        daemon = make([DIGITS]).start()
        (changed,) = self.reload(daemon, "log.level = 'error'")
        assert (changed.code, changed.subject) == ("setting_changed", "log.level")
        assert changed.message == "log.level is now 'error', was 'info'"
        self.reload(daemon, "log.level = 'error'\nserving.drain_s = 1.5")
        assert "serving.drain_s is now 1.5, was 10.0" in [event.message for event in daemon.events()]
        assert daemon.stop() == 0
        assert "serving.drain_s is now 1.5" not in daemon.log(), "information is not logged any more"

    def test_says_what_needs_a_restart_and_goes_on_as_before(self, make, tmp_path):
        daemon = make([DIGITS]).start()
        other = "listen.socket = '/run/elsewhere/edged.sock'"
        (told,) = self.reload(daemon, other)
        assert (told.code, told.subject) == ("restart_needed", "listen.socket")
        assert told.message.endswith("this takes effect when edged is restarted")
        assert not (tmp_path / "run/elsewhere").exists()
        assert daemon.infer(digits_request()).model_version == "1"
        assert [event.code for event in self.reload(daemon, other)] == ["restart_needed"], "as long as it does"

    def test_of_a_broken_file_changes_nothing_and_says_what_is_wrong(self, make):
        daemon = make([DIGITS], "log.level = 'warning'").start()
        (told,) = self.reload(daemon, "log.level = 'debug'\n[serving]\ndrain_s = -1\nqueue_request = 5\n")
        assert (told.code, told.subject) == ("settings_invalid", "settings")
        assert told.message.startswith("nothing was changed; the settings are wrong:")
        assert "edged.toml:3: serving.drain_s" in told.message
        assert "did you mean queue_requests?" in told.message
        assert daemon.infer(digits_request()).model_version == "1"
        assert self.reload(daemon, "log.level = 'warning'") == [], "nothing had changed"

    def test_of_a_new_timeout_holds_for_what_comes(self, make, counts):
        daemon = make([counts]).start()
        self.reload(daemon, "serving.default_timeout_s = 0.05")
        status, code, _ = refusal(lambda: daemon.infer(count_to(VERY_LONG), timeout_s=None))
        assert (status, code) == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded")

    def test_while_it_stops_is_passed_over(self, make, counts):
        daemon = make([counts], "serving.drain_s = 300\nworkers.inference_s = 300").start()
        begin(daemon, VERY_LONG)
        daemon.signal(signal.SIGTERM)
        daemon.wait_told("STOPPING=1")
        daemon.signal(signal.SIGHUP)
        daemon.wait_for(lambda status: status.state == admin_pb2.STATE_DRAINING)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_end() == 143
        messages = everything_told(daemon)
        assert sum("READY=1" in message for message in messages) == 1, "at its start"
        assert not any("RELOADING=1" in message for message in messages)


BROKEN = "[serving]\ndrain_s = -1\n[log]\nlevel = 'loud'\n"


class TestBrokenSettingsAtTheStart:
    def test_the_last_good_ones_hold_and_it_says_so(self, make):
        first = make([DIGITS], "device.hardware_class = 'factory-gateway-gpu'").start()
        assert first.stop() == 0
        daemon = make(settings=BROKEN).start()
        status = daemon.status()
        assert (status.state, status.ready) == (admin_pb2.STATE_DEGRADED, True)
        assert status.hardware_class == "factory-gateway-gpu"
        (reason,) = status.degraded_reasons
        assert reason.startswith("the settings are wrong, so the last good ones hold: ")
        assert "serving.drain_s" in reason
        assert "(and 1 more)" in reason
        assert reason in status.summary
        assert daemon.wait_told("READY=1").startswith("READY=1\nSTATUS=degraded, 1 of 1 models ready: the settings")
        (event,) = (event for event in daemon.events() if event.code == "settings_invalid")
        assert "serving.drain_s" in event.message
        assert "log.level" in event.message, "every problem"
        assert daemon.infer(digits_request()).model_version == "1"

    def test_they_are_not_what_is_remembered(self, make):
        make([DIGITS], "device.hardware_class = 'good'").start().stop()
        make(settings=BROKEN).start().stop()
        assert make(settings=BROKEN).start().status().hardware_class == "good"

    def test_mended_and_read_again_all_is_well(self, make):
        make([DIGITS]).start().stop()
        daemon = make(settings=BROKEN).start()
        daemon.write_settings("serving.drain_s = 2")
        daemon.signal(signal.SIGHUP)
        assert daemon.wait_told("READY=1", 2) == "READY=1\nSTATUS=serving, 1 of 1 models ready"
        assert daemon.status().state == admin_pb2.STATE_SERVING

    def test_are_remembered_although_a_bundle_is_damaged(self, make, tmp_path):
        (tmp_path / "usr/share/edged/models/damaged/1").mkdir(parents=True)
        make([DIGITS], "device.hardware_class = 'good'").start().stop()
        assert make(settings=BROKEN).start().status().hardware_class == "good"

    def test_are_remembered_wherever_the_state_lies(self, make):
        make(settings="device.hardware_class = 'good'\npaths.state = '/data/edged'").start().stop()
        assert make(settings=BROKEN).start().status().hardware_class == "good"

    def test_without_a_last_good_start_it_ends_and_says_every_problem(self, tmp_path):
        path = write_settings(tmp_path, BROKEN)
        status, said = fails(tmp_path)
        assert status == 78
        assert f"{path}:2: serving.drain_s" in said
        assert f"{path}:4: log.level" in said
        assert "Traceback" not in said


class TestOneAtATime:
    def test_a_second_one_is_refused_and_the_first_goes_on(self, make, tmp_path):
        daemon = make([DIGITS]).start()
        status, said = fails(tmp_path)
        assert status == 75
        assert f"another edged (pid {daemon.pid}) holds {tmp_path}/run/edged/edged.lock; stop it first" in said
        assert daemon.infer(digits_request()).model_version == "1"
        assert daemon.status().pid == daemon.pid

    def test_what_a_killed_one_left_is_in_nobodys_way(self, make):
        killed = make([DIGITS]).start()
        workers = worker_pids(killed)
        killed.signal(signal.SIGKILL)
        assert killed.wait_end() == -signal.SIGKILL
        wait_gone(workers)
        assert killed.socket.exists()
        assert (killed.socket.parent / "edged.lock").exists()
        daemon = make().start()
        assert daemon.infer(digits_request()).model_version == "1"
        assert is_ready(daemon.channel(admin=True))
        assert daemon.stop() == 0
        assert not daemon.socket.exists()

    @pytest.mark.parametrize("moment", range(4), ids=["a folder", "a lock", "a socket in the making", "a socket"])
    def test_what_one_left_that_was_killed_as_it_started_is_in_nobodys_way(self, make, tmp_path, moment):
        """Killed as soon as it has made the one or the other; the next one runs, and cleans up."""
        folder = tmp_path / "run/edged"
        marks = ("", "edged.lock", ".bind-", "edged.sock")[moment:]
        killed = make([DIGITS]).start(wait=False)

        def made():
            assert killed.process.poll() is None, killed.log()
            return [each.name for each in ([folder, *folder.iterdir()] if folder.exists() else [])]

        until(made, "it is made", holds=lambda names: any(name.startswith(marks) for name in names), again_s=0)
        killed.signal(signal.SIGKILL)
        assert killed.wait_end() == -signal.SIGKILL
        daemon = make().start()
        assert daemon.infer(digits_request()).model_version == "1"
        assert sorted(each.name for each in folder.iterdir()) == ["edged.lock", "edged.sock"]


class TestSockets:
    @pytest.mark.parametrize("gid", [pytest.param(12345, marks=AS_ROOT), os.getgid()])
    def test_are_for_the_group_of_their_folder(self, make, tmp_path, gid):
        for name in ("edged", "edged-admin"):
            folder = tmp_path / "run" / name
            folder.mkdir(parents=True)
            os.chown(folder, -1, gid)
            folder.chmod(0o2750)
        daemon = make().start()
        for path in (daemon.socket, daemon.admin_socket):
            found = path.stat()
            assert stat.S_ISSOCK(found.st_mode)
            assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, gid)
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o2750, "an administrator's folder stays as it is"

    def test_can_be_reached_by_nobody_else_at_any_moment(self, make):
        """The folder is looked at over and over from before the start until it is done."""
        daemon = make([DIGITS]).start(wait=False)
        seen = set()
        while not daemon.told:
            for folder in (daemon.socket.parent, daemon.admin_socket.parent):
                seen |= set(self.modes(folder))
            if select.select([daemon._manager], [], [], 0)[0]:
                daemon.wait_told("READY=1")
            assert daemon.process.poll() is None, daemon.log()
        kinds = {kind for kind, _ in seen}
        assert {"run", "lock", "socket"} <= kinds <= {"run", "lock", "socket", "bind"}
        assert seen <= {("run", 0o750), ("lock", 0o600), ("bind", 0o700), ("socket", 0o660)}

    def modes(self, folder):
        """What can be seen of a folder and what is straight in it."""
        try:
            yield "run", stat.S_IMODE(folder.stat().st_mode)
            for entry in folder.iterdir():
                kind = "bind" if entry.name.startswith(".bind-") else entry.suffix.removeprefix(".")
                yield kind.replace("sock", "socket"), stat.S_IMODE(entry.lstat().st_mode)
        except FileNotFoundError:
            return

    def test_are_all_that_is_left_in_their_folders(self, make):
        daemon = make().start()
        for path in (daemon.socket, daemon.admin_socket):
            assert sorted(each.name for each in path.parent.iterdir()) == sorted(["edged.lock", path.name])
        daemon.stop()
        for path in (daemon.socket, daemon.admin_socket):
            assert [each.name for each in path.parent.iterdir()] == ["edged.lock"]

    def test_of_another_daemon_that_took_the_place_are_not_removed(self, make):
        daemon = make().start()
        daemon.socket.unlink()
        daemon.socket.write_text("another's")
        assert daemon.stop() == 0
        assert daemon.socket.read_text() == "another's"

    def test_of_too_long_a_name_are_refused_in_words(self, tmp_path):
        path = write_settings(tmp_path, f"listen.socket = '/run/{'x' * 120}/edged.sock'")
        status, said = fails(tmp_path)
        assert status == 78
        assert f"{path}:1: listen.socket" in said
        assert "a socket's path of at most 107 bytes, --root counted" in said

    def test_can_have_the_longest_name_there_is(self, make, tmp_path):
        room = 107 - len(f"{tmp_path}/run//s")
        daemon = make(settings=f"listen.socket = '/run/{'x' * room}/s'")
        daemon.socket = tmp_path / "run" / ("x" * room) / "s"
        assert len(str(daemon.socket)) == 107
        assert is_ready(daemon.start().channel())


class TestFoldersThatCannotBeUsed:
    def test_a_file_where_the_runtime_folder_should_be(self, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run/edged").touch()
        status, said = fails(tmp_path)
        assert status == 77
        assert said == (
            f"edged: {tmp_path}/run/edged cannot be made: File exists; "
            "start edged as its service does, or give it a folder of yours with --root\n"
        )

    @pytest.fixture
    def read_only(self, tmp_path):
        """Makes a folder that can only be read, until the daemon has ended."""
        mounted = []

        def mount(name):
            folder = tmp_path / name
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,mode=0700", "edged-test", folder], check=True)
            mounted.append(folder)
            return folder

        yield mount
        for folder in mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)

    @AS_ROOT
    def test_a_runtime_folder_that_may_not_be_written_to(self, read_only, tmp_path):
        folder = read_only("run/edged")
        status, said = fails(tmp_path)
        assert status == 71
        assert said == (
            f"edged: {folder}/edged.lock cannot be opened: Read-only file system; check who may write to its folder\n"
        )

    @AS_ROOT
    def test_a_state_that_may_not_be_written_to_hinders_nobody(self, read_only, make):
        read_only("var/lib/edged")
        daemon = make([DIGITS]).start()
        (event,) = (event for event in daemon.events() if event.code == "settings_not_kept")
        assert "Read-only file system" in event.message
        assert daemon.infer(digits_request()).model_version == "1"

    def test_a_log_that_cannot_be_written_to_hinders_nobody(self, make):
        daemon = make([DIGITS])
        daemon.log_file = Path("/dev/full")
        daemon.start()
        workers = worker_pids(daemon)
        os.kill(workers[0], signal.SIGKILL)
        daemon.wait_for(lambda status: status.ready and status.workers[0].restarts == 1)
        assert daemon.infer(digits_request()).model_version == "1"
        daemon.log_file = Path(os.devnull)


class TestTheWatchdog:
    def test_is_fed_over_and_over(self, make):
        daemon = make([DIGITS]).start(environment={"WATCHDOG_USEC": "500000"})
        daemon.wait_told("WATCHDOG=1", 4)

    def test_is_not_fed_where_there_is_none(self, make):
        daemon = make([DIGITS]).start()
        daemon.signal(signal.SIGTERM)
        daemon.wait_end()
        assert not any("WATCHDOG" in message for message in everything_told(daemon))


class TestModels:
    def test_none_are_nothing_that_is_missing(self, make):
        daemon = make().start()
        assert daemon.wait_told("READY=1") == "READY=1\nSTATUS=serving, no models"
        status = daemon.status()
        assert (status.state, status.ready, list(status.models)) == (admin_pb2.STATE_SERVING, True, [])
        _, code, details = refusal(lambda: daemon.infer(digits_request()))
        assert (code, details) == ("model_not_found", "there is no model 'digits'; models here: none")

    def test_a_damaged_bundle_beside_a_good_one_costs_only_itself(self, make, tmp_path, counts):
        damaged = add_bundle(tmp_path, counts)
        (damaged / "manifest.json").write_text("{}")
        daemon = make([DIGITS]).start()
        assert daemon.infer(digits_request()).model_version == "1"
        status = daemon.status()
        assert (status.state, status.ready) == (admin_pb2.STATE_DEGRADED, True)
        (reason,) = status.degraded_reasons
        assert reason.startswith("factory bundle counts/1 is not usable: ")
        assert str(damaged / "manifest.json") in reason
        assert reason.endswith("(and 5 more)"), "a line, however much is wrong"
        assert [model.name for model in status.models] == ["digits"]
        assert "bundle_invalid" in codes(daemon)

    def test_a_damaged_newest_revision_leaves_the_one_before_it(self, make, tmp_path):
        damaged = add_bundle(tmp_path, REPO / "tests/data/bundles/digits-2")
        (damaged / "manifest.json").write_bytes(b"\xff")
        daemon = make([DIGITS]).start()
        assert daemon.infer(digits_request()).model_version == "1"
        assert daemon.status().state == admin_pb2.STATE_DEGRADED

    def test_a_file_with_a_flipped_bit_is_not_served(self, make, tmp_path):
        model = add_bundle(tmp_path, DIGITS) / "model.onnx"
        content = bytearray(model.read_bytes())
        content[len(content) // 2] ^= 1
        model.write_bytes(content)
        daemon = make().start()
        answer = daemon.infer(digits_request())
        assert answer.parameters["edged_variant"].string_param == "int8"
        assert answer.parameters["edged_degraded"].bool_param
        (served,) = daemon.status().models
        (passed_over,) = served.passed_over
        assert (passed_over.variant, passed_over.code) == ("fp32", "digest_mismatch")
        assert "the file was changed or damaged after it was packed" in passed_over.reason
        assert daemon.status().degraded_reasons == ["model digits is served by variant int8 instead of fp32"]

    def test_one_of_which_every_file_is_damaged_has_failed(self, make, tmp_path):
        folder = add_bundle(tmp_path, DIGITS)
        for name in ("model.onnx", "model.int8.onnx"):
            content = bytearray((folder / name).read_bytes())
            content[0] ^= 1
            (folder / name).write_bytes(content)
        daemon = make().start()
        status = daemon.status()
        (model,) = status.models
        assert (model.state, model.ready, status.ready) == (admin_pb2.MODEL_STATE_FAILED, False, False)
        assert [(each.variant, each.code) for each in model.passed_over] == [
            ("fp32", "digest_mismatch"),
            ("int8", "digest_mismatch"),
        ]
        assert daemon.wait_told("READY=1").startswith("READY=1\nSTATUS=degraded, 0 of 1 models ready: ")
        status_code, code, _ = refusal(lambda: daemon.infer(digits_request()))
        assert (status_code, code) == (grpc.StatusCode.UNAVAILABLE, "model_unavailable")

    def test_a_folder_whose_name_is_no_text_can_be_told_of(self, make, tmp_path):
        (tmp_path / "usr/share/edged/models/digits-\udcff/1").mkdir(parents=True)
        daemon = make([DIGITS]).start()
        assert daemon.infer(digits_request()).model_version == "1"
        (reason,) = daemon.status().degraded_reasons
        assert "digits-?/1" in reason
        assert any("digits-?" in event.message for event in daemon.events())

    def test_one_that_is_killed_comes_back(self, make):
        daemon = make([DIGITS]).start()
        (pid,) = worker_pids(daemon)
        os.kill(pid, signal.SIGKILL)
        status = daemon.wait_for(lambda status: status.ready and status.workers[0].restarts == 1)
        assert status.workers[0].last_exit == "killed by SIGKILL"
        assert daemon.infer(digits_request()).model_version == "1"
        daemon.wait_status("degraded, 0 of 1 models ready: model digits is loading: its worker ended")
        daemon.wait_told("STATUS=serving, 1 of 1 models ready", 2)


class TestTcp:
    def test_on_loopback_answers_where_it_is_wanted(self, make):
        address = f"127.0.0.1:{free_port()}"
        daemon = make([DIGITS], f"listen.tcp = '{address}'").start()
        with grpc.insecure_channel(address) as channel:
            assert is_ready(channel, "digits")
            status, _, _ = refusal(lambda: channel.unary_unary("/edged.v1.Admin/GetStatus")(b"", timeout=PATIENCE_S))
        assert status is grpc.StatusCode.UNIMPLEMENTED, "nobody administers from there"
        assert daemon.status().listening[-1] == address

    def test_is_not_opened_otherwise(self, make):
        daemon = make([DIGITS]).start()
        kinds = {connection.family for connection in psutil.Process(daemon.pid).net_connections("all")}
        assert kinds == {socket.AF_UNIX}

    def test_at_an_address_in_use_is_refused_in_words_and_leaves_nothing(self, tmp_path):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            write_settings(tmp_path, f"listen.tcp = '{address}'")
            status, said = fails(tmp_path)
        assert status == 71
        assert f"edged: {address} cannot be listened on; is it in use, or not an address of this device?" in said
        assert "Traceback" not in said
        assert sorted(each.name for each in (tmp_path / "run/edged").iterdir()) == ["edged.lock"]


@pytest.fixture(scope="module")
def authorities():
    """Ours and another."""
    return trustme.CA(), trustme.CA()


class TestMutualTls:
    """On an address that other machines can reach."""

    @pytest.fixture
    def address(self, make, tmp_path, authorities):
        ours, _ = authorities
        own = ours.issue_cert("edged.example")
        own.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
        own.private_key_pem.write_to_path(tmp_path / "own.key")
        ours.cert_pem.write_to_path(tmp_path / "ca.pem")
        port = free_port()
        make(
            [DIGITS],
            f"[listen]\ntcp = '0.0.0.0:{port}'\n"
            "tls_certificate = '/own.pem'\ntls_key = '/own.key'\ntls_client_ca = '/ca.pem'\n",
        ).start()
        return f"127.0.0.1:{port}"

    def channel(self, address, ca, client=None):
        pair = {}
        if client is not None:
            chain = b"".join(pem.bytes() for pem in client.cert_chain_pems)
            pair = {"private_key": client.private_key_pem.bytes(), "certificate_chain": chain}
        credentials = grpc.ssl_channel_credentials(ca.cert_pem.bytes(), **pair)
        return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", "edged.example")])

    def test_a_client_with_a_certificate_of_the_authority_is_answered(self, address, authorities):
        ours, _ = authorities
        with self.channel(address, ours, ours.issue_cert("client.example")) as channel:
            assert is_ready(channel, "digits")

    @pytest.mark.parametrize(
        "client",
        [
            pytest.param(lambda _, __: None, id="without a certificate"),
            pytest.param(lambda _, other: other.issue_cert("client.example"), id="with one of another authority"),
        ],
    )
    def test_a_client_is_refused(self, address, authorities, client):
        ours, other = authorities
        with self.channel(address, ours, client(ours, other)) as channel:
            status, _, _ = refusal(lambda: is_ready(channel))
        assert status is grpc.StatusCode.UNAVAILABLE

    def test_a_client_that_speaks_no_tls_is_refused(self, address):
        with grpc.insecure_channel(address) as channel:
            status, _, _ = refusal(lambda: is_ready(channel))
        assert status is grpc.StatusCode.UNAVAILABLE

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("own.pem", "holds no certificate in PEM form"),
            ("own.key", "is no private key in PEM form that belongs to"),
            ("ca.pem", "holds no certificate in PEM form"),
        ],
    )
    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(None, id="not there"),
            pytest.param(lambda _: b"", id="empty"),
            pytest.param(lambda _: b"no certificate \xff", id="something else"),
            pytest.param(lambda other: other.issue_cert("x.example").private_key_pem.bytes(), id="another's key"),
        ],
    )
    def test_a_file_that_cannot_be_used_is_named(self, tmp_path, authorities, name, why, content):
        ours, other = authorities
        own = ours.issue_cert("edged.example")
        own.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
        own.private_key_pem.write_to_path(tmp_path / "own.key")
        ours.cert_pem.write_to_path(tmp_path / "ca.pem")
        (tmp_path / name).unlink()
        if content is not None:
            (tmp_path / name).write_bytes(content(other))
        write_settings(
            tmp_path,
            f"[listen]\ntcp = '0.0.0.0:{free_port()}'\n"
            "tls_certificate = '/own.pem'\ntls_key = '/own.key'\ntls_client_ca = '/ca.pem'\n",
        )
        status, said = fails(tmp_path)
        assert status == 71
        assert f"edged: {tmp_path / name} {why if content else 'cannot be read: No such file'}" in said
        assert "Traceback" not in said


class TestTheCommandLine:
    def run(self, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "edged", *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE_S
        )

    def test_version(self):
        done = self.run("--version")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"edged {__version__}\n", "")

    @pytest.mark.parametrize("option", ["--help", "-h"])
    def test_help(self, option):
        done = self.run(option)
        assert (done.returncode, done.stderr) == (0, "")
        for word in ("--root", "--config", "--check-config", "--print-config", "--version", "Exit status"):
            assert word in done.stdout

    def test_check_config_of_good_settings(self, tmp_path):
        path = write_settings(tmp_path, "log.level = 'debug'")
        done = self.run("--root", tmp_path, "--check-config")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"the settings are good: {path}\n", "")

    def test_check_config_of_no_settings(self, tmp_path):
        done = self.run("--root", tmp_path, "--check-config")
        assert (done.returncode, done.stdout) == (0, "the settings are good: no file found, the defaults hold\n")

    def test_check_config_says_every_problem_at_its_place(self, tmp_path):
        path = write_settings(tmp_path, BROKEN)
        done = self.run("--root", tmp_path, "--check-config")
        assert (done.returncode, done.stdout) == (78, "")
        first, second = done.stderr.splitlines()
        assert first.startswith(f"{path}:2: serving.drain_s")
        assert second.startswith(f"{path}:4: log.level")

    def test_check_config_of_a_file_that_is_named(self, tmp_path):
        good, broken = tmp_path / "good.toml", tmp_path / "broken.toml"
        good.write_text("serving.drain_s = 1")
        broken.write_text(BROKEN)
        assert self.run("--config", good, "--check-config").returncode == 0
        assert self.run("--config", good, "--config", broken, "--check-config").returncode == 78

    def test_print_config_can_be_read_again(self, tmp_path):
        path = write_settings(tmp_path, "serving.drain_s = 1.5")
        done = self.run("--root", tmp_path, "--print-config")
        assert done.returncode == 0
        assert str(path) in done.stdout
        printed = tmp_path / "printed.toml"
        printed.write_text(done.stdout)
        again = self.run("--config", printed, "--print-config")
        assert again.returncode == 0
        assert "drain_s = 1.5" in again.stdout

    @pytest.mark.parametrize("arguments", [["--no-such-option"], ["word"], ["--root"]])
    def test_what_it_does_not_know_it_refuses(self, arguments):
        done = self.run(*arguments)
        assert done.returncode == 2
        assert "Error: " in done.stderr

    def test_making_nothing_is_all_that_asking_does(self, tmp_path):
        for option in ("--check-config", "--print-config"):
            assert self.run("--root", tmp_path, option).returncode == 0
        assert list(tmp_path.iterdir()) == []


def test_a_daemon_that_nobody_asks_sleeps(make):
    """Counted is how often each thread of the front went to wait: its loop hardly, and grpc's own threads a few times a
    second."""
    daemon = make([DIGITS]).start()
    daemon.infer(digits_request())
    for channel in daemon._channels:
        channel.close()
    seconds = 3.0
    settled = {}
    while (now := switches(daemon.pid)).get(daemon.pid) != settled.get(daemon.pid):  # what the call left to do
        settled = now
        select.select([daemon._manager], [], [], 0.2)
    before = switches(daemon.pid)
    assert not select.select([daemon._manager], [], [], seconds)[0], "nor does it tell anything"
    after = switches(daemon.pid)
    woken = {thread: after[thread] - before.get(thread, 0) for thread in after}
    said = f"in {seconds:g} s the loop was woken {woken[daemon.pid]} times, all threads {sum(woken.values())} times"
    assert woken[daemon.pid] <= 5, said
    assert sum(woken.values()) <= 150, said


def switches(pid):
    """Voluntary context switches of each thread, by thread id; the loop's is the process's."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                found[int(task.name)] = int(line.split()[1])
    return found
