"""The image's self-check, on a small image that is sound, and on what can be wrong with one."""

from __future__ import annotations

import importlib.util
import py_compile
from pathlib import Path
from types import ModuleType

import pytest
from support.daemon import REPO
from support.sound_device import Break, put, remove


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_image", REPO / "bootc/check_image.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECK = load()

SITE = "usr/lib/edged/venv/lib/python3.13/site-packages"
FILES = {
    "usr/bin/edged": "",
    "usr/bin/edgectl": "",
    "usr/lib/systemd/system/edged.service": "",
    "usr/lib/sysusers.d/edged.conf": 'u edged 961 "x" /var/lib/edged\ng edged-admin 962\n',
    "usr/lib/tmpfiles.d/edged.conf": "",
    "usr/lib/bootc/kargs.d/50-edged.toml": 'kargs = ["psi=1"]\n',
    "usr/lib/edged/edged.toml": '[update]\nrepository = ""\n',
    "usr/lib/edged/built": "2026-11-21T18:00:00Z\n",
    "usr/share/edged/sbom.spdx.json": '{"packages": [{"name": "Click.default-group"}]}',
    f"{SITE}/click_default_group-1.2.4.dist-info/METADATA": "",
    f"{SITE}/click_default_group.py": "",
    "usr/share/edged/models/digits/1/manifest.json": "{}",
    "etc/passwd": "root:x:0:0::/:/bin/sh\nedged:x:961:961::/:/bin/sh\n",
    "etc/group": "root:x:0:\nedged:x:961:\nedged-admin:x:962:edged\n",
    "var/lib/dpkg/status": "",
    "usr/bin/ld.so": "",
    "usr/bin/ldd": "",
    "usr/bin/bash": "",
}


def compiled(mode: py_compile.PycInvalidationMode) -> Break:
    def change(root: Path) -> None:
        py_compile.compile(str(root / SITE / "click_default_group.py"), invalidation_mode=mode)

    return change


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    compiled(py_compile.PycInvalidationMode.UNCHECKED_HASH)(tmp_path)
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "edged.service").symlink_to("/usr/lib/systemd/system/edged.service")
    (tmp_path / "bin").symlink_to("usr/bin")
    return tmp_path


def test_a_sound_image_has_no_fault(root: Path) -> None:
    assert list(CHECK.faults(root)) == []


UPGRADES = "systemd/system/bootc-fetch-apply-updates.timer"


def lets_the_user_in(root: Path) -> None:
    put("usr/lib/edged/venv/pyvenv.cfg", "include-system-site-packages = true\n")(root)
    for name, first in (("edged", "#!/python"), ("edgectl", "#!/python -s")):
        put(f"usr/lib/edged/venv/bin/{name}", f"{first}\n")(root)


COMPILERS = ("gcc", "gcc-14", "c++", "ld", "ld.bfd", "x86_64-linux-gnu-g++-14", "clang-19", "make", "rustc")

WRONG = [
    (lambda root: (root / "sbin").mkdir(), "/sbin is a folder"),
    (put("run/edged/edged.sock"), "each boot begins empty"),
    (put("tmp/left"), "each boot begins empty"),
    (put("var/lib/edged/journal.db"), "never updated"),
    (put("var/www/index.html"), "/var/www comes with the image"),
    (put("usr/lib/bootc/kargs.d/50-edged.conf"), "must end in .toml"),
    (put("usr/lib/bootc/kargs.d/60.toml", "kargs = psi"), "is not TOML"),
    (put("usr/lib/bootc/kargs.d/60.toml", 'kargs = "psi=1"'), "a list of text"),
    (put("usr/lib/bootc/kargs.d/60.toml", 'kargs = ["a"]\nwhen = 1'), "has when"),
    (put("usr/lib/sysusers.d/edged.conf", "u edged 961\n"), "edged-admin of /etc/group has no line"),
    (put("etc/passwd", "chrony:x:994:993::/:/bin/sh\n"), "chrony of /etc/passwd has no line"),
    (put("etc/passwd", "edged:x:987:961::/:/bin/sh\n"), "edged of /etc/passwd is 987, not 961"),
    (put("etc/group", "edged-admin:x:961:\n"), "edged-admin of /etc/group is 961, not 962"),
    (put("var/lib/other/data.db"), "/var/lib/other has content"),
    (lambda root: (root / "usr/share/edged/sbom.spdx.json").chmod(0o666), "written by everybody"),
    (lambda root: (root / "usr/share/edged/sbom.spdx.json").chmod(0o600), "cannot be read"),
    (lambda root: (root / "usr/share/edged/sbom.spdx.json").chmod(0o4644), "changes its user"),
    (compiled(py_compile.PycInvalidationMode.TIMESTAMP), "each start would compile it anew"),
    (put(f"{SITE}/openvino-2026.4.1.dist-info/METADATA"), "openvino-2026.4.1 is not in the bill of materials"),
    *((put(f"usr/bin/{name}"), f"/usr/bin/{name} has no business") for name in COMPILERS),
    (put("usr/libexec/gcc/x86_64-linux-gnu/14/cc1"), "14/cc1 has no business"),
    (put("usr/share/edged/trust/root.json", "{}"), "is no root of trust"),
    (
        put("usr/lib/edged/edged.toml.d/60.toml", '[update]\nrepository = "https://models.example"\n'),
        "no root of trust:",
    ),
    (put("usr/lib/systemd/system/greenboot-healthcheck.service"), "greenboot-healthcheck.service is not enabled"),
    (lets_the_user_in, "edged would run what lies in the state folder: begin it with `#!/python -s`"),
    (put(f"usr/lib/{UPGRADES}"), "bootc-fetch-apply-updates.timer is not masked"),
    (remove("usr/lib/edged/edged.toml"), "/usr/lib/edged/edged.toml is missing"),
    (remove("usr/bin/edgectl"), "/usr/bin/edgectl is missing"),
    (remove("usr/share/edged/models/digits/1/manifest.json"), "nothing to serve"),
    (remove("etc/systemd/system/multi-user.target.wants/edged.service"), "is not enabled"),
]


@pytest.mark.parametrize(("change", "told"), WRONG, ids=[told for _, told in WRONG])
def test_what_is_wrong_is_told_and_nothing_else(root: Path, change: Break, told: str) -> None:
    change(root)
    (found,) = CHECK.faults(root)
    assert told in found


def test_a_repository_with_its_root_of_trust_is_no_fault(root: Path) -> None:
    put("usr/lib/edged/edged.toml", '[update]\nrepository = "https://models.example"\n')(root)
    put("usr/share/edged/trust/root.json", '{"signed": {"_type": "root"}}')(root)
    assert list(CHECK.faults(root)) == []


def test_a_greenboot_that_judges_boots_is_no_fault(root: Path) -> None:
    unit = "systemd/system/greenboot-healthcheck.service"
    put(f"usr/lib/{unit}")(root)
    wants = root / "etc/systemd/system/boot-complete.target.requires"
    wants.mkdir()
    (wants / "greenboot-healthcheck.service").symlink_to(f"/usr/lib/{unit}")
    assert list(CHECK.faults(root)) == []


def test_upgrades_that_wait_for_an_operator_are_no_fault(root: Path) -> None:
    put(f"usr/lib/{UPGRADES}")(root)
    (root / f"etc/{UPGRADES}").symlink_to("/dev/null")
    assert list(CHECK.faults(root)) == []
