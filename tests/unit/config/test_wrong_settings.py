"""Every way to write settings wrongly that we know of: line and key are named, what came, and what is allowed."""

import os
import socket
from pathlib import Path

import pytest
from support.permissions import plain_user

from edged.config import names
from edged.config.load import load
from edged.config.settings import Settings
from edged.document import MAX_BYTES, MAX_DEPTH, DocumentError
from edged.errors import Code, EdgedError

TLS = 'tls_certificate = "/c.pem"\ntls_key = "/k.pem"\ntls_client_ca = "/ca.pem"\n'
LONG = "/run/" + "s" * 99 + "/edged.sock"

# id: the file's text, then for each problem its line (0: the file), key, and pieces of what came and what is allowed.
ONE_FILE = {
    # names
    "unknown table": ("[nonsense]\na = 1\n", (1, "nonsense", "is no key known here", "allowed: device, listen, log")),
    "misspelt table": ("[serivng]\n", (1, "serivng", "is no key known here", "did you mean serving?")),
    "unknown key": ("[log]\nx = 1\n", (2, "log.x", "is no key known here", "allowed: events_kept, format, level")),
    "misspelt key": ("[log]\nlevle = 'info'\n", (2, "log.levle", "is no key known here", "did you mean level?")),
    "right key in the wrong case": ("[log]\nLevel = 'info'\n", (2, "log.Level", "no key known", "did you mean level?")),
    "right key in no table": ('level = "info"\n', (1, "level", "is no key known here", "allowed: device")),
    "key named by a line break": ('[log]\n"a\\nb" = 1\n', (2, r'log."a\nb"', "is no key known here", "allowed:")),
    "empty key": ('[log]\n"" = 1\n', (2, 'log.""', "is no key known here", "allowed:")),
    "unknown table inside a known one": ("[log.deep.er]\n", (1, "log.deep", "is no key known here", "allowed:")),
    # types
    "bool for an integer": ("[listen]\nmax_message_mib = true\n", (2, "listen.max_message_mib", "true", "1 to 1024")),
    "float for an integer": ("[workers]\nthreads = 2.0\n", (2, "workers.threads", "2.0 does not fit", "an integer")),
    "string for an integer": ("[workers]\nthreads = '2'\n", (2, "workers.threads", '"2" does not fit', "1 to 256")),
    "array for an integer": ("[workers]\nthreads = [2]\n", (2, "workers.threads", "[2] does not fit", "an integer")),
    "date for an integer": ("[workers]\nthreads = 2026-01-02\n", (2, "workers.threads", "2026-01-02", "an integer")),
    "bool for a number": ("[serving]\ndrain_s = false\n", (2, "serving.drain_s", "false does not fit", "a number")),
    "string for a number": ("[serving]\ndrain_s = '5s'\n", (2, "serving.drain_s", '"5s"', "0 to 300 (s)")),
    "table for a number": ("[serving.drain_s]\ns = 5\n", (1, "serving.drain_s", "a table does not fit", "a number")),
    "integer for a string": ("[device]\nhardware_class = 1\n", (2, "device.hardware_class", "1 does not fit", "64 of")),
    "array for a string": ("[paths]\nstate = ['/a']\n", (2, "paths.state", '["/a"] does not fit', "an absolute path")),
    "integer for a word": ("[log]\nlevel = 1\n", (2, "log.level", "1 does not fit", '"debug", "info"')),
    "scalar for a table": ("log = 'debug'\n", (1, "log", '"debug" does not fit', "a table with level, format")),
    "array for a table": ("log = []\n", (1, "log", "[] does not fit", "a table with level")),
    "array of tables for a table": ("[[log]]\nlevel = 'info'\n", (1, "log", "[a table] does not fit", "a table with")),
    "not a number": ("[serving]\ndrain_s = nan\n", (2, "serving.drain_s", "nan does not fit", "0 to 300")),
    "infinite": ("[serving]\ndrain_s = inf\n", (2, "serving.drain_s", "inf does not fit", "0 to 300")),
    "infinite by its exponent": ("[workers]\nload_s = 1e999\n", (2, "workers.load_s", "inf does not fit", "to 86400")),
    # ranges
    "below the range": ("[workers]\nthreads = 0\n", (2, "workers.threads", "0 does not fit", "from 1 to 256")),
    "above the range": ("[workers]\nthreads = 257\n", (2, "workers.threads", "257 does not fit", "from 1 to 256")),
    "far above the range": (f"[log]\nevents_kept = 0x{'f' * 9999}\n", (2, "log.events_kept", "39996 bits", "16 to")),
    "negative": ("[serving]\nqueue_mib = -1\n", (2, "serving.queue_mib", "-1 does not fit", "1 to 65536 (MiB)")),
    "negative time": ("[serving]\ndrain_s = -0.1\n", (2, "serving.drain_s", "-0.1 does not fit", "0 to 300")),
    "no time at all": ("[workers]\ninference_s = 0\n", (2, "workers.inference_s", "0 does not fit", "0.001 to 3600")),
    "a day's timeout": ("[serving]\ndefault_timeout_s = 86400\n", (2, "serving.default_timeout_s", "86400", "to 3600")),
    "no message": (
        "[listen]\nmax_message_mib = 0\n",
        (2, "listen.max_message_mib", "0 does not fit", "1 to 1024 (MiB)"),
    ),
    "unknown level": ("[log]\nlevel = 'trace'\n", (2, "log.level", '"trace" does not fit', 'one of "debug", "info"')),
    "level in capitals": ("[log]\nlevel = 'INFO'\n", (2, "log.level", '"INFO" does not fit', '"warning", "error"')),
    "unknown format": ("[log]\nformat = 'xml'\n", (2, "log.format", '"xml" does not fit', '"auto", "json", "text"')),
    "capitals in a class": ("[device]\nhardware_class = 'Cart'\n", (2, "device.hardware_class", '"Cart"', "a-z")),
    "empty class": ("[device]\nhardware_class = ''\n", (2, "device.hardware_class", '"" does not fit', "1 to 64")),
    "line break after a class": (
        '[device]\nhardware_class = "cart\\n"\n',
        (2, "device.hardware_class", r'"cart\n" does not fit', "a letter or digit"),
    ),
    "class of 65 letters": (
        f"[device]\nhardware_class = '{'c' * 65}'\n",
        (2, "device.hardware_class", "does not fit", "1 to 64"),
    ),
    # paths
    "relative path": ("[paths]\nstate = 'var'\n", (2, "paths.state", '"var" does not fit', "an absolute path")),
    "path that climbs": ("[paths]\ncache = '/var/../etc'\n", (2, "paths.cache", '"/var/../etc"', "'.' or '..'")),
    "path that ends climbing": ("[paths]\ncache = '/var/..'\n", (2, "paths.cache", '"/var/.."', "'.' or '..'")),
    "path with an empty part": ("[paths]\ncache = '//var'\n", (2, "paths.cache", '"//var"', "no part of it empty")),
    "root for a folder": ("[paths]\nstate = '/'\n", (2, "paths.state", '"/" does not fit', "an absolute path")),
    "empty path": ("[paths]\nfactory = ''\n", (2, "paths.factory", '"" does not fit', "an absolute path")),
    "home is not expanded": ("[paths]\nstate = '~/edged'\n", (2, "paths.state", '"~/edged"', "an absolute path")),
    "NUL in a path": ('[paths]\nstate = "/a\\u0000"\n', (2, "paths.state", r'"/a\x00" does not fit', "an absolute")),
    "line break after a path": (
        '[paths]\nstate = "/a\\n"\n',
        (2, "paths.state", r'"/a\n" does not fit', "an absolute"),
    ),
    "relative certificate": (
        "[listen]\ntls_key = 'k.pem'\n",
        (2, "listen.tls_key", '"k.pem"', '"" for none, or an abs'),
    ),
    "one folder for two things": (
        '[paths]\ncache = "/var/lib/edged/"\n',
        (2, "paths.cache", 'state and cache are both "/var/lib/edged"', "a folder of its own"),
    ),
    "one folder for three things": (
        "[paths]\nstate = '/a'\ncache = '/a'\nfactory = '/a'\n",
        (3, "paths.cache", "state and cache are both", "a folder of its own"),
        (4, "paths.factory", "state and factory are both", "a folder of its own"),
        (4, "paths.factory", "cache and factory are both", "a folder of its own"),
    ),
    # where to listen
    "host name": ("[listen]\ntcp = 'localhost:8001'\n", (2, "listen.tcp", "has localhost for an IP", "IP:port")),
    "port 0": ("[listen]\ntcp = '127.0.0.1:0'\n", (2, "listen.tcp", "has 0 for a port", "from 1 to 65535")),
    "port 70000": ("[listen]\ntcp = '127.0.0.1:70000'\n", (2, "listen.tcp", "has 70000 for a port", "to 65535")),
    "negative port": ("[listen]\ntcp = '127.0.0.1:-1'\n", (2, "listen.tcp", "has -1 for a port", "to 65535")),
    "no port": ("[listen]\ntcp = '127.0.0.1'\n", (2, "listen.tcp", "names no port", "IP:port")),
    "no port after a colon": ("[listen]\ntcp = '127.0.0.1:'\n", (2, "listen.tcp", "names no port", "IP:port")),
    "no address": ("[listen]\ntcp = ':8001'\n", (2, "listen.tcp", "names no IP address", "IP:port")),
    "no port after brackets": ("[listen]\ntcp = '[::1]'\n", (2, "listen.tcp", "names no port", '"[::1]:8001"')),
    "IPv6 without brackets": ("[listen]\ntcp = '::1:8001'\n", (2, "listen.tcp", "has ::1 for", '"[::1]:8001"')),
    "four numbers that are no address": (
        "[listen]\ntcp = '127.0.0.256:1'\n",
        (2, "listen.tcp", "127.0.0.256", "IP:port"),
    ),
    "a URL": ("[listen]\ntcp = 'http://[::1]:80/'\n", (2, "listen.tcp", '"http://[::1]:80/" does not fit', "IP:port")),
    "a bare port": ("[listen]\ntcp = 8001\n", (2, "listen.tcp", "8001 does not fit", "IP:port")),
    "metrics of a host name": (
        "[listen]\nmetrics = 'localhost:9464'\n",
        (2, "listen.metrics", "has localhost for an IP", "IP:port of loopback"),
    ),
    "metrics for other machines": (
        "[listen]\nmetrics = '0.0.0.0:9464'\n",
        (2, "listen.metrics", '"0.0.0.0:9464" can be reached from other machines', "IP:port of loopback"),
    ),
    "metrics for other machines over IPv6": (
        "[listen]\nmetrics = '[::]:9464'\n",
        (2, "listen.metrics", '"[::]:9464" can be reached from other machines', "IP:port of loopback"),
    ),
    "metrics where callers are": (
        "[listen]\ntcp = '127.0.0.1:1'\nmetrics = '127.0.0.1:1'\n",
        (3, "listen.metrics", 'tcp and metrics are both "127.0.0.1:1"', "a port of its own"),
    ),
    "open to all without TLS": (
        '[listen]\ntcp = "0.0.0.0:8001"\n',
        (2, "listen.tcp", '"0.0.0.0:8001" can be reached from other machines', "set tls_certificate, tls_key"),
    ),
    "open to all over IPv6": (
        "[listen]\ntcp = '[::]:8001'\n",
        (2, "listen.tcp", "from other machines", "tls_client_ca"),
    ),
    "an address of the site": (
        "[listen]\ntcp = '10.0.0.1:80'\n",
        (2, "listen.tcp", "from other machines", "127.0.0.1"),
    ),
    "a key alone": (
        "[listen]\ntls_key = '/k.pem'\n",
        (2, "listen.tls_key", "tls_key set, but not tls_certificate and tls_client_ca", "all three or none"),
    ),
    "open to all with half of TLS": (
        "[listen]\ntcp = '0.0.0.0:1'\ntls_certificate = '/c'\ntls_key = '/k'\n",
        (4, "listen.tls_key", "tls_certificate and tls_key set, but not tls_client_ca", "all three or none"),
    ),
    "one socket for both": (
        "[listen]\nadmin_socket = '/run/edged/edged.sock'\n",
        (2, "listen.admin_socket", 'are both "/run/edged/edged.sock"', "a folder of its own"),
    ),
    "one folder for both sockets": (
        "[listen]\nsocket = '/run/edged-admin/edged.sock'\n",
        (2, "listen.socket", 'stand in one folder, "/run/edged-admin"', "a folder of its own"),
    ),
    # workers
    "delays the wrong way round": (
        "[workers]\nrestart_max_s = 1\nrestart_min_s = 2\n",
        (3, "workers.restart_min_s", "2.0, above restart_max_s, which is 1.0", "raise restart_max_s"),
    ),
    # not TOML
    "no value": ("[log]\nlevel =\n", (2, "", "Invalid value", "mend this line")),
    "no quotes": ("[log]\nlevel = info\n", (2, "", "is not TOML", "mend this line")),
    "a colon for an equals sign": ("[log]\nlevel: 'info'\n", (2, "", "is not TOML", "mend this line")),
    "open quote": ("[log]\nlevel = 'info\n[device]\n", (2, "", "is not TOML", "mend this line")),
    "open multi-line string": ('[log]\nlevel = """info\n\n\n', (2, "", "Unterminated string", "mend this line")),
    "open array": ("[log]\nlevel = [\n", (2, "", "is not TOML", "mend this line")),
    "open table header": ("[log\nlevel = 'info'\n", (1, "", "is not TOML", "mend this line")),
    "two on one line": ("[log]\nlevel = 'info' format = 'text'\n", (2, "", "is not TOML", "mend this line")),
    "a key twice": ("[log]\nlevel = 'info'\nlevel = 'debug'\n", (3, "", "overwrite", "stands in a file once")),
    "a key twice, at the end": ("[log]\nlevel = 'info'\nlevel = 'error'", (3, "", "overwrite", "in a file once")),
    "a table twice": ("[log]\n[device]\n[log]\n", (3, "", "twice", "stands in a file once")),
    "an impossible date": ("[log]\nlevel = 2026-13-01\n", (2, "", "is not TOML", "mend this line")),
    "a leading zero": ("[workers]\nthreads = 08\n", (2, "", "is not TOML", "mend this line")),
    "JSON": ('{"log": {"level": "info"}}\n', (1, "", "is not TOML", "mend this line")),
    "NUL": ("[log]\n\0\n", (2, "", "is not TOML", "mend this line")),
    "NUL in a string": ("[log]\nlevel = '\0'\n", (2, "", "is not TOML", "mend this line")),
    "not UTF-8": (b"[log]\nlevel = 'inf\xff'\n", (2, "", "is not UTF-8 text", "save the file as UTF-8")),
    "not UTF-8, after a mark": (b"\xef\xbb\xbf\n\xff\n", (2, "", "is not UTF-8 text", "save the file as UTF-8")),
    "UTF-16": ("[log]\n".encode("utf-16"), (1, "", "is not UTF-8 text", "save the file as UTF-8")),
    "huge": ("#" * (MAX_BYTES + 1), (0, "", "is larger than 256 KiB", "is it the right one?")),
    "an array in an array, on and on": (
        "[log]\nlevel = " + "[" * 20_000 + "]" * 20_000,
        (2, "", "is nested too deeply", f"at most {MAX_DEPTH}"),
    ),
    "arrays that never close": ("\n" + "a=[" * 20_000, (2, "", "is nested too deeply", f"at most {MAX_DEPTH}")),
    "a key of very many parts": (
        "[log]\n" + "a." * 20_000 + "a = 1",
        (2, "", "is nested too deeply", "parts of a key"),
    ),
    "a number of 5000 digits": (
        f"[log]\n\nevents_kept = {'9' * 5000}\n",
        (3, "", "is not TOML that can be read here", "shorten this value"),
    ),
    "arrays that TOML allows": (
        "[log]\nlevel = " + "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        (2, "log.level", "does not fit", "one of"),
    ),
    # ways of writing that TOML allows, and the line is still right
    "dotted key": ("a = 1\nlog.level = 3\n", (1, "a", "no key", "device"), (2, "log.level", "3", "one of")),
    "quoted and dotted key": ("'log' . \"level\" = 3\n", (1, "log.level", "3 does not fit", "one of")),
    "inline table": ("\nlog = { level = 3, format = 4 }\n", (2, "log.level", "3", "of"), (2, "log.format", "4", "of")),
    "after a multi-line array": (
        "[log]\nlevel = [\n  1, # [\n  ']',\n]\nformat = 1\n",
        (2, "log.level", '[1, "]"]', "one of"),
        (6, "log.format", "1", "one of"),
    ),
    "after a multi-line string": (
        '[paths]\nstate = """/a\n[log]\nlevel = 1\n"""\ncache = 2\n',
        (2, "paths.state", r'"/a\n[log]\nlevel = 1\n"', "an absolute path"),
        (6, "paths.cache", "2 does not fit", "an absolute path"),
    ),
    "after a literal multi-line string": (
        "[paths]\nstate = '''\n/a\\'''\ncache = 2\n",
        (4, "paths.cache", "2 does not fit", "an absolute path"),
    ),
    "after comments that look like keys": (
        "# [log]\n#level = 1\n\n[log] # x = 1\nlevel = 3 # 4\n",
        (5, "log.level", "3", ""),
    ),
    "Windows line ends": (b"[log]\r\n\r\nlevel = 3\r\n", (3, "log.level", "3 does not fit", "one of")),
    "a byte-order mark": (b"\xef\xbb\xbf[log]\nlevel = 3\n", (2, "log.level", "3 does not fit", "one of")),
    "line separators that TOML does not know": (
        "# a\u2028b\x85c\n[log]\nlevel = '\u2028'\nformat = 3\n",
        (3, "log.level", r'"\u2028"', "one of"),
        (4, "log.format", "3", "one of"),
    ),
    "a value too long to show": (f"[log]\nlevel = '{'x' * 999}'\n", (2, "log.level", "xxx… does not fit", "one of")),
    # several at once, in the order in which they stand
    "all problems at once": (
        "[workers]\nthreads = 0\nlaod_s = 1\n[log]\nlevel = 'x'\n[serving]\ndrain_s = 'x'\n[listen]\ntcp = 'x:1'\n",
        (2, "workers.threads", "0", "1 to 256"),
        (3, "workers.laod_s", "no key", "did you mean load_s?"),
        (5, "log.level", '"x"', "one of"),
        (7, "serving.drain_s", '"x"', "0 to 300"),
        (9, "listen.tcp", "has x for an IP address", "IP:port"),
    ),
    "values that cannot be judged together are not": (
        '[listen]\ntcp = "0.0.0.0:8001"\ntls_certificate = "/c.pem"\ntls_key = 3\ntls_client_ca = "/ca.pem"\n',
        (4, "listen.tls_key", "3 does not fit", "an absolute path"),
    ),
}


