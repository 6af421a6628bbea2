"""Looks at the root folder of an image for what a bootable container may not have: `check_image.py ROOT`.

It covers what `bootc container lint` looks for where that is not at hand, and what edged itself needs. It is no
replacement: an image in the field is linted by bootc in the last step of its Containerfile.
Uses nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import json
import re
import stat
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

# bootc, "Filesystem: /var": an image's content there is copied at the first boot only, and never updated.
# These are made by base images and package managers, and hold nothing of ours.
VAR_KNOWN = {"cache", "lib", "log", "tmp", "spool", "mail", "opt", "local", "lock", "run", "backups"}
VAR_LIB_KNOWN = {
    *("apt", "dpkg", "dnf", "rpm", "rpm-state", "selinux", "authselect", "alternatives"),
    *("dbus", "misc", "pam", "private", "python", "systemd", "shells.state", "ucf"),
}

# As systemd/edged.sysusers.conf has them: the state of devices belongs to these over all releases.
IDS = {"edged": "961", "edged-admin": "962"}

# Compilers and linkers, by any name: gcc-14, x86_64-linux-gnu-ld, clang++-19.
_BUILDS = re.compile(
    r"([\w.]+-)*(cc|c\+\+|gcc|g\+\+|clang|clang\+\+|cpp|as|ld|ld\.(bfd|gold|lld)|make|cargo|rustc)(-[\d.]+)?"
)
_BUILDS_INSIDE = {"cc1", "cc1plus", "collect2", "lto1"}

_ID = re.compile(r"^[ugm]\S*\s+(\S+)", re.MULTILINE)

# Bytes 4 to 8 of a compiled file that holds as long as its source has the time it had (PEP 552).
_BY_TIME = bytes(4)


def faults(root: Path) -> Iterator[str]:
    """What is wrong, a sentence each."""
    yield from _usr_merged(root)
    yield from _volatile(root)
    yield from _var(root)
    yield from _kernel_arguments(root)
    yield from _users(root)
    yield from _permissions(root)
    yield from _no_compiler(root)
    yield from _environment(root / "usr/lib/edged/venv", root)
    yield from _user_site(root / "usr/lib/edged/venv")
    yield from _edged(root)
    yield from _trust(root)
    yield from _greenboot(root)
    yield from _upgrades_by_itself(root)


def _usr_merged(root: Path) -> Iterator[str]:
    for name in ("bin", "sbin", "lib", "lib64"):
        path = root / name
        if path.exists() and not path.is_symlink():
            yield f"/{name} is a folder; a bootable image has it as a link into /usr"


def _volatile(root: Path) -> Iterator[str]:
    for name in ("run", "tmp", "var/run", "var/tmp"):
        folder = root / name
        if not folder.is_dir() or folder.is_symlink():
            continue
        for path in sorted(folder.rglob("*")):
            if not path.is_dir():
                yield f"/{path.relative_to(root)} lies where each boot begins empty"


def _var(root: Path) -> Iterator[str]:
    for folder in (root / "var/lib/edged", root / "var/cache/edged"):
        if folder.exists() and any(folder.iterdir()):
            yield f"/{folder.relative_to(root)} has content; it would be copied once and never updated"
    for path in sorted((root / "var").iterdir() if (root / "var").is_dir() else []):
        if path.name not in VAR_KNOWN:
            yield f"/{path.relative_to(root)} comes with the image; make it by tmpfiles.d"
    for path in sorted((root / "var/lib").iterdir() if (root / "var/lib").is_dir() else []):
        if path.name not in VAR_LIB_KNOWN | {"edged"} and any(not each.is_dir() for each in (path, *path.rglob("*"))):
            yield f"/{path.relative_to(root)} has content; it would be copied once and never updated"


def _kernel_arguments(root: Path) -> Iterator[str]:
    folder = root / "usr/lib/bootc/kargs.d"
    for path in sorted(folder.glob("*")) if folder.is_dir() else []:
        where = f"/{path.relative_to(root)}"
        if path.suffix != ".toml":
            yield f"{where} is passed over: its name must end in .toml"
            continue
        try:
            found = tomllib.loads(path.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            yield f"{where} is not TOML: {error}"
            continue
        kargs = found.get("kargs")
        if not isinstance(kargs, list) or not all(isinstance(each, str) for each in kargs):
            yield f'{where} needs kargs = ["…"], a list of text'
        if unknown := set(found) - {"kargs", "match-architectures"}:
            yield f"{where} has {min(unknown)}, which bootc does not know"


def _users(root: Path) -> Iterator[str]:
    declared = set()
    for folder in (root / "usr/lib/sysusers.d", root / "etc/sysusers.d"):
        for path in sorted(folder.glob("*.conf")) if folder.is_dir() else []:
            declared |= set(_ID.findall(path.read_text()))
    for file in ("passwd", "group"):
        path = root / "etc" / file
        for line in path.read_text().splitlines() if path.exists() else []:
            name, _, number, *_ = [*line.split(":"), "", ""]
            # Ids below 100 are the distribution's own, from 1000 on people's, and 65534 nobody's.
            if number.isdigit() and 100 <= int(number) < 1000 and name not in declared:
                yield f"{name} of /etc/{file} has no line in sysusers.d: another base would number it otherwise"
            if number != IDS.get(name, number):
                yield f"{name} of /etc/{file} is {number}, not {IDS[name]}, whose the state of devices is"


def _permissions(root: Path) -> Iterator[str]:
    for folder in (root / "usr/lib/edged", root / "usr/share/edged"):
        for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
            if path.is_symlink():
                continue
            mode = path.stat().st_mode
            if mode & stat.S_IWOTH:
                yield f"/{path.relative_to(root)} can be written by everybody"
            if mode & (stat.S_ISUID | stat.S_ISGID):
                yield f"/{path.relative_to(root)} changes its user or group when it is run"
            if not mode & stat.S_IROTH:
                yield f"/{path.relative_to(root)} cannot be read by the daemon's user"


def _no_compiler(root: Path) -> Iterator[str]:
    for path in sorted((root / "usr/bin").iterdir() if (root / "usr/bin").is_dir() else []):
        if _BUILDS.fullmatch(path.name):
            yield f"/usr/bin/{path.name} has no business on a device"
    for folder in (root / "usr/libexec/gcc", root / "usr/lib/gcc"):
        for path in sorted(folder.rglob("*")):
            if path.name in _BUILDS_INSIDE:
                yield f"/{path.relative_to(root)} has no business on a device"


def _user_site(environment: Path) -> Iterator[str]:
    """What lets the base's packages in lets the user's in too, and edged's home is the state folder."""
    configuration = environment / "pyvenv.cfg"
    if configuration.exists() and "include-system-site-packages = true" in configuration.read_text():
        for name in ("edged", "edgectl"):
            first = (environment / "bin" / name).read_text().partition("\n")[0]
            if " -s" not in first and " -I" not in first:
                yield f"{name} would run what lies in the state folder: begin it with `{first} -s`"


