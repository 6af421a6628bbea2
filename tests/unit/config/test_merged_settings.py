"""Where settings come from, which of them win, and where each value is said to stand."""

from pathlib import Path

import pytest

from edged.config import address
from edged.config.load import load
from edged.config.settings import FIELDS, Settings

ORDER = [
    "usr/lib/edged/edged.toml",
    "usr/lib/edged/edged.toml.d/05-a.toml",
    "usr/lib/edged/edged.toml.d/10-a.toml",
    "etc/edged/edged.toml",
    "etc/edged/edged.toml.d/05-a.toml",
    "etc/edged/edged.toml.d/10-a.toml",
]


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_any_file_every_key_has_its_default(tmp_path):
    loaded = load(tmp_path)
    assert loaded.settings == Settings()
    assert loaded.origins == {}
    assert loaded.files == ()


@pytest.mark.parametrize("count", range(1, len(ORDER) + 1))
def test_later_files_win_over_earlier_ones(count, tmp_path):
    for number, name in reversed(list(enumerate(ORDER[:count], 1))):
        write(tmp_path, name, f"[workers]\nthreads = {number}\n")
    loaded = load(tmp_path)
    assert loaded.settings.workers.threads == count
    assert loaded.files == tuple(str(tmp_path / name) for name in ORDER[:count])
    assert str(loaded.origins["workers.threads"]) == f"{tmp_path / ORDER[count - 1]}:2"


def test_tables_are_merged_key_by_key(tmp_path):
    first = write(tmp_path, "a.toml", "[workers]\nthreads = 2\nload_s = 5\n\n[log]\nlevel = 'debug'\n")
    second = write(tmp_path, "b.toml", "# only this\nworkers.load_s = 7\n")
    loaded = load(files=[first, second])
    assert loaded.settings.workers.threads == 2
    assert loaded.settings.workers.load_s == 7
    assert loaded.settings.log.level == "debug"
    assert {key: str(place) for key, place in loaded.origins.items()} == {
        "workers.threads": f"{first}:2",
        "workers.load_s": f"{second}:2",
        "log.level": f"{first}:6",
    }


def test_files_given_by_name_replace_the_search_and_keep_their_order(tmp_path):
    write(tmp_path, "etc/edged/edged.toml", "[log]\nformat = 'text'\n")
    a = write(tmp_path, "a.conf", "[workers]\nthreads = 1\n")
    b = write(tmp_path, "b.conf", "[workers]\nthreads = 2\n")
    assert load(tmp_path, [b, a]).settings.workers.threads == 1
    assert load(tmp_path, [a, b]).settings.workers.threads == 2
    assert load(tmp_path, [a, b]).settings.log.format == "auto"


def test_hidden_files_and_other_endings_are_ignored(tmp_path):
    for name in (".10.toml", ".toml", "10.toml~", "10.toml.rpmnew", "README", "10.TOML"):
        write(tmp_path, f"etc/edged/edged.toml.d/{name}", "this is not TOML")
    assert load(tmp_path).files == ()


def test_a_link_to_nothing_switches_a_fragment_off(tmp_path):
    path = tmp_path / "etc/edged/edged.toml.d/10.toml"
    path.parent.mkdir(parents=True)
    path.symlink_to("/dev/null")
    assert load(tmp_path).settings == Settings()


def test_whole_numbers_and_a_trailing_slash_are_taken(tmp_path):
    settings = load(
        files=[write(tmp_path, "a.toml", "[serving]\ndrain_s = 0\n[paths]\nstate = '/srv/edged/'\n")]
    ).settings
    assert settings.serving.drain_s == 0.0
    assert settings.under(Path("/r")).paths.state == "/r/srv/edged"


def test_the_two_delays_may_be_one(tmp_path):
    path = write(tmp_path, "a.toml", "[workers]\nrestart_min_s = 5\nrestart_max_s = 5\n")
    assert load(files=[path]).settings.workers.restart_max_s == 5


@pytest.mark.parametrize("tcp", ["127.0.0.1:1", "127.8.9.1:65535", "[::1]:8001", ""])
def test_loopback_needs_no_tls(tcp, tmp_path):
    assert load(files=[write(tmp_path, "a.toml", f"[listen]\ntcp = '{tcp}'\n")]).settings.listen.tcp == tcp


@pytest.mark.parametrize(
    "tcp", ["0.0.0.0:8001", "[::]:8001", "192.168.1.7:8001", "[fe80::1%eth0]:8001", "127.0.0.1:8001"]
)
def test_any_address_may_be_used_with_tls(tcp, tmp_path):
    tls = 'tls_certificate = "/c.pem"\ntls_key = "/k.pem"\ntls_client_ca = "/ca.pem"\n'
    assert load(files=[write(tmp_path, "a.toml", f"[listen]\ntcp = '{tcp}'\n{tls}")]).settings.listen.tcp == tcp


def test_an_address_is_taken_apart():
    assert address.parse("[::1]:8001") == address.Address("::1", 8001, loopback=True)
    assert address.parse("10.0.0.1:80") == address.Address("10.0.0.1", 80, loopback=False)


class TestUnderARoot:
    def test_every_path_is_moved_below_it(self):
        settings = Settings().under(Path("/mnt/device"))
        moved = {field.key for field in FIELDS if field.of(settings) != field.of(Settings())}
        sockets = {"listen.socket", "listen.admin_socket"}
        identity = {"mqtt.certificate", "mqtt.key", "mqtt.ca"}
        folders = {"paths.state", "paths.cache", "paths.factory"}
        assert moved == {*folders, *sockets, *identity, "update.root", "update.ca"}
        assert settings.paths.state == "/mnt/device/var/lib/edged"
        assert settings.listen.admin_socket == "/mnt/device/run/edged-admin/admin.sock"

    def test_the_root_of_the_system_changes_nothing(self):
        assert Settings().under(Path("/")) == Settings()

    def test_an_empty_path_stays_empty(self):
        assert Settings().under(Path("/r")).listen.tls_key == ""

    def test_every_key_that_holds_a_path_is_known_as_one(self):
        looks_like_path = {field.key for field in FIELDS if "path" in field.allowed}
        assert looks_like_path == {field.key for field in FIELDS if field.is_path}
        assert len(looks_like_path) == 13
