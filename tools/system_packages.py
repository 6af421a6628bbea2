"""Installs the system packages that tests need, where it may; else names the tests that will be skipped, and why.

Uses nothing but the standard library, since it runs before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

# The command that shows it is there, Debian's package that brings it, and what needs it.
NEEDED = [
    ("node", "nodejs", "tests/integration/test_nodejs.py: a client in JavaScript"),
    ("npm", "npm", "tests/integration/test_nodejs.py: a client in JavaScript"),
    ("zsh", "zsh", "tests/integration/test_completion.py: completion in zsh"),
    ("fish", "fish", "tests/integration/test_completion.py: completion in fish"),
    ("systemd-nspawn", "systemd-container", "tests/system: the service and the image in a real systemd"),
    ("mmdebstrap", "mmdebstrap", "tests/system: the service and the image in a real systemd"),
    ("buildah", "buildah", "tests/system/test_image.py: the image"),
    ("strace", "strace", "test_writes.py, test_spool_power.py: what processes write, and when"),
    ("mosquitto", "mosquitto", "tests/integration/test_mqtt.py and its like: a real MQTT broker"),
    ("iptables", "iptables", "tests/integration/test_mqtt_outages.py: a network that is cut"),
    ("faketime", "faketime", "test_mqtt_hostile.py, test_tuf_conformance.py: a clock that is wrong"),
    ("h2load", "nghttp2-client", "make bench: the load generator in C"),
]

# What only the slow tests need.
SLOW = [
    ("qemu-system-x86_64", "qemu-system-x86", "tests/system/test_machine.py and others there: a virtual machine"),
    ("busybox", "busybox-static", "tests/system/test_machine.py and others there: a virtual machine"),
    ("iasl", "acpica-tools", "tests/system/test_machine.py and others there: a virtual machine"),
    ("cpio", "cpio", "tests/system/test_machine.py and others there: a virtual machine"),
    ("ostree", "ostree", "tests/system/test_ostree.py: updates of the operating system"),
]

APT = ["apt-get", "--quiet", "--yes", "-o", "DPkg::Lock::Timeout=120"]


def main() -> None:
    """Installs what is missing, as root with apt-get; says what stays missing. Never fails: tests skip by name.

    With the word `slow`, what only the slow tests need too.
    """
    needed = NEEDED + SLOW if sys.argv[1:] == ["slow"] else NEEDED
    missing = [each for each in needed if shutil.which(each[0]) is None]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        packages = [package for _, package, _ in missing]
        print(f"installing {', '.join(packages)}", flush=True)
        quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
        if subprocess.run([*APT, "update"], check=False, **quiet).returncode == 0:
            subprocess.run([*APT, "install", "--no-install-recommends", *packages], check=False, **quiet)
    for command, package, what in missing:
        if shutil.which(command) is None:
            print(f"skipped, since {command} is missing (package {package}): {what}")


if __name__ == "__main__":
    main()