def problems(root: Path, *files: Path) -> list[tuple[str, int, str, str, str]]:
    with pytest.raises(DocumentError) as caught:
        load(root, files)
    assert caught.value.code is Code.SETTINGS_INVALID
    return [(p.place.file, p.place.line, p.key, p.found, p.remedy) for p in caught.value.problems]


def write(root: Path, name: str, content: str | bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def assert_told(found: list[tuple[str, int, str, str, str]], expected: list[tuple[Path, int, str, str, str]]) -> None:
    assert [entry[:3] for entry in found] == [(str(entry[0]), *entry[1:3]) for entry in expected]
    for (*_, came, allowed), (*_, came_piece, allowed_piece) in zip(found, expected, strict=True):
        assert came_piece in came
        assert allowed_piece in allowed


def test_there_are_at_least_fifty_of_them():
    assert len(ONE_FILE) >= 50


@pytest.mark.parametrize("name", ONE_FILE)
def test_a_wrong_file(name, tmp_path):
    text, *expected = ONE_FILE[name]
    path = write(tmp_path, "wrong.toml", text)
    assert_told(problems(Path("/"), path), [(path, *entry) for entry in expected])


def test_a_problem_reads_as_one_line_that_names_file_line_key_value_and_remedy(tmp_path):
    path = write(tmp_path, "a.toml", "[workers]\nthreads = 300\n")
    with pytest.raises(DocumentError) as caught:
        load(files=[path])
    assert (
        str(caught.value) == f"{path}:2: workers.threads: 300 does not fit; allowed: an integer from 1 to 256 (threads)"
    )


def test_a_socket_path_longer_than_the_kernel_takes(tmp_path):
    path = write(tmp_path, "a.toml", f"[listen]\nsocket = '{LONG}'\n")
    expected = (path, 2, "listen.socket", "115 bytes long", "at most 107 bytes")
    assert_told(problems(Path("/"), path), [expected])


@pytest.mark.parametrize(("length", "fits"), [(107, True), (108, False)])
def test_a_socket_path_is_counted_in_bytes(length, fits, tmp_path):
    name = "/run/é/"  # eight bytes
    path = write(tmp_path, "a.toml", f"[listen]\nsocket = '{name}{'s' * (length - 8)}'\n")
    if fits:
        load(files=[path])
    else:
        assert len(problems(Path("/"), path)) == 1


def test_a_socket_path_is_counted_with_its_root_and_the_default_has_no_file():
    root = Path("/" + "r" * 90)
    assert [entry[:3] for entry in problems(root)] == [
        ("defaults", 0, "listen.socket"),
        ("defaults", 0, "listen.admin_socket"),
    ]


def test_the_later_file_is_named_when_it_replaces_a_right_value_by_a_wrong_one(tmp_path):
    good = write(tmp_path, "etc/edged/edged.toml", "[log]\nlevel = 'info'\n")
    late = write(tmp_path, "etc/edged/edged.toml.d/90.toml", "\n[log]\nlevel = 'x'\n")
    assert_told(problems(tmp_path), [(late, 3, "log.level", '"x"', "one of")])
    assert good.exists()


@pytest.mark.parametrize("wrong", ["log.level = 'x'", "listen.tcp = 'localhost:1'"])
def test_a_wrong_value_is_told_even_where_a_later_file_replaces_it(wrong, tmp_path):
    early = write(tmp_path, "a.toml", wrong)
    late = write(tmp_path, "b.toml", "[log]\nlevel = 'info'\n[listen]\ntcp = '127.0.0.1:1'\n")
    assert [entry[:2] for entry in problems(Path("/"), early, late)] == [(str(early), 1)]


def test_values_that_contradict_each_other_across_files_are_told_at_the_last_one(tmp_path):
    first = write(tmp_path, "a.toml", "[workers]\nrestart_min_s = 30\n")
    last = write(tmp_path, "b.toml", "\n\n[workers]\nrestart_max_s = 20\n")
    assert_told(problems(Path("/"), first, last), [(last, 4, "workers.restart_max_s", "above", "lower restart_min_s")])
    assert_told(problems(Path("/"), last, first), [(first, 2, "workers.restart_min_s", "above", "lower restart_min_s")])


def test_a_file_that_is_right_only_together_with_another_is_right(tmp_path):
    first = write(tmp_path, "a.toml", "[workers]\nrestart_min_s = 100\n[listen]\ntcp = '0.0.0.0:1'\n")
    second = write(tmp_path, "b.toml", f"[workers]\nrestart_max_s = 200\n[listen]\n{TLS}")
    assert load(files=[first, second]).settings.workers.restart_min_s == 100
    assert len(problems(Path("/"), first)) == 2


def test_problems_of_several_files_are_told_together_in_the_order_of_the_files(tmp_path):
    first = write(tmp_path, "usr/lib/edged/edged.toml", "[log]\nlevel = 'x'\n")
    second = write(tmp_path, "usr/lib/edged/edged.toml.d/10.toml", "[log\n")
    third = write(tmp_path, "etc/edged/edged.toml", b"\xff")
    write(tmp_path, "etc/edged/edged.toml.d/10.toml", "[log]\nformat = 'text'\n")
    last = write(tmp_path, "etc/edged/edged.toml.d/20.toml", "[paths]\nstate = '/a'\ncache = '/a'\n")
    assert_told(
        problems(tmp_path),
        [
            (first, 2, "log.level", '"x"', "one of"),
            (second, 1, "", "is not TOML", "mend"),
            (third, 1, "", "is not UTF-8", "save"),
            (last, 3, "paths.cache", "both", "of its own"),
        ],
    )


def test_what_a_broken_file_may_have_said_is_not_guessed_at(tmp_path):
    broken = write(tmp_path, "a.toml", "[listen]\ntls_key = '/k.pem\n")
    other = write(tmp_path, "b.toml", "[listen]\ntls_certificate = '/c.pem'\ntls_client_ca = '/ca.pem'\n")
    assert [entry[:2] for entry in problems(Path("/"), broken, other)] == [(str(broken), 2)]


def test_very_many_problems_are_told_up_to_a_bound(tmp_path):
    path = write(tmp_path, "a.toml", "".join(f"k{number} = 1\n" for number in range(5000)))
    found = problems(Path("/"), path)
    assert len(found) == 201
    assert found[0][1:4] == (0, "", "more than 200 things do not fit")
    assert found[200][1:3] == (200, "k199")


def test_a_file_that_is_named_and_missing(tmp_path):
    assert_told(
        problems(Path("/"), tmp_path / "no.toml"), [(tmp_path / "no.toml", 0, "", "No such file", "check that")]
    )


def test_a_folder_in_place_of_a_file(tmp_path):
    (tmp_path / "etc/edged/edged.toml.d/10.toml").mkdir(parents=True)
    place = tmp_path / "etc/edged/edged.toml.d/10.toml"
    assert_told(problems(tmp_path), [(place, 0, "", "is a folder, not a regular file", "put a file there")])


def test_a_file_in_place_of_the_folder_of_fragments(tmp_path):
    place = write(tmp_path, "etc/edged/edged.toml.d", "")
    assert_told(problems(tmp_path), [(place, 0, "", "cannot be listed: Not a directory", "check that it is a folder")])


def test_links_that_lead_nowhere(tmp_path):
    folder = tmp_path / "etc/edged/edged.toml.d"
    folder.mkdir(parents=True)
    places = [tmp_path / "etc/edged/edged.toml", folder / "10.toml"]
    for place in places:
        place.symlink_to("nowhere")
    assert_told(problems(tmp_path), [(place, 0, "", "No such file", "check that") for place in places])


def test_a_link_to_itself_in_place_of_the_folder_of_fragments(tmp_path):
    place = tmp_path / "etc/edged/edged.toml.d"
    place.parent.mkdir(parents=True)
    place.symlink_to(place)
    assert_told(problems(tmp_path), [(place, 0, "", "cannot be listed: Too many levels", "check that it is a folder")])


def test_a_pipe_among_the_fragments_is_not_waited_for(tmp_path):
    place = tmp_path / "etc/edged/edged.toml.d/10.toml"
    place.parent.mkdir(parents=True)
    os.mkfifo(place)
    assert_told(problems(tmp_path), [(place, 0, "", "is a pipe, not a regular file", "put a file there")])


@pytest.mark.parametrize("by", ["its name", "its descriptor"])
def test_a_pipe_named_on_the_command_line_is_not_read_since_it_could_not_be_read_again(by, tmp_path):
    place = tmp_path / "pipe"
    os.mkfifo(place)
    writer = os.open(place, os.O_RDWR)  # there is one, so that nothing waits for it
    os.write(writer, b"[log]\nlevel = 'debug'\n")
    if by == "its descriptor":  # as a shell names what it puts in the place of <(…)
        place = Path(f"/dev/fd/{writer}")
    try:
        assert_told(problems(Path("/"), place), [(place, 0, "", "is a pipe, not a regular file", "`<(…)` of a shell")])
    finally:
        os.close(writer)


def test_a_pipe_that_takes_the_place_of_a_file_as_it_is_read_is_not_waited_for(tmp_path, monkeypatch):
    place, regular = tmp_path / "pipe", write(tmp_path, "regular", "")
    os.mkfifo(place)
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **given: stat(regular if path == place else path, **given))
    assert_told(problems(Path("/"), place), [(place, 0, "", "is a pipe, not a regular file", "put a file there")])


