"""What people are shown: the merged settings with their origins, and the reference."""

import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.config.load import load
from edged.config.render import as_toml, reference, toml_value
from edged.config.settings import FIELDS, Settings

REPOSITORY = Path(__file__).parents[3]

ALL_DIFFERENT = """\
[device]
name = "cart-7"
hardware_class = "factory-gateway-gpu"
fleet = "shops"
[paths]
state = "/srv/\\"état\\" \\\\ #1"
cache = "/srv/cache"
factory = "/srv/factory"
[listen]
socket = "/srv/a/s"
admin_socket = "/srv/b/s"
tcp = "0.0.0.0:8001"
metrics = "[::1]:9464"
tls_certificate = "/c.pem"
tls_key = "/k.pem"
tls_client_ca = "/ca.pem"
socket_priority = 2
tcp_priority = 3
max_message_mib = 1
[serving]
queue_requests = 1
queue_mib = 2
queue_delay_ms = 3
default_timeout_s = 0.0015
drain_s = 0
[workers]
threads = 4
memory_mib = 300
arena_mib = 16
load_s = 1e2
build_s = 77
derived_mib = 9
first_inference_s = 12.25
inference_s = 0.1
restart_min_s = 1
restart_max_s = 2
[pressure]
margin_c = 4
throttle_c = 79.5
hysteresis_c = 2
horizon_s = 20
dwell_s = 15
memory_reserve_mib = 64
memory_limit_mib = 900
idle_s = 90
storage_reserve_mib = 100
write_budget_mib = 500
battery_low_percent = 30
stall_percent = 50
trace_mib = 2
[update]
repository = "https://models.example/repository"
root = "/opt/root.json"
ca = "/opt/ca.pem"
poll_s = 60.0
rate_kib = 100
daily_mib = 50
quota_mib = 4000
reserve_mib = 100
window = "02:30-05:00"
hold_max_s = 60.0
shadow_max_s = 10.0

[telemetry]
window_s = 60
spool_mib = 16
daily_write_mib = 32
send = "windows"
[mqtt]
broker = "mqtts://broker.example"
username = "till"
certificate = "/i/c.pem"
key = "/i/k.pem"
ca = "/i/ca.pem"
keep_alive_s = 60
rows_per_minute = 6
jitter_s = 1.5
unsigned_commands = true
[log]
level = "error"
format = "text"
events_kept = 16
"""


@pytest.fixture
def different(tmp_path):
    path = tmp_path / "edged.toml"
    path.write_text(ALL_DIFFERENT)
    loaded = load(files=[path])
    assert all(field.of(loaded.settings) != field.default for field in FIELDS)
    return loaded


class TestPrintConfig:
    def test_its_output_read_again_gives_the_same_settings(self, different, tmp_path):
        again = tmp_path / "again.toml"
        again.write_text(as_toml(different))
        assert load(files=[again]).settings == different.settings

    def test_it_names_every_key_even_those_with_their_default(self, tmp_path):
        data = tomllib.loads(as_toml(load(tmp_path)))
        assert data == msgspec.to_builtins(Settings())

    def test_each_value_says_where_it_came_from_what_it_means_and_its_unit(self, tmp_path):
        path = tmp_path / "edged.toml"
        path.write_text("[serving]\n\ndrain_s = 5\n")
        lines = as_toml(load(files=[path])).splitlines()
        assert f"drain_s = 5.0  # {path}:3" in lines
        meaning = lines[lines.index(f"drain_s = 5.0  # {path}:3") - 1]
        assert meaning.startswith("# How long requests already taken may go on")
        assert meaning.endswith("Unit: s.")
        assert "queue_mib = 128  # default" in lines

    def test_it_lists_the_files_in_the_order_read(self, tmp_path):
        names = [tmp_path / "b.toml", tmp_path / "a.toml"]
        for name in names:
            name.write_text("")
        assert as_toml(load(files=names)).startswith(
            f"# Merged from, later over earlier:\n#   {names[0]}\n#   {names[1]}\n\n[device]\n"
        )

    def test_a_file_name_cannot_break_out_of_its_comment(self, tmp_path):
        path = tmp_path / "a\n[log]\n.toml"
        path.write_text("[log]\nlevel = 'debug'\n")
        data = tomllib.loads(as_toml(load(files=[path])))
        assert data["log"]["level"] == "debug"

    @settings(deadline=None)
    @given(
        st.text(st.characters(exclude_categories=["Cs"])) | st.booleans() | st.integers() | st.floats(allow_nan=False)
    )
    def test_any_scalar_survives_being_written_and_read(self, value):
        assert tomllib.loads(f"v = {toml_value(value)}")["v"] == value


class TestReference:
    def test_the_committed_file_is_what_the_settings_say(self):
        committed = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
        assert committed == reference(), "run: python tools/generate_settings_doc.py"

    def test_the_tool_agrees(self):
        tool = [sys.executable, "tools/generate_settings_doc.py", "--check"]
        done = subprocess.run(tool, cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.key)
    def test_every_key_is_told_in_full(self, field):
        assert field.meaning.endswith(".")
        assert field.allowed
        row = f"| `{field.name}` | `{toml_value(field.default)}` | {field.unit} |"
        assert row in reference()

    def test_a_key_that_measures_something_names_its_unit_in_its_name(self):
        seconds = {field.key for field in FIELDS if field.unit == "s"}
        mebibytes = {field.key for field in FIELDS if field.unit == "MiB"}
        assert seconds == {field.key for field in FIELDS if field.name.endswith("_s")}
        assert mebibytes == {field.key for field in FIELDS if field.name.endswith("_mib")}

    def test_every_default_is_allowed(self):
        assert msgspec.convert(msgspec.to_builtins(Settings()), Settings) == Settings()
