"""`edgectl fleet` as an operator types it, from an empty folder to a revision on a device."""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
from functools import partial

import click
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from support.daemon import PATIENCE_S
from support.fleets import DIGITS, DIGITS_2, PASSPHRASE, REPO, Server, served
from support.fleets import Fleet as AFleet
from support.permissions import plain_user

from edged.ctl.main import run
from edged.fleet import operators, starting
from edged.fleet.commands import COMMANDS
from edged.fleet.commands import fleet as fleet_group

NO_BROKER = "mqtt://127.0.0.1:1"
WRONG = REPO / "tests/data/bundles/digits-3-wrong"


@pytest.fixture
def fleet(tmp_path, monkeypatch, capsys):
    """Made by `init`, with four bins instead of 256."""
    monkeypatch.setattr(starting, "start", partial(starting.start, bits=2))
    monkeypatch.setenv("EDGED_FLEET_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("EDGED_FLEET", str(tmp_path / "shops"))
    assert run(["fleet", "init", str(tmp_path / "shops"), "--name", "shops"]) == 0
    capsys.readouterr()
    return tmp_path / "shops"


def answer(capsys, *arguments):
    """What a command says to programs."""
    status = run(["fleet", *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_from_an_empty_folder_to_a_device(fleet, capsys, tmp_path):
    status, published = answer(capsys, "publish", str(DIGITS))
    assert (status, published["name"], published["revision"], published["changed"]) == (0, "digits", 1, True)
    _, again = answer(capsys, "publish", str(DIGITS))
    assert (again["changed"], again["new_chunks"]) == (False, 0)
    answer(capsys, "publish", str(DIGITS_2))
    answer(capsys, "plan", "set", "digits", "--class", "generic", "--revision", "1")
    _, rolled = answer(
        capsys,
        *("plan", "set", "digits", "--class", "generic", "--revision", "2", "--wave", "10%:24h", "--wave", "100%"),
        *("--pin", "till-7=1", "--window", "sat,sun 22:30+6h utc", "--jitter", "600", "--no-unproven"),
    )
    terms = rolled["plan"]["models"]["digits"]["generic"]
    assert terms["revision"] == 1
    assert terms["rollout"]["waves"] == [{"percent": 10.0, "min_soak_s": 86_400.0}, {"percent": 100.0}]
    assert terms["pins"] == {"till-7": 1}
    assert terms["windows"] == [{"days": ["sat", "sun"], "start": "22:30", "duration_s": 21_600, "zone": "utc"}]
    answer(capsys, "plan", "wave", "digits", "--class", "generic", "next")
    _, ended = answer(capsys, "plan", "wave", "digits", "--class", "generic", "finish")
    assert ended["plan"]["models"]["digits"]["generic"]["revision"] == 2
    status, verified = answer(capsys, "verify", str(fleet / "repository"), "--trust", str(fleet / "root.json"))
    assert (status, verified["good"]) == (0, True)
    with served(AFleet(fleet), tmp_path / "device") as (_, device):
        assert device.plan().status == 0
        folder = device.install(2)
        assert (folder / "model.onnx").read_bytes() == (DIGITS_2 / "model.onnx").read_bytes()


def test_a_bundle_that_is_not_good_is_not_published(fleet, capsys):
    assert run(["fleet", "publish", str(WRONG)]) == 1
    assert "is not good" in capsys.readouterr().err
    assert not (fleet / "repository/chunks").exists()


@pytest.mark.usefixtures("fleet")
def test_what_cannot_be_tried_here_is_published_only_when_told_to(capsys, tmp_path):
    shutil.copytree(DIGITS, tmp_path / "digits")
    text = (tmp_path / "digits/bundle.toml").read_text()
    elsewhere = text.replace('runtime = "onnxruntime",', 'runtime = "onnxruntime", hardware_classes = ["jetson"],')
    (tmp_path / "digits/bundle.toml").write_text(elsewhere)
    assert run(["fleet", "publish", str(tmp_path / "digits")]) == 1
    assert "--untried" in capsys.readouterr().err
    assert run(["fleet", "publish", str(tmp_path / "digits"), "--untried"]) == 0


def test_keys_that_are_elsewhere_are_waited_for(fleet, capsys, tmp_path):
    offline = tmp_path / "offline"
    offline.mkdir()
    for path in (fleet / "keys").glob("targets-*"):
        path.rename(offline / path.name)
    public = tmp_path / "alice.pem"
    private = subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519"], capture_output=True, check=True).stdout
    public.write_bytes(subprocess.run(["openssl", "pkey", "-pubout"], input=private, capture_output=True).stdout)
    _, added = answer(capsys, "operators", "add", "alice", "--public-key", str(public), "--may", "refresh")
    assert [each["role"] for each in added["waiting"]] == ["targets"]
    status, signed = answer(capsys, "sign", str(fleet / "pending"), "--keys", str(offline))
    assert (status, len(signed["signed"])) == (0, 1)
    _, renewed = answer(capsys, "renew")
    assert renewed["waiting"] == []
    assert list((fleet / "repository/targets").glob("*.operators.json"))
    for path in offline.iterdir():
        path.rename(fleet / "keys" / path.name)
    assert run(["fleet", "operators", "remove", "alice"]) == 0


def test_what_waits_is_told_as_what_will_be(fleet, capsys, tmp_path):
    public = tmp_path / "public.pem"
    made = Ed25519PrivateKey.generate().public_key()
    public.write_bytes(made.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    others = {
        "operators": ["operators", "add", "bob", "--public-key", str(public), "--may", "report", "--may", "refresh"],
        "removal": ["operators", "remove", "bob"],
        "publish": ["publish", str(DIGITS)],
        "expire": ["expire", "models", "--days", "9"],
        "rotate": ["rotate-key", "models"],
    }
    told = {}
    for name, arguments in others.items():
        for role in ("targets", "models"):
            for path in (fleet / "keys").glob(f"{role}-*"):
                path.rename(tmp_path / path.name)
        assert run(["fleet", *arguments]) == 0
        first, *later = capsys.readouterr().out.splitlines()
        assert any(line.startswith("waits: ") for line in later), arguments
        assert not any(line.startswith("next: ") for line in later), "which devices could not follow yet"
        shutil.rmtree(fleet / "pending")
        for path in tmp_path.glob("*-*.pem"):
            path.rename(fleet / "keys" / path.name)
        assert run(["fleet", *arguments]) == 0
        told[name] = first, capsys.readouterr().out.splitlines()[0]
    *most, (will_have, has) = told.values()
    assert most == [
        ("bob will be let report, refresh once it is signed", "bob may report, refresh"),
        ("bob will command no more once it is signed", "bob may command no more"),
        ("digits revision 1 will be published once it is signed", "digits revision 1 is published"),
        ("signatures of models will last 9 days once it is signed", "signatures of models last 9 days from now on"),
    ]
    assert re.fullmatch("models will have the new key [0-9a-f]{16} once it is signed", will_have)
    assert re.fullmatch("models has the new key [0-9a-f]{16}", has)


def test_an_edit_of_others_that_waits_is_not_taken_for_ones_own(fleet, capsys):
    (targets,) = (fleet / "keys").glob("targets-*")
    targets.rename(fleet / targets.name)
    assert run(["fleet", "rotate-key", "plans"]) == 0
    capsys.readouterr()
    assert run(["fleet", "expire", "models", "--days", "9"]) == 0
    assert capsys.readouterr().out.startswith("signatures of models last 9 days from now on\nwaits: targets")


def test_the_care_of_a_repository(fleet, capsys, tmp_path):
    answer(capsys, "publish", str(DIGITS))
    answer(capsys, "plan", "set", "digits", "--class", "generic", "--revision", "1")
    assert answer(capsys, "rotate-key", "plans")[1]["role"] == "plans"
    assert answer(capsys, "expire", "timestamp", "--days", "7")[1]["days"] == 7
    stick = str(tmp_path / "stick")
    assert answer(capsys, "export", "--usb", stick, "--valid", "180d")[1]["revisions"] == [
        {"model": "digits", "revision": 1}
    ]
    trust = ["--trust", str(fleet / "root.json")]
    assert answer(capsys, "verify", stick, "--exported", *trust)[1]["good"]
    assert answer(capsys, "gc", "--dry-run")[1]["removed"] is False
    assert answer(capsys, "gc")[1]["files"] > 0
    assert answer(capsys, "verify", str(fleet / "repository"), *trust)[1]["good"]
    next((fleet / "repository/chunks").rglob("*.zst")).unlink()
    assert answer(capsys, "verify", str(fleet / "repository"), *trust)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["init", "x", "--name", "y", "--share", "root=3/2"], "NEEDED/KEYS"),
        (["plan", "set", "m", "--class", "c", "--revision", "1", "--wave", "ten"], "no wave"),
        (["plan", "set", "m", "--class", "c", "--revision", "1", "--pin", "d"], "DEVICE=REVISION"),
        (["plan", "set", "m", "--class", "c", "--revision", "1", "--window", "25:00+1h"], "no window"),
        (["plan", "set", "m", "--class", "c", "--revision", "1", "--wave", "200%"], "percent 200.0 does not fit"),
        (["plan", "set", "m", "--class", "c", "--revision", "1", "--wave", "0%"], "a number above 0 to 100"),
        (["plan", "set", "m", "--class", "c", "--revision", "1", "--wave", "5%:9999999h"], "min_soak_s"),
        (["verify", "ftp://x/y", "--trust", __file__], "'ftp://x/y' is no URL"),
        (["verify", "shobs", "--trust", __file__], "no folder 'shobs'"),
        (["verify", ".", "--trust", __file__], "'.' is no repository"),
        (["export", "--usb", "x", "--valid", "soon"], "number of days"),
        (["rotate-key", "everything"], "everything"),
    ],
)
def test_wrong_usage_is_told(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["fleet", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_without_a_passphrase_nobody_is_asked_where_nobody_is(fleet, monkeypatch, capsys):
    monkeypatch.delenv("EDGED_FLEET_PASSPHRASE")
    assert run(["fleet", "renew"]) == 1
    assert "--passphrase-file" in capsys.readouterr().err
    file = fleet.parent / "passphrases"
    file.write_text(f"another one\n{PASSPHRASE}\n")
    assert run(["fleet", "renew", "--passphrase-file", str(file)]) == 0


def test_a_change_with_a_wrong_passphrase_is_never_published(fleet, capsys, monkeypatch):
    answer(capsys, "publish", str(DIGITS))
    change = ["plan", "set", "digits", "--class", "generic", "--revision", "1"]
    monkeypatch.setenv("EDGED_FLEET_PASSPHRASE", "another one")
    assert run(["fleet", *change]) == 1
    assert "none of the passphrases given opens it" in capsys.readouterr().err
    assert list((fleet / "pending").glob("*")) == []
    monkeypatch.delenv("EDGED_FLEET_PASSPHRASE")
    assert answer(capsys, "plan", "show")[1]["plan"] == {"fleet": "shops"}
    monkeypatch.setenv("EDGED_FLEET_PASSPHRASE", PASSPHRASE)
    assert answer(capsys, "renew")[0] == 0
    assert answer(capsys, "plan", "show")[1]["plan"] == {"fleet": "shops"}
    status, changed = answer(capsys, *change)
    assert (status, changed["waiting"]) == (0, [])


def test_the_plan_is_shown_without_a_key_while_an_edit_waits(fleet, capsys, monkeypatch):
    public = fleet / "alice.pem"
    made = Ed25519PrivateKey.generate().public_key()
    public.write_bytes(made.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (offline,) = (fleet / "keys").glob("targets-*")
    offline.rename(fleet / offline.name)
    answer(capsys, "operators", "add", "alice", "--public-key", str(public), "--may", "refresh")
    (fleet / offline.name).rename(offline)
    monkeypatch.delenv("EDGED_FLEET_PASSPHRASE")
    assert answer(capsys, "plan", "show")[0] == 0
    assert run(["fleet", "renew"]) == 1, "which signs what waits"


def test_what_waits_for_the_online_keys_alone_is_published_by_renewing_where_they_are(fleet, capsys, tmp_path):
    keys = sorted((fleet / "keys").glob("snapshot-*")) + sorted((fleet / "keys").glob("timestamp-*"))
    for each in keys:
        each.rename(tmp_path / each.name)
    assert run(["fleet", "publish", str(DIGITS)]) == 0
    told = capsys.readouterr().out
    assert "run `edgectl fleet renew` where those keys are" in told
    assert "fleet sign" not in told
    assert run(["fleet", "renew"]) == 1
    assert "snapshot and timestamp must be signed by keys elsewhere" in capsys.readouterr().err
    for each in keys:
        (tmp_path / each.name).rename(each)
    assert run(["fleet", "renew"]) == 0
    assert "waits" not in capsys.readouterr().out


def test_a_fleet_that_could_not_be_made_can_be_made_then(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(starting, "start", partial(starting.start, bits=2))
    monkeypatch.delenv("EDGED_FLEET_PASSPHRASE", raising=False)
    make = ["fleet", "init", str(tmp_path / "shops"), "--name"]
    assert run([*make, "shops"]) == 1
    monkeypatch.setenv("EDGED_FLEET_PASSPHRASE", PASSPHRASE)
    assert run([*make, "Bad Name"]) == 2
    assert "'--name': \"Bad Name\" does not fit; 1 to 64 of a-z" in capsys.readouterr().err.replace("allowed: ", "")
    assert run([*make, "shops"]) == 0


def test_what_may_not_be_read_or_written_has_its_own_status(fleet, capsys, monkeypatch):
    monkeypatch.chdir(fleet)  # the folders above are closed to a plain user as well
    monkeypatch.delenv("EDGED_FLEET")
    (fleet / "keys").chmod(0)
    (fleet / "pending").chmod(0o500)
    for refused in (["renew"], ["init", "pending/more", "--name", "more"]):
        with plain_user():
            assert run(["fleet", *refused]) == 4
        assert "sudo" in capsys.readouterr().err
    (fleet / "keys").chmod(0o700)


class TestTheKeyOfACommand:
    @pytest.fixture
    def key(self, tmp_path):
        private = Ed25519PrivateKey.generate()
        under = BestAvailableEncryption(PASSPHRASE.encode())
        (tmp_path / "alice.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, under))
        return tmp_path / "alice.pem"

    def send(self, key, *more):
        """Nobody listens there: that is told once the key is open."""
        return ["fleet", "command", "report", "--fleet-name", "shops", "--key", str(key), "--broker", NO_BROKER, *more]

    def test_is_opened_by_what_the_variable_says(self, key, monkeypatch, capsys):
        monkeypatch.setenv("EDGED_FLEET_PASSPHRASE", PASSPHRASE)
        assert run(self.send(key)) == 3, capsys.readouterr().err
        monkeypatch.setenv("EDGED_FLEET_PASSPHRASE", "another one")
        assert run(self.send(key)) == 1
        assert f"{key}: none of the passphrases given opens it" in capsys.readouterr().err

    def test_is_opened_by_any_line_of_the_file(self, key, tmp_path, capsys, monkeypatch):
        monkeypatch.delenv("EDGED_FLEET_PASSPHRASE", raising=False)
        (tmp_path / "passphrases").write_text(f"another one\n{PASSPHRASE}\n")
        assert run(self.send(key, "--passphrase-file", str(tmp_path / "passphrases"))) == 3, capsys.readouterr().err
        assert run(self.send(key)) == 1
        assert "its passphrase is not known, and nobody is there to ask" in capsys.readouterr().err

    def test_may_lie_open(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("EDGED_FLEET_PASSPHRASE", PASSPHRASE)
        made = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / "alice.pem").write_bytes(made)
        assert run(self.send(tmp_path / "alice.pem")) == 3, capsys.readouterr().err

    def test_is_asked_for_on_a_terminal(self, key):
        environment = {name: value for name, value in os.environ.items() if name != "EDGED_FLEET_PASSPHRASE"}
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(sys.executable, [sys.executable, "-m", "edged.ctl.main", *self.send(key)], environment)
        said, patience = b"", threading.Timer(PATIENCE_S, os.kill, (pid, signal.SIGKILL))
        patience.start()
        with open(terminal, "r+b", buffering=0) as ends, contextlib.suppress(OSError):  # EIO: it has ended
            while part := ends.read(4096):
                said += part
                if said.endswith(b"alice.pem: "):
                    ends.write(f"{PASSPHRASE}\n".encode())
        _, status = os.waitpid(pid, 0)
        patience.cancel()
        assert os.waitstatus_to_exitcode(status) == 3, said
        assert PASSPHRASE.encode() not in said


@pytest.mark.usefixtures("fleet")
def test_a_device_that_has_no_chunker_says_what_publishing_needs(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "edged.fleet.publishing", raising=False)
    monkeypatch.setitem(sys.modules, "fastcdc", None)
    assert run(["fleet", "publish", str(DIGITS)]) == 1
    assert "edged[fleet]" in capsys.readouterr().err


def test_edgectl_starts_without_any_of_it():
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, edged.ctl.main; print([m for m in sys.modules if 'tuf' in m or 'fleet' in m])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "[]"


def test_a_client_of_the_specification_can_be_driven_by_it(fleet, tmp_path):
    """The three commands by which the conformance suite of The Update Framework drives a client."""
    metadata, targets = tmp_path / "metadata", tmp_path / "targets"
    metadata.mkdir()
    targets.mkdir()
    client = [sys.executable, "-I", "-m", "edged.update.fetch", "--metadata-dir", str(metadata), "--timeout", "5"]

    def ask(*arguments):
        return subprocess.run([*client, *arguments], capture_output=True, timeout=60).returncode

    with Server(fleet / "repository") as server:
        from_there = ["--metadata-url", f"{server.url}/metadata"]
        target = [*from_there, "--target-dir", str(targets), "--target-base-url", f"{server.url}/targets"]
        assert ask("init", str(fleet / "root.json")) == 0
        assert server.paths == []
        assert {path.name for path in metadata.glob("*.json")} == {"root.json"}
        assert ask(*from_there, "refresh") == 0
        names = {path.name for path in metadata.glob("*.json")}
        assert names == {"root.json", "timestamp.json", "snapshot.json", "targets.json"}
        assert ask(*target, "--target-name", "plans/shops.json", "download") == 0
        (found,) = targets.iterdir()
        assert json.loads(found.read_bytes())["fleet"] == "shops"
        server.reset()
        assert ask(*target, "--target-name", "plans/shops.json", "download") == 0
        assert not [path for path in server.paths if path.startswith("/targets")], "it has it already"
        assert ask(*target, "--target-name", "plans/other.json", "download") == 1
        server.give("timestamp.json", b"{}")
        assert ask(*from_there, "refresh") == 1
    assert ask(*from_there, "refresh") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_each_command_what_it_says_itself(name, capsys):
    assert run(["fleet", name, "--help"]) == 0
    assert COMMANDS[name].short_help in capsys.readouterr().out


def every_command(group=fleet_group, path=()):
    """The names of all commands of `edgectl fleet`, those of its groups too."""
    with click.Context(group) as context:
        for name in group.list_commands(context):
            yield (*path, name)
            found = group.get_command(context, name)
            if isinstance(found, click.Group):
                yield from every_command(found, (*path, name))


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_help_fits_a_terminal(path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["fleet", *path, "--help"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


def test_who_may_what_is_listed(capsys):
    assert run(["fleet", "operators", "add", "--help"]) == 0
    words = set(re.findall(r"\w+", capsys.readouterr().out))
    assert words.issuperset(operators.COMMANDS)


def test_the_folder_of_a_fleet_is_not_its_repository(fleet, capsys):
    assert run(["fleet", "verify", str(fleet), "--trust", str(fleet / "root.json")]) == 2
    assert f"did you mean {fleet}/repository?" in capsys.readouterr().err


def test_verifying_promises_no_other_try(fleet, capsys):
    answer(capsys, "publish", str(DIGITS))
    trust = ["--trust", str(fleet / "root.json")]
    next((fleet / "repository/chunks").rglob("*.zst")).unlink()
    assert run(["fleet", "verify", str(fleet / "repository"), *trust]) == 1
    said = capsys.readouterr().out
    with Server(fleet / "nothing") as server:
        assert run(["fleet", "verify", server.url, *trust]) == 1
    said += capsys.readouterr().err
    assert said.count("look at what lies there") == 2
    assert "tried again" not in said


@pytest.mark.usefixtures("fleet")
def test_the_end_of_a_rollout_is_hinted_at_as_it_is_typed(capsys):
    for bundle in (DIGITS, DIGITS_2):
        answer(capsys, "publish", str(bundle))
    answer(capsys, "plan", "set", "digits", "--class", "generic", "--revision", "1")
    answer(capsys, "plan", "set", "digits", "--class", "generic", "--revision", "2", "--wave", "100%")
    assert run(["fleet", "plan", "wave", "digits", "--class", "generic", "next"]) == 1
    (hinted,) = re.findall("`edgectl (.*)`", capsys.readouterr().err)
    assert run(hinted.split()) == 0
    capsys.readouterr()
    assert answer(capsys, "plan", "show")[1]["plan"]["models"]["digits"]["generic"]["revision"] == 2
