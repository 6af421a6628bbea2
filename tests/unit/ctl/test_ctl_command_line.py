"""The command line itself: what it imports, how its options stand, how commands end."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edged import __version__
from edged.config import last_good
from edged.config.settings import Listen, Settings
from edged.ctl import boot, faults, query
from edged.ctl.asked import Asked
from edged.ctl.main import COMMANDS, cli, run
from edged.errors import Code, EdgedError

ABSENT = "not running, or it listens elsewhere"
NOT_RUNNING = (
    f"edged is {ABSENT}: {{root}}/run/edged-admin/admin.sock is not there; "
    "start it with `edged --root {root}`, or say with --config how it was started"
)


def imported(*arguments: str, **environment: str) -> set[str]:
    """The modules that a run of edgectl has imported by its end."""
    code = (
        "import sys; sys.argv = ['edgectl', *sys.argv[1:]]\n"
        "from edged.ctl.main import run\n"
        "run(sys.argv[1:])\n"
        "sys.stderr.write('\\n'.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.stdout
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [("--help",), ("version",), ("status", "--help"), ("completion", "bash")])
def test_what_needs_no_answer_is_quick(arguments: tuple[str, ...], tmp_path: Path):
    modules = imported(*arguments, EDGED_ROOT=str(tmp_path))
    assert "edged.ctl.main" in modules
    assert not modules & {"grpc", "numpy", "rich", "PIL", "google.protobuf", "asyncio"}


def test_pictures_and_arrays_are_imported_only_for_what_needs_them(tmp_path: Path):
    assert not imported("infer", "--help", EDGED_ROOT=str(tmp_path)) & {"grpc", "numpy", "PIL", "rich"}


def test_the_list_of_commands_says_what_each_command_says():
    with click.Context(cli) as ctx:
        for name, entry in COMMANDS.items():
            command = cli.get_command(ctx, name)
            assert command is not None
            assert command.name == name
            assert command.help is not None
            assert command.help.split("\n\n")[0].split("\b")[0].strip() == entry.short_help


@pytest.mark.parametrize("command", [*COMMANDS, "bundle check", "bundle pack", "bundle import"])
def test_every_help_fits_into_80_columns(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*command.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Usage: edgectl {command} ")
    assert [line for line in lines if len(line) > 80] == []


def test_help_lists_every_command_and_every_exit_status(capsys: pytest.CaptureFixture[str]):
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)
    section = text.split("Exit status:")[1].split("Options:")[0]
    told = [int(line.split()[0]) for line in section.strip().splitlines()]
    assert told == [faults.DONE, faults.NO, faults.WRONG_USAGE, faults.NOT_RUNNING, faults.NOT_PERMITTED]
    assert all(len(line) <= 80 for line in text.splitlines())


def test_the_page_on_edgectl_has_every_command_option_and_exit_status():
    page = (Path(__file__).parents[3] / "docs/edgectl.md").read_text()
    with click.Context(cli) as ctx:
        for name in COMMANDS:
            command = cli.get_command(ctx, name)
            names = [f"{name} {each}" for each in command.commands] if isinstance(command, click.Group) else [name]
            assert all(re.search(rf"^\| `edgectl {each}\b", page, re.MULTILINE) for each in names)
    assert all(f"`{param.opts[0]} " in page or f"`{param.opts[0]}`" in page for param in cli.params)
    section = page.split("## Exit status")[1].split("\n## ")[0]
    assert [int(number) for number in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("command", [["status"], ["models"], ["workers"], ["events"], ["watch"], ["infer", "m", "-"]])
def test_without_a_daemon_each_says_so_and_what_to_do(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run([*command, "--root", str(tmp_path)]) == faults.NOT_RUNNING
    captured = capsys.readouterr()
    assert captured.out == ""
    wanted = NOT_RUNNING.format(root=tmp_path)
    if command[0] == "infer":
        wanted = wanted.replace("edged-admin/admin.sock", "edged/edged.sock")
    assert captured.err == f"edgectl: {wanted}\n"


@pytest.mark.parametrize(
    "arguments",
    [["--json", "--root", "{root}", "status"], ["status", "--root", "{root}", "--json"], ["--json", "status"]],
)
def test_common_options_stand_before_or_after_the_command(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    if "--root" not in arguments:
        monkeypatch.setenv("EDGED_ROOT", str(tmp_path))
    assert run([each.format(root=tmp_path) for each in arguments]) == faults.NOT_RUNNING
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"error": {"code": "not_running", "message": NOT_RUNNING.format(root=tmp_path)}}


def test_an_option_given_outweighs_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EDGED_ROOT", "/of/the/environment")
    for arguments in (["--root", str(tmp_path), "status"], ["status", "--root", str(tmp_path)]):
        run(arguments)
        assert f"{tmp_path}/run" in capsys.readouterr().err


def test_a_relative_root_is_made_absolute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    run(["--root", "here", "status"])
    assert f"{tmp_path}/here/run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["infr"], "edgectl: no such command 'infr'; see `edgectl --help`"),
        (["infer"], "edgectl: missing argument 'MODEL'; see `edgectl infer --help`"),
        (["bundle", "check", "/is/not/there"], "'/is/not/there' does not exist; see `edgectl bundle check --help`"),
        (["completion", "tcsh"], "see `edgectl completion --help`"),
        (["--timeout", "0", "status"], "'--timeout'"),
        (["events", "--limit", "0"], "'--limit'"),
        (["infer", "m", "f.png", "--revision", "-1"], "'--revision'"),
    ],
)
def test_wrong_usage_is_told_in_a_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert run(arguments) == faults.WRONG_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert line.startswith("edgectl: ")


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]):
    for arguments in ([], ["bundle"]):
        assert run(arguments) == faults.WRONG_USAGE
        assert "Commands:" in capsys.readouterr().err


def test_the_version_is_told_without_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["--root", str(tmp_path), "version"]) == 0
    said = f"{ABSENT}: {tmp_path}/run/edged/edged.sock is not there"
    assert capsys.readouterr().out == f"edgectl  {__version__}\nedged    {said}\n"
    assert run(["--root", str(tmp_path), "--json", "version"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"edgectl": __version__, "edged": None, "reason": f"edged is {said}"}


def test_wrong_settings_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = tmp_path / "etc/edged/edged.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('[listen]\nadmin_socket = 3\nsocket = "/run/other.sock"\n[nonsense]\n')
    assert run(["--root", str(tmp_path), "status"]) == faults.NOT_RUNNING
    warning, failure = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"edgectl: warning: the settings cannot be used, so the default ones are: {settings}:2: ")
    assert warning.endswith(f"(and 1 more); see `edged --check-config --root {tmp_path}`")
    assert failure == "edgectl: " + NOT_RUNNING.format(root=tmp_path)


def test_sockets_are_found_where_the_settings_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    settings = tmp_path / "etc/edged/edged.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('[listen]\nadmin_socket = "/srv/here/admin.sock"\n')
    run(["--root", str(tmp_path), "status"])
    assert f"{tmp_path}/srv/here/admin.sock is not there" in capsys.readouterr().err


LISTENS = '[listen]\nadmin_socket = "{path}"\n'


def test_settings_files_are_named_as_for_edged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "one.toml").write_text(LISTENS.format(path="/srv/one/s"))
    (tmp_path / "two.toml").write_text(LISTENS.format(path="/srv/two/s"))
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["--config", "one.toml", "--config", "two.toml", "status"],
        ["status", "--config", "one.toml", "--config", "two.toml"],
        ["--config", "one.toml", "status", "--config", "two.toml"],
    ):
        assert run(["--root", str(tmp_path / "r"), *arguments]) == faults.NOT_RUNNING
        start = f"edged --root {tmp_path}/r --config {tmp_path}/one.toml --config {tmp_path}/two.toml"
        said = f"edgectl: edged is {ABSENT}: {tmp_path}/r/srv/two/s is not there; start it with `{start}`\n"
        assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        (Asked(), "start it with `systemctl start edged`, or say with --root or --config how it was started"),
        (Asked(root=Path("/a b")), "start it with `edged --root '/a b'`, or say with --config how it was started"),
        (Asked(files=(Path("/c"),)), "start it with `edged --config /c`, or say with --root how it was started"),
        (Asked(root=Path("/r"), files=(Path("/c"),)), "start it with `edged --root /r --config /c`"),
    ],
)
def test_what_to_do_where_nobody_listens(asked: Asked, hint: str):
    assert asked.start_hint == hint


@pytest.mark.parametrize("given", [(), ("mine.toml",)])
def test_on_wrong_settings_the_last_good_ones_are_taken(
    given: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    files = [tmp_path / name for name in given]
    broken = files[0] if files else tmp_path / "etc/edged/edged.toml"
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_text("nonsense = 1\n")
    record = last_good.place(tmp_path, files)
    record.parent.mkdir(parents=True)
    last_good.remember(record, Settings(listen=Listen(admin_socket="/srv/good/s")))
    options = [word for file in files for word in ("--config", str(file))]
    assert run(["--root", str(tmp_path), *options, "status"]) == faults.NOT_RUNNING
    warning, failure = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"edgectl: warning: the settings cannot be used, so the last good ones are: {broken}:1: ")
    assert warning.endswith(" ".join(["; see `edged --check-config --root", str(tmp_path), *options]) + "`")
    assert f"{tmp_path}/srv/good/s is not there" in failure


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(("folder_too", "which"), [(True, "last good"), (False, "default")])
def test_the_last_good_ones_are_those_of_the_user_that_edged_runs_as(
    folder_too: bool, which: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "etc/edged").mkdir(parents=True)
    (tmp_path / "etc/edged/edged.toml").write_text("nonsense = 1\n")
    record = last_good.place(tmp_path)
    record.parent.mkdir(parents=True)
    last_good.remember(record, Settings())
    os.chown(record, 1234, 1234)
    if folder_too:
        os.chown(record.parent, 1234, 1234)
    run(["--root", str(tmp_path), "status"])
    assert f"so the {which} ones are: " in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--root", "--config"])
def test_a_path_that_is_not_utf8_is_refused_in_words(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    bad = f"{tmp_path}/caf\udce9"
    said = f"edgectl: invalid value for '{option}': the path {tmp_path}/caf\\xe9 is not UTF-8; give it a name in UTF-8"
    for arguments in ([option, bad, "status"], ["status", option, bad]):
        assert run(arguments) == faults.WRONG_USAGE
        assert capsys.readouterr().err.startswith(said)
    if option == "--root":
        monkeypatch.setenv("EDGED_ROOT", bad)
        assert run(["status"]) == faults.WRONG_USAGE
        assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (EdgedError(Code.NOT_RUNNING, "m"), 3, "not_running"),
        (EdgedError(Code.NOT_PERMITTED, "m"), 4, "not_permitted"),
        (EdgedError(Code.BUNDLE_INVALID, "m"), 1, "bundle_invalid"),
        (faults.WrongInputError("m", "h"), 2, "invalid_argument"),
        (faults.RefusedError("not_permitted", "m"), 1, "not_permitted"),
        (faults.RefusedError("a_newer_word", "m"), 1, "a_newer_word"),
    ],
)
def test_how_errors_end_edgectl(error: EdgedError, status: int, word: str):
    assert (faults.exit_status(error), faults.word(error)) == (status, word)


@pytest.mark.parametrize("code", list(Code))
def test_every_error_has_a_documented_exit_status(code: Code):
    assert faults.exit_status(EdgedError(code, "m")) in (1, 3, 4)


def test_ctrl_c_and_a_full_disk_leave_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(query.version, "callback", interrupt)
    assert run(["version"]) == faults.INTERRUPTED
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.undo()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edged.ctl.main", "--help"],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "edgectl: No space left on device; nothing more was done\n")


def test_what_needs_another_user_is_not_permitted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def denied(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/var/lib/edged-boot/boots")

    monkeypatch.setattr(boot.record, "callback", denied)
    assert run(["--json", "boot", "record"]) == faults.NOT_PERMITTED
    said = "/var/lib/edged-boot/boots: Permission denied; try again with sudo"
    captured = capsys.readouterr()
    assert captured.err == f"edgectl: {said}\n"
    assert json.loads(captured.out)["error"] == {"code": "not_permitted", "message": said}


@pytest.mark.parametrize(
    ("program", "arguments", "closed", "status"),
    [
        ("edged.ctl.main", "--help", ">&-", 0),
        ("edged.ctl.main", "status", ">&-", 3),
        ("edged.ctl.main", "infer digits -", "<&-", 3),
        ("edged.ctl.main", "nosuch", "2>&-", 2),
        ("edged.ctl.main", "nosuch", "<&- >&- 2>&-", 2),
        ("edged", "--check-config", ">&-", 0),
        ("edged", "--check-config", "<&- >&- 2>&-", 0),
        ("edged", "--config nowhere.toml --check-config", "2>&-", 78),
    ],
)
def test_closed_standard_streams_are_no_error(program: str, arguments: str, closed: str, status: int, tmp_path: Path):
    command = f"{shlex.quote(sys.executable)} -m {program} --root {shlex.quote(str(tmp_path))} {arguments} {closed}"
    done = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr


def test_nothing_takes_the_place_of_a_closed_stream():
    code = (
        "import os; from edged import streams; streams.stand_in(); os.write(9, os.readlink('/proc/self/fd/1').encode())"
    )
    command = f"exec 9>&1 >&-; exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    assert subprocess.run(["sh", "-c", command], check=True, capture_output=True).stdout == b"/dev/null"


def test_a_reader_that_goes_away_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "edged.ctl.main", "--help"],
        check=False,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
