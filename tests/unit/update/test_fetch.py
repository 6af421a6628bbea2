"""From a repository into staging: whole and verified, cut off and resumed, out of what is here already."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
from support.fleets import DIGITS, DIGITS_2, Device, Server, copy_fleet, served

from edged import durable
from edged.bundle.folder import read_manifest
from edged.bundle.manifest import MANIFEST_NAME
from edged.update import fetch
from edged.update import plan as plans
from edged.update.transport import Terms, Transport


def same_files(folder, bundle):
    manifest = read_manifest(bundle)
    for file in manifest.files:
        assert (folder / file.path).read_bytes() == (bundle / file.path).read_bytes()
    return manifest


def big_bundle(folder, content, revision=1, name="big"):
    """A bundle whose model file is `content`: nothing of it is ever loaded here."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "bundle.toml").write_text(
        f'name = "{name}"\nrevision = {revision}\n'
        'inputs = [{ name = "x", datatype = "FP32", shape = [1] }]\n'
        'outputs = [{ name = "y", datatype = "FP32", shape = [1] }]\n'
        'variants = [{ name = "cpu", runtime = "onnxruntime", file = "model.onnx" }]\n'
    )
    return folder


@pytest.fixture(scope="module")
def content():
    """12 MiB that do not shrink."""
    return random.Random(7).randbytes(12 * 2**20)