def test_devices_and_sockets_are_not_read_and_devices_not_opened(tmp_path, monkeypatch):
    at = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(at))
        monkeypatch.setattr(os, "open", lambda *_: pytest.fail("some devices act when they are opened"))
        assert_told(
            problems(Path("/"), Path("/dev/zero"), at),
            [
                (Path("/dev/zero"), 0, "", "is a device, not a regular file", "put a file there"),
                (at, 0, "", "is a socket, not a regular file", "put a file there"),
            ],
        )


def test_no_settings_are_named_by_the_null_device(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    assert load(files=[Path("/dev/null"), link]).settings == Settings()


class TestNamesThatAreNotUtf8:
    """Neither the log nor any answer of edged could tell of them."""

    BAD = "caf\udce9"

    @pytest.mark.parametrize("of", ["the root", "a file"])
    def test_are_refused(self, of, tmp_path):
        bad = tmp_path / self.BAD
        with pytest.raises(EdgedError) as caught:
            load(*((bad,) if of == "the root" else (tmp_path, [bad])))
        assert not isinstance(caught.value, DocumentError), "so that no last good settings are taken"
        assert caught.value.code is Code.SETTINGS_INVALID
        assert caught.value.message == rf"the path {tmp_path}/caf\xe9 is not UTF-8"
        assert caught.value.hint == "give it a name in UTF-8, or use a link that has one"

    def test_are_a_problem_among_the_fragments(self, tmp_path):
        write(tmp_path, f"etc/edged/edged.toml.d/{self.BAD}.toml", "")
        place = rf"{tmp_path}/etc/edged/edged.toml.d/caf\xe9.toml"
        assert problems(tmp_path) == [(place, 0, "", "has a name that is not UTF-8", "rename it")]
        (tmp_path / f"etc/edged/edged.toml.d/{self.BAD}.toml").rename(tmp_path / "etc/edged/edged.toml.d/café.toml")
        assert len(load(tmp_path).files) == 1

    def test_are_shown_so_that_no_terminal_is_steered(self):
        assert names.printable(Path("/é\x1b[2J\udcff\n")) == r"/é\x1b[2J\xff\n"


def test_folders_that_may_not_be_looked_into(tmp_path):
    write(tmp_path, "etc/edged/edged.toml", "")
    tmp_path.chmod(0)
    with plain_user():
        found = problems(tmp_path)
    tmp_path.chmod(0o700)
    assert [(entry[0].removeprefix(str(tmp_path)), entry[3]) for entry in found] == [
        ("/usr/lib/edged/edged.toml", "cannot be read: Permission denied"),
        ("/usr/lib/edged/edged.toml.d", "cannot be listed: Permission denied"),
        ("/etc/edged/edged.toml", "cannot be read: Permission denied"),
        ("/etc/edged/edged.toml.d", "cannot be listed: Permission denied"),
    ]
