"""A stand-in for bootc on the path, which notes what it is asked and answers as it is told; documents in its form."""

from __future__ import annotations

import json
from pathlib import Path

_SCRIPT = """#!/bin/sh
folder=$(dirname "$(dirname "$(readlink -f "$0")")")
printf '%s\\n' "$(basename "$0") $*" >> "$folder/asked"
case $(basename "$0") in bootc)
  # It looks whose mount namespace it is in before it changes anything, as root, under systemd.
  [ "$1" = status ] || [ "$(id -u)" != 0 ] || [ "$(cat /proc/1/comm)" != systemd ] ||
    readlink /proc/1/ns/mnt > /dev/null || { echo "error: Reading /proc/1/ns/mnt" >&2; exit 1; }
esac
[ ! -e "$folder/$1.fails" ] || { cat "$folder/$1.fails" >&2; exit 1; }
[ ! -e "$folder/$1.then" ] || cp "$folder/$1.then" "$folder/status"
[ ! -e "$folder/$1.breaks" ] || cp "$folder/$1.breaks" "$folder/status.fails"
[ ! -e "$folder/$1.late" ] || { cat "$folder/$1.late" >&2; rm "$folder/$1.late"; exit 1; }
[ "$1" != status ] || cat "$folder/status"
"""


class Bootc:
    """`bootc` and `systemctl` in `bin`, a folder for the path."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        for name in ("bootc", "systemctl"):
            (self.bin / name).write_text(_SCRIPT)
            (self.bin / name).chmod(0o755)
        self._folder = folder
        self.says(host(booted=slot(1)))

    @property
    def asked(self) -> list[str]:
        """The command lines, one each."""
        path = self._folder / "asked"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def changes(self) -> list[str]:
        """Those that are no mere question."""
        return [each for each in self.asked if not each.startswith("bootc status")]

    def says(self, document: object) -> None:
        """What `bootc status` prints from now on."""
        (self._folder / "status").write_text(document if isinstance(document, str) else json.dumps(document))

    def after(self, verb: str, document: object) -> None:
        """What it prints once it was asked to do `verb`."""
        (self._folder / f"{verb}.then").write_text(json.dumps(document))

    def says_no_more_after(self, verb: str, why: str) -> None:
        """What it is asked once it was asked to do `verb` fails, until `fails("status", "")`."""
        (self._folder / f"{verb}.breaks").write_text(why)

    def fails_having_done(self, verb: str, why: str) -> None:
        """The next time it is asked to do `verb` it does, and fails then."""
        (self._folder / f"{verb}.late").write_text(why)

    def fails(self, verb: str, why: str) -> None:
        """From now on; the first word of what systemctl is asked counts as one. Empty: it works again."""
        path = self._folder / f"{verb}.fails"
        path.write_text(why) if why else path.unlink()


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def slot(number: int, **others: object) -> dict[str, object]:
    """A deployment of the image's build `number`, as bootc 1.1 has it."""
    return {
        "image": {
            "image": {"image": "registry.example/edge-os:stable", "transport": "registry"},
            "version": f"42.{number}",
            "timestamp": f"2026-11-{number:02}T04:05:06Z",
            "imageDigest": digest(number),
        },
        "cachedUpdate": None,
        "incompatible": False,
        "pinned": False,
        "store": "ostreeContainer",
        "ostree": {"checksum": f"{number:064x}", "deploySerial": 0},
        **others,
    }


def composefs_slot(number: int) -> dict[str, object]:
    """One of bootc 1.10 and later without OSTree; a UKI that systemd-boot starts."""
    found = slot(number, softRebootCapable=True, downloadOnly=False, ostree=None)
    image = found["image"]
    assert isinstance(image, dict)
    image["architecture"] = "arm64"
    entry = {"verity": f"{number:064x}", "bootType": "uki", "bootloader": "systemd", "bootDigest": "ab"}
    return {**found, "composefs": entry}


def host(**slots: object) -> dict[str, object]:
    image = {"image": "registry.example/edge-os:stable", "transport": "registry"}
    return {
        "apiVersion": "org.containers.bootc/v1",
        "kind": "BootcHost",
        "metadata": {"name": "host"},
        "spec": {"image": image, "bootOrder": "default"},
        "status": {"staged": None, "booted": None, "rollback": None, "rollbackQueued": False, "type": "bootcHost"}
        | slots,
    }
