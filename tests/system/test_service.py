"""edged as a service of a real systemd, in a container."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import container
from support.container import Container
from support.slow import A_WHILE, counting_bundle

pytestmark = pytest.mark.skipif(bool(container.missing()), reason=container.missing() or "there is one")


def status(system: Container) -> dict[str, object]:
    found: dict[str, object] = json.loads(system.run("edgectl status --json"))
    return found


# Some seconds.
TURNS = 10 * A_WHILE


# Stops a process's first thread alone, as a debugger does (ptrace(2)), until the process has ended.
FREEZE = """
import ctypes, os, sys

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
pid = int(sys.argv[1])
for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
    assert ctypes.CDLL(None).ptrace(request, pid, 0, 0) == 0
while os.WIFSTOPPED(os.waitpid(pid, 0)[1]):
    pass
"""


def edit(system: Container, *lines: str) -> None:
    """Has the unit changed by a drop-in."""
    folder = system.files / "etc/systemd/system/edged.service.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.conf").write_text("\n".join(["[Service]", *lines, ""]))
    system.run("systemctl daemon-reload")


def test_it_is_ready_when_systemd_says_so_and_tells_its_state_in_a_line(system: Container) -> None:
    assert system.property("ActiveState") == "active"
    assert system.property("StatusText") == "serving, 1 of 1 models ready"
    assert "digits" in system.run("edgectl models")


def test_a_reload_is_waited_for_and_takes_what_can_change(system: Container) -> None:
    system.run(
        "mkdir -p /etc/edged && echo '[log]\nlevel = \"debug\"' > /etc/edged/edged.toml && systemctl reload edged"
    )
    assert system.property("ActiveState") == "active"
    system.wait_logged("log.level is now 'debug'")


def test_a_stop_ends_everything_and_takes_the_sockets_away(system: Container) -> None:
    system.run("systemctl stop edged")
    assert system.property("Result") == "success"
    assert system.shell("pgrep -u edged").returncode == 1
    assert system.run("ls /run/edged-admin") in ("", "edged.lock")


def test_a_stop_answers_what_is_under_way_first(system: Container) -> None:
    counting_bundle(system.files / "tmp-model")
    settings = '[paths]\nfactory = "/srv/models"\n[serving]\ndrain_s = 60\n'
    (system.files / "etc/edged").mkdir()
    (system.files / "etc/edged/edged.toml").write_text(settings)
    system.run("mkdir -p /srv/models/counts && mv /tmp-model/counts /srv/models/counts/1 && chmod -R a+rX /srv")
    edit(system, "TimeoutStopSec=1s")  # extended by edged, which knows how long it may take
    system.run("systemctl restart edged")
    system.wait("edgectl status --json | grep -q '\"ready\": true'")
    asking = f"echo '{{\"turns\": [{TURNS}]}}' | edgectl infer counts - --json --timeout 120 > /run/answer 2>&1"
    system.run(f"systemd-run --unit=asking sh -c '{asking.replace(chr(39), chr(39) + chr(92) + chr(39) + chr(39))}'")
    system.wait("edgectl models --json | grep -q '\"executing\": 1'")
    system.run("systemctl stop edged", timeout_s=120)
    system.wait("! systemctl is-active -q asking")
    assert str(TURNS) in system.run("cat /run/answer"), system.journal()
    assert "requests were still under way" not in system.journal()
    system.run("rm -r /srv/models /tmp-model")


def test_memory_pressure_reaches_it_as_systemd_hands_it_on(system: Container) -> None:
    """The file that systemd names is open in the daemon; and where it names a pipe, what comes through it counts."""
    pid = system.property("MainPID")
    watch = system.run(f"tr '\\0' '\\n' < /proc/{pid}/environ | sed -n 's/^MEMORY_PRESSURE_WATCH=//p'")
    assert watch.endswith("/memory.pressure")
    assert system.run(f"find /proc/{pid}/fd -lname '*/memory.pressure' -o -lname '{watch}'") != ""
    drop_in = (
        "[Service]\\nMemoryPressureWatch=skip\\nEnvironment=MEMORY_PRESSURE_WATCH=/run/edged/watch\\n"
        "ExecStartPre=mkfifo /run/edged/watch\\n"
    )
    system.run(
        "mkdir -p /etc/systemd/system/edged.service.d && "
        f"printf '{drop_in}' > /etc/systemd/system/edged.service.d/test.conf && "
        "systemctl daemon-reload && systemctl restart edged"
    )
    system.run("printf pressure > /run/edged/watch")
    system.wait("edgectl status --json | grep -q elevated")
    system.run("rm /run/edged/watch")


def test_a_frozen_loop_is_ended_by_the_watchdog(system: Container) -> None:
    system.run(
        "mkdir -p /etc/systemd/system/edged.service.d && "
        "printf '[Service]\\nWatchdogSec=1s\\n' > /etc/systemd/system/edged.service.d/test.conf && "
        "systemctl daemon-reload && systemctl restart edged"
    )
    first = system.property("MainPID")
    (system.files / "srv/freeze.py").write_text(FREEZE)
    system.run(f"timeout 45 python3 /srv/freeze.py {first}")
    system.wait(f'pid=$(systemctl show edged -p MainPID --value); test "$pid" != 0 && test "$pid" != {first}')
    system.wait_logged("Watchdog timeout")
    system.wait("systemctl is-active edged")


def test_a_crash_loop_ends_with_a_daemon_that_administrators_reach(system: Container) -> None:
    for _ in range(5):
        system.run("systemctl kill --signal=KILL --kill-whom=main edged")
        system.wait("systemctl is-active edged && edgectl status > /dev/null")
    assert "only administrators are served" in str(status(system)["degraded_reasons"])
    assert system.shell("test -e /run/edged/edged.sock").returncode == 1
    # systemd does not forget crashes by itself, so that this is what each later one costs.
    assert float(system.property("RestartUSecNext").removesuffix("s")) <= 5
    system.run("systemctl restart edged")
    assert status(system)["ready"] is True


def test_a_broken_configuration_at_boot_runs_on_the_last_good_one(system: Container) -> None:
    system.run("mkdir -p /etc/edged && echo '[listen' > /etc/edged/edged.toml && systemctl restart edged")
    assert "the last good ones hold" in str(status(system)["degraded_reasons"])
    assert status(system)["ready"] is True


def test_a_broken_configuration_at_the_very_first_boot_leaves_it_reachable(system: Container) -> None:
    system.run(
        "systemctl stop edged; rm -rf /var/lib/edged/*; "
        "mkdir -p /etc/edged && echo '[listen' > /etc/edged/edged.toml; systemctl start edged"
    )
    assert "only administrators are served" in str(status(system)["degraded_reasons"])
    system.run("rm /etc/edged/edged.toml; systemctl reload edged || true")
    system.wait("edgectl status --json | grep -q '\"ready\": true' && test -e /run/edged/edged.sock")


def test_both_sockets_belong_to_their_groups_and_to_nobody_else(system: Container) -> None:
    assert system.run("stat -c '%a %U %G' /run/edged/edged.sock") == "660 edged edged"
    assert system.run("stat -c '%a %U %G' /run/edged-admin/admin.sock") == "660 edged edged-admin"
    system.run("id alice 2>/dev/null || useradd alice")
    refused = system.shell("su alice -s /bin/sh -c 'edgectl status'")
    assert refused.returncode != 0
    assert "usermod -aG edged-admin" in refused.stderr
    assert reached(system, "alice") == []
    system.run("usermod -aG edged alice")
    assert reached(system, "alice") == ["/run/edged/edged.sock"]
    system.run("usermod -G edged-admin alice")
    assert reached(system, "alice") == ["/run/edged-admin/admin.sock"]
    assert "serving" in system.run("su alice -s /bin/sh -c 'edgectl status'")
    system.run("userdel alice")


def reached(system: Container, user: str) -> list[str]:
    """Which sockets somebody can connect to; the others refuse it."""
    found = []
    for socket in ("/run/edged/edged.sock", "/run/edged-admin/admin.sock"):
        reach = f"import socket; socket.socket(socket.AF_UNIX).connect('{socket}')"
        tried = system.shell(f'su {user} -s /bin/sh -c "python3 -c \\"{reach}\\""')
        assert tried.returncode == 0 or "PermissionError" in tried.stderr, tried.stderr
        found += [socket] if tried.returncode == 0 else []
    return found


def test_state_follows_the_daemons_user_id(system: Container) -> None:
    become(system, 1961)
    everything = "/var/lib/edged /var/cache/edged /run/edged /run/edged-admin"
    assert system.run(f"find {everything} -printf '%U\\n' | sort -u") == "1961"
    told = system.run("stat -c '%a %u %g' /run/edged/edged.sock /run/edged-admin/admin.sock")
    assert told.splitlines() == ["660 1961 1961", "660 1961 962"]
    assert status(system)["ready"] is True
    become(system, 961)
    assert system.run(f"find {everything} -printf '%U\\n' | sort -u") == "961"


def become(system: Container, number: int) -> None:
    """Another release of the operating system gives edged another user id; its boot empties /run.

    By an editor, since usermod would give the state in the home folder to the new id itself.
    """
    system.run(
        f"systemctl stop edged && sed -i 's/^edged:x:[0-9]*:[0-9]*:/edged:x:{number}:{number}:/' /etc/passwd "
        f"&& sed -i 's/^edged:x:[0-9]*:/edged:x:{number}:/' /etc/group && rm -rf /run/edged /run/edged-admin"
    )
    owners = "find /var/lib/edged /var/cache/edged -printf '%U:%G\\n' | sort -u"
    assert f"{number}:{number}" not in system.run(owners)
    system.run("systemd-tmpfiles --create")
    assert system.run(owners) == f"{number}:{number}"
    system.run("systemctl start edged")


def test_secrets_come_as_credentials_and_may_be_absent(system: Container) -> None:
    assert system.shell("ls /run/credentials/edged.service/").stdout == ""
    system.run(
        "mkdir -p /etc/credstore && echo s3cret > /etc/credstore/edged.test && chmod 600 /etc/credstore/edged.test"
    )
    system.run("systemctl restart edged")
    assert system.run("ls /run/credentials/edged.service/") == "edged.test"
    inside = f"nsenter --target {system.property('MainPID')} --mount --setuid 961 --setgid 961"
    assert system.run(f"{inside} cat /run/credentials/edged.service/edged.test") == "s3cret"
    system.run("rm /etc/credstore/edged.test")


def test_the_brokers_password_is_a_credential(system: Container) -> None:
    """What listens keeps the first packet of a connection, which has user and password (MQTT v5, 3.1.3)."""
    listening = (
        "import pathlib, socket; listening = socket.create_server(('127.0.0.1', 1883)); "
        "pathlib.Path('/srv/connect').write_bytes(listening.accept()[0].recv(4096))"
    )
    system.run(f'systemd-run --unit=broker python3 -c "{listening}"')
    system.run("mkdir -p /etc/edged /etc/credstore && (umask 077; printf s3cret > /etc/credstore/edged.mqtt-password)")
    (system.files / "etc/edged/edged.toml").write_text(
        '[device]\nname = "till-7"\nfleet = "shops"\n[mqtt]\nbroker = "mqtt://127.0.0.1"\nusername = "till-user"\n'
    )
    system.run("systemctl restart edged")
    system.wait("test -s /srv/connect")
    assert (system.files / "srv/connect").read_bytes().endswith(b"till-user\0\x06s3cret")
    assert "s3cret" not in system.journal()
    system.run("rm /etc/credstore/edged.mqtt-password /srv/connect")


def test_the_sandbox_is_tight_and_the_unit_without_fault(system: Container) -> None:
    assert system.run("systemd-analyze verify edged.service 2>&1") == ""
    system.run("systemd-analyze security --threshold=18 edged.service --no-pager")
    pid = system.property("MainPID")
    inside = f"nsenter --target {pid} --mount"  # as root: permissions alone would refuse the daemon's user
    for path in ("/etc/edged.test", "/usr/edged.test", "/var/lib/other"):
        assert "Read-only file system" in system.shell(f"{inside} touch {path}").stderr
    assert system.shell(f"{inside} ls /home").stdout == ""
    held = dict(line.split(":\t") for line in system.run(f"cat /proc/{pid}/status").splitlines() if ":\t" in line)
    assert (held["NoNewPrivs"], held["Seccomp"]) == ("1", "2")
    assert {int(held[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}


def test_a_callers_shared_region_outlives_a_restart(system: Container) -> None:
    system.run("install -g edged -m 0660 /dev/null /dev/shm/a-callers-region")
    system.run("systemctl restart edged")
    system.wait("systemctl is-active edged")
    assert system.run("stat -c %G /dev/shm/a-callers-region") == "edged"


def test_it_serves_on_a_read_only_root_with_volatile_state(root: Path) -> None:
    booted = Container(root, "--volatile=state")
    try:
        booted.wait("systemctl is-active edged")
        for path in ("/etc/test", "/usr/test"):
            assert "Read-only file system" in booted.shell(f"touch {path}").stderr
        assert json.loads(booted.run("edgectl status --json"))["ready"] is True
    finally:
        booted.stop()