def _environment(environment: Path, root: Path) -> Iterator[str]:
    for path in sorted(environment.rglob("*.pyc")):
        with path.open("rb") as file:
            if file.read(8)[4:] == _BY_TIME:
                # One for all: where a package was compiled otherwise, hundreds are.
                yield (
                    f"/{path.relative_to(root)}: compiled for its source's time, which a deployment sets to 0, so that "
                    "each start would compile it anew: compileall -f --invalidation-mode unchecked-hash"
                )
                break
    bill = root / "usr/share/edged/sbom.spdx.json"
    told = json.loads(bill.read_text()) if bill.exists() else {}
    named = {_normal(package["name"]) for package in told.get("packages", ())}
    for found in sorted(environment.glob("lib/*/site-packages/*.dist-info")):
        if _normal(found.name.partition("-")[0]) not in named:
            yield f"{found.name.removesuffix('.dist-info')} is not in the bill of materials: write it last"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _edged(root: Path) -> Iterator[str]:
    needed = (
        "usr/bin/edged",
        "usr/bin/edgectl",
        "usr/lib/systemd/system/edged.service",
        "usr/lib/sysusers.d/edged.conf",
        "usr/lib/tmpfiles.d/edged.conf",
        "usr/lib/edged/edged.toml",
        "usr/lib/edged/built",
        "usr/share/edged/sbom.spdx.json",
    )
    for name in needed:
        path = root / name
        # A link there leads within the image, and not from here.
        if not path.exists() and not path.is_symlink():
            yield f"/{name} is missing"
    if not list((root / "usr/share/edged/models").glob("*/*/manifest.json")):
        yield "/usr/share/edged/models has no packed bundle: with no network there would be nothing to serve"
    if not (root / "usr/lib/systemd/system/edged.service").exists():
        return
    wants = (root / "etc/systemd/system").glob("*.wants")
    if not any((folder / "edged.service").is_symlink() for folder in wants):
        yield "edged.service is not enabled: run `systemctl preset edged.service` in the image"


def _greenboot(root: Path) -> Iterator[str]:
    """It comes with the base; where it is there and not enabled, no bad system is ever gone back from."""
    unit = "greenboot-healthcheck.service"
    folders = (root / "etc/systemd/system").glob("*.*/")
    if (root / "usr/lib/systemd/system" / unit).exists() and not any((each / unit).is_symlink() for each in folders):
        yield f"{unit} is not enabled, so that no boot is judged: run `systemctl enable {unit}` in the base"


def _upgrades_by_itself(root: Path) -> Iterator[str]:
    """bootc's own timer comes with the base, enabled: it needs no operator's signature and knows no window."""
    timer = "bootc-fetch-apply-updates.timer"
    vendors, masked = (root / folder / "systemd/system" / timer for folder in ("usr/lib", "etc"))
    if vendors.exists() and not (masked.is_symlink() and masked.readlink() == Path("/dev/null")):
        yield f"{timer} is not masked, so that no operator decides on upgrades: `systemctl mask {timer}` in the image"


def _trust(root: Path) -> Iterator[str]:
    """Settings by which models are fetched are worth nothing without what they are believed by."""
    trust = root / "usr/share/edged/trust/root.json"
    if trust.is_file():
        try:
            kind = json.loads(trust.read_text())["signed"]["_type"]
        except (ValueError, KeyError, TypeError):
            kind = None
        if kind != "root":
            yield f"/{trust.relative_to(root)} is no root of trust: it is root.json of the fleet's folder"
        return
    for path in [root / "usr/lib/edged/edged.toml", *sorted((root / "usr/lib/edged/edged.toml.d").glob("*.toml"))]:
        # What is wrong with settings `edged --check-config` tells, in the image's last step.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if tomllib.loads(path.read_text()).get("update", {}).get("repository"):
                yield (
                    f"/{path.relative_to(root)} sets update.repository, and there is no root of trust: put the fleet's "
                    "root.json into bootc/trust before the build"
                )


def main() -> int:
    """Tells every fault; 1 where there are any."""
    found = list(faults(Path(sys.argv[1])))
    for fault in found:
        print(fault)  # noqa: T201 - a command line of its own
    print(f"{len(found)} faults" if found else "no fault found")  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
