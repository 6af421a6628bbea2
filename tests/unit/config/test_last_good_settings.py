"""The settings of the last good start: whole or not there, never a reason to fail."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged import durable
from edged.config import last_good
from edged.config.last_good import recall, remember
from edged.config.settings import Listen, Log, Paths, Serving, Settings

SOME = Settings(log=Log(level="debug"), serving=Serving(drain_s=1.5), paths=Paths(state="/srv/état"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / last_good.NAME


def rewrite(path, change):
    record = json.loads(path.read_bytes())
    change(record)
    path.write_text(json.dumps(record))


def test_what_was_remembered_is_recalled(path):
    assert remember(path, SOME)
    assert recall(path) == SOME


def test_the_newest_is_recalled(path):
    remember(path, SOME)
    remember(path, Settings())
    assert recall(path) == Settings()


def test_only_the_daemon_may_read_it(path):
    remember(path, SOME)
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_holds_defaults_too_so_that_a_release_with_other_defaults_changes_nothing(path):
    remember(path, Settings())
    assert json.loads(path.read_bytes())["settings"]["serving"]["queue_requests"] == 256


def test_what_is_there_already_is_not_written_again(path, monkeypatch):
    remember(path, SOME)
    before = path.stat()
    monkeypatch.setattr(durable, "write", lambda *_: pytest.fail("flash was written to without need"))
    assert not remember(path, SOME)
    assert path.stat().st_ino == before.st_ino


def test_damage_is_written_over(path):
    path.write_bytes(b"\xff" * 100)
    assert remember(path, SOME)
    assert recall(path) == SOME


class TestNothingThatCanBeRecalled:
    def test_absent(self, path):
        assert recall(path) is None

    def test_a_folder(self, tmp_path):
        assert recall(tmp_path) is None

    def test_cut_off_anywhere(self, path):
        remember(path, SOME)
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            assert recall(path) is None

    def test_too_large(self, path):
        remember(path, SOME)
        path.write_bytes(path.read_bytes() + b" " * last_good.MAX_BYTES)
        assert recall(path) is None

    @pytest.mark.parametrize(
        "content",
        [
            b"null",
            b"[]",
            b"{}",
            b'{"schema": 1}',
            b'{"schema": 1, "settings": []}',
            b'{"schema": 1, "settings": {"log": 3}}',
            b'{"schema": 1, "settings": {"log": {"level": "\xff"}}}',
            b'{"schema": 1, "settings": {"log": {"level": 9}}}',
            b'{"schema": 2, "settings": {}}',
            b'{"schema": "1", "settings": {}}',
            b'{"schema": 1, "settings": ' + b'{"a": ' * 9000,
            b"[" * 60_000,
            b"\x00" * 100,
        ],
    )
    def test_not_what_remember_writes(self, content, path):
        path.write_bytes(content)
        assert recall(path) is None

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
    @given(data=st.data())
    def test_any_byte_of_it_changed(self, data, path):
        path.unlink(missing_ok=True)
        remember(path, SOME)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        recalled = recall(path)
        assert recalled is None or isinstance(recalled, Settings)

    def test_values_that_this_release_no_longer_allows(self, path):
        remember(path, SOME)
        rewrite(path, lambda record: record["settings"]["log"].update(level="trace"))
        assert recall(path) is None

    def test_values_that_contradict_each_other(self, path):
        remember(path, SOME)
        rewrite(path, lambda record: record["settings"]["workers"].update(restart_min_s=100.0))
        assert recall(path) is None

    def test_socket_paths_that_are_too_long_under_this_root(self, path):
        remember(path, Settings(listen=Listen(socket="/run/" + "s" * 90)))
        assert recall(path) is not None
        assert recall(path, Path("/a/longer/root")) is None


class TestWhereTheyAreKept:
    def test_in_a_fixed_place(self):
        assert last_good.place(Path("/r")) == Path("/r/var/lib/edged/settings.last-good.json")

    def test_for_each_list_of_files_apart(self, tmp_path, monkeypatch):
        a, b = Path("/a"), Path("/b")
        lists = [[], [a], [b], [a, b], [b, a], [Path("/a\n/b")], [Path("/\udcff")]]
        places = {last_good.place(tmp_path, files) for files in lists}
        assert len(places) == len(lists)
        assert {place.parent for place in places} == {tmp_path / "var/lib/edged"}
        monkeypatch.chdir("/")
        assert last_good.place(tmp_path, [Path("a")]) == last_good.place(tmp_path, [a]), "as it was named elsewhere"


class TestNobodyElseCanHavePutItThere:
    """Who may write to a folder on the way could make edged listen, and load models, where it suits them."""

    @pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
    def test_it_may_not_be_written_by_others(self, mode, path):
        remember(path, SOME)
        path.chmod(mode)
        assert recall(path) is None
        assert remember(path, SOME), "it is not taken for ours"
        assert path.stat().st_mode & 0o777 == 0o600
        assert recall(path) == SOME

    def test_it_may_be_read_by_others(self, path):
        remember(path, SOME)
        path.chmod(0o644)
        assert recall(path) == SOME

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_it_is_the_daemons_own_or_roots(self, path):
        remember(path, SOME)
        assert recall(path, user=1234) == SOME, "root's"
        os.chown(path, 1234, 1234)
        assert recall(path) is None
        assert recall(path, user=1234) == SOME
        assert recall(path, user=4321) is None
        assert remember(path, SOME), "it is not taken for ours"
        assert path.stat().st_uid == 0

    def test_it_is_no_link(self, path):
        elsewhere = path.with_name("elsewhere")
        remember(elsewhere, SOME)
        path.symlink_to(elsewhere)
        assert recall(path) is None
        assert remember(path, Settings())
        assert recall(path) == Settings()
        assert recall(elsewhere) == SOME

    def test_a_pipe_is_not_waited_for(self, path):
        os.mkfifo(path)
        assert recall(path) is None


def test_a_release_before_the_one_that_wrote_recalls_what_it_knows(path):
    remember(path, SOME)
    rewrite(path, lambda record: record["settings"]["log"].update(colour=True))
    rewrite(path, lambda record: record["settings"].update(telemetry={"window_s": 300}))
    rewrite(path, lambda record: record.update(written_by="9.0"))
    assert recall(path) == SOME


class TestPowerCut:
    """After a failure at any step of the write, the former settings are recalled and nothing else is left behind."""

    @pytest.mark.parametrize("step", ["open", "fsync", "rename"])
    def test_the_step_fails(self, step, path, monkeypatch):
        remember(path, SOME)

        def fail(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            match step:
                case "open":
                    patch.setattr(os, "open", fail)
                case "fsync":
                    patch.setattr(os, "fsync", fail)
                case "rename":
                    patch.setattr(Path, "replace", fail)
            with pytest.raises(OSError, match="No space left"):
                remember(path, Settings())
        assert recall(path) == SOME
        assert list(path.parent.iterdir()) == [path]

    def test_a_temporary_file_of_an_earlier_cut_is_no_hindrance(self, path):
        remember(path, SOME)
        path.with_name(f".{path.name}.0011aabb").write_bytes(b'{"schema": 1, "sett')
        assert recall(path) == SOME
        remember(path, Settings())
        assert recall(path) == Settings()