class TestTheThinnestPath:
    def test_from_a_folder_into_a_revision_that_serves(self, device):
        planned = device.plan()
        assert planned.status == 0
        plan = plans.decode((device.into / "plan.json").read_bytes())
        assert plan.models["digits"]["generic"].revision == 1
        manifest = same_files(device.install(1), DIGITS)
        assert device.store.manifest("digits", 1).revision == manifest.revision == 1
        same_files(device.install(2), DIGITS_2)
        assert device.store.verify() == []

    def test_over_http_as_a_child(self, online):
        server, device = online
        command = [sys.executable, "-I", "-m", "edged.update.fetch"]
        for asked in (["plan", "--fleet", "shops", "--into", str(device.into)], device.fetching(1)):
            ran = subprocess.run([*command, *device.arguments(*asked)], capture_output=True, text=True, timeout=60)
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert ran.stderr == ""
        last = json.loads(ran.stdout.splitlines()[-1])
        assert last["event"] == "staged"
        assert last["fetched"] == last["total"] == sum(file.size for file in read_manifest(DIGITS).files)
        assert server.body_bytes > 0
        device.store.take_in(device.store.staging("digits", 1))
        same_files(device.store.path("digits", 1), DIGITS)

    @pytest.mark.parametrize(
        ("asked", "told"),
        [
            (["refresh"], "give --repository"),
            (["--metadata-url", "http://127.0.0.1:9/metadata", "download"], "give --target-name"),
        ],
    )
    def test_wrong_usage_is_told(self, tmp_path, asked, told):
        ran = subprocess.run(
            [sys.executable, "-I", "-m", "edged.update.fetch", "--metadata-dir", str(tmp_path / "x"), *asked],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (ran.returncode, told in ran.stderr) == (2, True)

    def test_once_nobody_listens_it_ends_without_a_word(self, tmp_path):
        hears, tells = os.pipe()
        os.close(hears)
        command = [sys.executable, "-I", "-m", "edged.update.fetch", "--metadata-dir", str(tmp_path / "x")]
        asked = ["--repository", f"file://{tmp_path}/nothing", "refresh"]
        try:
            ran = subprocess.run([*command, *asked], stdout=tells, stderr=subprocess.PIPE, text=True, timeout=60)
        finally:
            os.close(tells)
        assert (ran.returncode, ran.stderr) == (1, "")

    def test_what_is_not_published_is_told(self, device):
        assert device.fetch(3).code == "revision_not_found"
        assert device.fetch(1, "letters").code == "revision_not_found"
        assert device.run("plan", "--fleet", "other", "--into", str(device.into)).code == "plan_invalid"

    def test_no_repository_is_told(self, device, tmp_path):
        device.url = (tmp_path / "nothing").as_uri()
        assert device.plan().code == "download_failed"
        device.url = "http://127.0.0.1:9"  # discard: nobody listens
        assert device.plan().code == "download_failed"
        assert "refused" in device.plan().message


class TestTargetsByName:
    """`download`, by which the conformance suite of The Update Framework asks: each name in turn, in one session."""

    def test_all_are_brought_and_the_metadata_is_asked_for_once(self, online):
        server, device = online
        assert self.download(server, device, "models/digits/1.json", "models/digits/2.json").status == 0
        assert self.brought(device) == {"models/digits/1.json", "models/digits/2.json"}
        assert server.paths.count("/metadata/timestamp.json") == 1

    def test_the_first_that_is_not_there_ends_it(self, online):
        server, device = online
        asked = self.download(server, device, "models/digits/1.json", "plans/other.json", "models/digits/2.json")
        assert (asked.status, asked.code) == (1, "revision_not_found")
        assert "plans/other.json" in asked.message
        assert self.brought(device) == {"models/digits/1.json"}

    @staticmethod
    def download(server, device, *names):
        where = ["--target-dir", str(device.into), "--target-base-url", f"{server.url}/targets"]
        return device.run(*where, *(f"--target-name={name}" for name in names), "download")

    @staticmethod
    def brought(device):
        return {unquote(path.name) for path in device.into.iterdir()}


@pytest.fixture
def fleet_of_all_bins(whole_fleet, tmp_path):
    return copy_fleet(whole_fleet, tmp_path / "whole")


class TestAnIdlePoll:
    def test_costs_less_than_two_kib(self, online):
        server, device = online
        assert device.plan().status == 0
        server.reset()
        assert device.plan().status == 0
        assert 0 < server.body_bytes <= 2048
        assert len(server.paths) == 2, "the next root and the timestamp"

    def test_after_a_renewal_costs_no_more(self, fleet_of_all_bins, tmp_path):
        with served(fleet_of_all_bins, tmp_path / "device") as (server, device):
            device.plan()
            fleet_of_all_bins.signing().install(renew=True)
            server.reset()
            assert device.plan().status == 0
            assert server.body_bytes <= 2048

    def test_sees_a_new_plan(self, fleet, online):
        _, device = online
        device.plan()
        fleet.run_revision(2)
        device.plan()
        plan = plans.decode((device.into / "plan.json").read_bytes())
        assert plan.models["digits"]["generic"].revision == 2
        kept = list((device.metadata / "kept").iterdir())
        assert len(kept) == 2, "the plan and a floor; the plan before is forgotten"

    def test_mends_a_copy_that_was_damaged(self, online):
        _, device = online
        device.plan()
        for copy in (device.metadata / "kept").iterdir():
            copy.write_bytes(b"")
        assert device.plan().status == 0
        assert plans.decode((device.into / "plan.json").read_bytes()).models


class TestBytes:
    """What an update costs, counted at the server."""

    def test_a_changed_head_costs_its_chunks_and_five_percent(self, fleet_of_all_bins, content, tmp_path):
        fleet = fleet_of_all_bins
        with served(fleet, tmp_path / "device") as (server, device):
            one = fleet.publish(big_bundle(tmp_path / "one", content)).manifest
            head = random.Random(8).randbytes(2**20 * 3 // 2)
            two = fleet.publish(big_bundle(tmp_path / "two", content[: -len(head)] + head, 2)).manifest
            device.install(1, "big")
            known = {chunk.sha256 for file in one.files for chunk in file.chunks}
            changed = sum(chunk.length for file in two.files for chunk in file.chunks if chunk.sha256 not in known)
            assert len(head) <= changed < 1.5 * len(head)
            server.reset()
            folder = device.install(2, "big")
            assert changed <= server.body_bytes <= 1.05 * changed
            assert (folder / "model.onnx").read_bytes() == content[: -len(head)] + head

    def test_bytes_put_in_front_cost_little(self, fleet, online, content, tmp_path):
        server, device = online
        fleet.publish(big_bundle(tmp_path / "one", content))
        fleet.publish(big_bundle(tmp_path / "two", b"new metadata" + content, 2))
        device.install(1, "big")
        server.reset()
        device.install(2, "big")
        assert server.body_bytes < len(content) / 10

    def test_what_shrinks_is_fetched_shrunk(self, fleet, online, tmp_path):
        server, device = online
        fleet.publish(big_bundle(tmp_path / "one", bytes(range(256)) * 8192))
        device.install(1, "big")
        assert server.body_bytes < 256 * 8192 / 10

    def test_whole_files_of_another_bundle_are_not_fetched(self, online):
        server, device = online
        device.plan()
        server.reset()
        answered = device.fetch(1, "digits", "--have", str(DIGITS))
        staged = answered.event("staged")
        assert staged["copied"] == staged["total"]
        assert not [path for path in server.paths if path.startswith("/chunks")]

    def test_an_interrupted_download_repeats_no_more_than_a_chunk(self, fleet, online, content, tmp_path):
        server, device = online
        manifest = fleet.publish(big_bundle(tmp_path / "one", content)).manifest
        chunks = {chunk.sha256: chunk.length for file in manifest.files for chunk in file.chunks}
        command = [sys.executable, "-I", "-m", "edged.update.fetch", *device.arguments(*device.fetching(1, "big"))]
        dice = random.Random(seed := random.randrange(10**6))
        sys.stdout.write(f"seed {seed}\n")
        cuts = 0
        for _ in range(3):
            aim = server.body_bytes + dice.randrange(len(content) // 10, len(content) // 5)
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            while server.body_bytes < aim and child.poll() is None:
                time.sleep(0.001)
            cuts += child.poll() is None
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        assert cuts == 3
        assert device.fetch(1, "big").status == 0
        asked = [path.rpartition("/")[2].removesuffix(".zst") for path in server.paths if path.startswith("/chunks")]
        repeated = sum(chunks[digest] for digest in asked) - sum(chunks.values())
        assert 0 <= repeated <= cuts * max(chunks.values())
        device.store.take_in(device.store.staging("big", 1))
        assert (device.store.path("big", 1) / "model.onnx").read_bytes() == content


class TestPowerCuts:
    @pytest.mark.parametrize("after", [False, True], ids=["before the rename", "after the rename"])
    def test_at_each_durable_step_lose_nothing_that_cannot_be_made_again(self, fleet, tmp_path, monkeypatch, after):
        class PowerCutError(BaseException):
            pass

        original = durable.place
        steps = 0
        while True:
            left = steps
            device = Device(tmp_path / f"device-{steps}", fleet.root, fleet.url)

            def place(source: Path, target: Path) -> None:
                nonlocal left
                left -= 1
                if left >= 0 or after:
                    original(source, target)
                if left < 0:
                    raise PowerCutError

            with monkeypatch.context() as patch:
                patch.setattr(durable, "place", place)
                try:
                    assert device.plan().status == 0
                    assert device.fetch(1).status == 0
                    break
                except PowerCutError:
                    pass
            assert device.plan().status == 0
            same_files(device.install(1), DIGITS)
            steps += 1
        assert steps > 15

    @pytest.mark.parametrize("cut", [0.1, 0.5, 0.9])
    def test_that_leave_half_of_what_was_written_are_mended(self, online, cut):
        """Sizes are there before contents, and contents in any order: what fsync did not promise."""
        _, device = online
        assert device.fetch(1).status == 0
        for path in (device.store.staging("digits", 1) / "blobs").iterdir():
            content = path.read_bytes()
            kept = int(len(content) * cut)
            path.with_name(f"{path.name}.part").write_bytes(content[:kept] + bytes(len(content) - kept))
            path.unlink()
        same_files(device.install(1), DIGITS)


class TestWhatIsHere:
    def test_damaged_bytes_of_an_installed_revision_are_passed_over(self, online):
        _, device = online
        folder = device.install(1)
        path = folder / "model.onnx"
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        (damage,) = device.store.verify()
        device.store.discard(damage)
        same_files(device.install(1), DIGITS)
        assert device.store.verify() == []

    def test_an_unfinished_file_of_other_bytes_is_mended(self, online):
        _, device = online
        staging = device.store.staging("digits", 1)
        manifest = read_manifest(DIGITS)
        (staging / "blobs").mkdir(parents=True)
        digest = manifest.file("model.onnx").sha256
        (staging / "blobs" / f"{digest}.part").write_bytes(b"rubbish" * 100_000)
        (staging / "blobs" / manifest.file("model.int8.onnx").sha256).write_bytes(b"rubbish")
        same_files(device.install(1), DIGITS)

    def test_a_link_in_staging_is_not_written_through(self, online, tmp_path):
        _, device = online
        victim = tmp_path / "victim"
        victim.write_bytes(b"precious")
        staging = device.store.staging("digits", 1)
        (staging / "blobs").mkdir(parents=True)
        (staging / "blobs" / f"{read_manifest(DIGITS).file('model.onnx').sha256}.part").symlink_to(victim)
        assert device.fetch(1).status == 1
        assert victim.read_bytes() == b"precious"


class TestLimits:
    def test_room_is_asked_for_before_anything_is_fetched(self, online):
        server, device = online
        answered = device.fetch(1, "digits", "--room", "1000")
        assert answered.code == "storage_full"
        assert not [path for path in server.paths if path.startswith("/chunks")]

    def test_the_reserve_is_not_eaten(self, online):
        _, device = online
        disk = os.statvfs(device.root)
        answered = device.fetch(1, "digits", "--reserve", str(disk.f_blocks * disk.f_frsize))
        assert answered.code == "storage_full"
        assert "reserve" in answered.message

    def test_the_reserve_is_not_eaten_when_others_fill_the_disk_meanwhile(self, online, monkeypatch):
        server, device = online
        disk = os.statvfs(device.root)
        reserve = disk.f_bavail * disk.f_frsize // 2
        original = os.statvfs

        class Full:
            f_bavail, f_frsize = reserve - 1, 1

        def statvfs(path):
            return Full if any(asked.startswith("/chunks") for asked in server.paths) else original(path)

        monkeypatch.setattr(os, "statvfs", statvfs)
        assert device.fetch(1, "digits", "--reserve", str(reserve)).code == "storage_full"

    def test_a_budget_ends_it_and_the_next_one_goes_on(self, fleet, online, tmp_path):
        server, device = online
        content = random.Random(9).randbytes(4 * 2**20)
        fleet.publish(big_bundle(tmp_path / "one", content))
        device.plan()
        server.reset()
        device.options = ["--budget", str(2**20)]
        answered = device.fetch(1, "big")
        assert answered.code == "download_failed"
        assert "used up" in answered.message
        assert 2**20 <= server.body_bytes <= 2 * 2**20
        assert answered.event("refused")["received"] >= 2**20
        device.options = []
        server.reset()
        assert device.fetch(1, "big").status == 0
        assert server.body_bytes < 3.5 * 2**20

    def test_the_rate_is_kept(self, fleet, online, tmp_path):
        _, device = online
        fleet.publish(big_bundle(tmp_path / "one", random.Random(9).randbytes(2**20)))
        device.plan()
        device.options = ["--rate", str(2**20)]
        begun = time.monotonic()
        assert device.fetch(1, "big").status == 0
        assert time.monotonic() - begun > 0.4  # not what it took, but what it cannot be quicker than

    def test_proxies_are_honoured(self, online, monkeypatch, tmp_path):
        server, device = online
        with Server(tmp_path) as proxy:
            proxy.answer("", lambda request, _: proxy.send(request, b"", 418))
            monkeypatch.setenv("http_proxy", proxy.url)
            assert "418" in device.plan().message
            assert proxy.paths[0].startswith(server.url)
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            assert device.plan().status == 0

    @pytest.mark.skipif(os.getuid() != 0, reason="mounts a file system: needs root")
    @pytest.mark.parametrize("kib", [64, 200, 560])
    def test_a_full_disk_is_told_and_passes(self, fleet, tmp_path, kib):
        mount = tmp_path / "small"
        mount.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", mount], check=True)
        try:
            fleet.publish(big_bundle(tmp_path / "one", random.Random(9).randbytes(2**20)))
            with served(fleet, mount / "device") as (_, device):
                assert device.fetch(1, "big").code == "storage_full"
                subprocess.run(["mount", "-o", "remount,size=8m", mount], check=True)
                folder = device.install(1, "big")
                assert (folder / "model.onnx").read_bytes() == (tmp_path / "one/model.onnx").read_bytes()
        finally:
            subprocess.run(["umount", mount], check=True)


class TestItsOwnMetadata:
    @pytest.mark.parametrize("harm", [b"", b"{", b"[" * 10_000, b"\0" * 4096])
    def test_a_damaged_file_is_fetched_again(self, online, harm):
        _, device = online
        device.plan()
        for path in (*device.metadata.glob("*.json"), device.metadata / "issued"):
            if not path.is_symlink():
                path.write_bytes(harm)
        assert device.plan().status == 0
        for path in (device.metadata / "root_history").iterdir():
            path.write_bytes(harm)
        assert device.plan().status == 0
        (device.metadata / "root.json").unlink()
        assert device.plan().status == 0

    def test_is_written_durably(self, device, monkeypatch):
        written = set()
        original = durable.write

        def write(path: Path, content: bytes, mode: int = 0o600) -> None:
            written.add(path.name)
            original(path, content, mode)

        monkeypatch.setattr(durable, "write", write)
        assert device.fetch(1).status == 0
        there = {path.name for path in device.metadata.rglob("*") if path.is_file() and not path.is_symlink()}
        assert there <= written
        assert MANIFEST_NAME in written

    def test_a_state_folder_that_cannot_be_written_is_told(self, made_fleet, tmp_path):
        (tmp_path / "device").write_text("no folder")
        assert Device(tmp_path / "device", made_fleet.root, made_fleet.url).plan().code == "not_permitted"


def test_the_time_for_a_repository_runs_while_it_is_asked_and_not_while_files_are_read(tmp_path, monkeypatch):
    (tmp_path / "body").write_bytes(b"x")
    left_s = []

    def look(*_):
        left_s.append(signal.getitimer(signal.ITIMER_REAL)[0])

    handler = signal.getsignal(signal.SIGALRM)
    alarm = fetch._Alarm(1)
    try:
        transport = Transport(Terms(), alarm.wind)
        monkeypatch.setattr(transport, "_count", look)
        look()
        transport.download_bytes((tmp_path / "body").as_uri(), 1)
        look()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    before, during, after = left_s
    assert during <= 1 + fetch._STALL_S < min(before, after)
