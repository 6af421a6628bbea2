"""The units of the plain container, as Podman's own generator reads them, with models from three places."""

from __future__ import annotations

import platform
import re
import shutil
from pathlib import Path

import msgspec
import pytest
from support import container, quadlet
from support.daemon import REPO

from edged.config.settings import Serving
from edged.system.starts import supervised

pytestmark = [
    pytest.mark.skipif(bool(container.missing()), reason=container.missing() or "it can be had"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="it is taken out of the package for x86_64"),
]

OURS = REPO / "bootc/container"


@pytest.mark.parametrize(
    ("how", "models", "made"),
    [
        ("", "", ""),
        ("in-a-volume", "edged-models:/usr/share/edged/models:ro", "volume create --ignore edged-models"),
        (
            "in-an-image",
            "systemd-edged-models:/usr/share/edged/models:ro",
            "volume create --ignore --driver image --opt image=localhost/edged-models:latest systemd-edged-models",
        ),
    ],
)
def test_models_come_from_where_the_drop_in_says(tmp_path: Path, how: str, models: str, made: str) -> None:
    for unit in (*OURS.glob("*.container"), *OURS.glob("*.volume")):
        shutil.copy(unit, tmp_path)
    if how:
        shutil.copytree(OURS / how, tmp_path, dirs_exist_ok=True)
    told = quadlet.generate(tmp_path)
    (run,) = re.findall(r"^ExecStart=/usr/bin/podman run (.*)$", told, re.MULTILINE)
    mounted = re.findall(r"-v (\S+)", run)
    assert [each for each in mounted if "/usr/share/edged/models" in each] == ([models] if models else [])
    hosts = {"/run/edged:/run/edged:z", "/run/edged-admin:/run/edged-admin:z", "/etc/edged:/etc/edged:ro,z"}
    assert hosts | {"edged-state:/var/lib/edged:U"} <= set(mounted)
    for option in ("--read-only", "--cap-drop all", "--security-opt=no-new-privileges", "--user 961:961"):
        assert option in run
    assert run.endswith(" localhost/edged:latest")
    assert made in told
    assert re.search(r"^Type=notify$", told, re.MULTILINE)
    assert supervised(dict(re.findall(r"--env (\w+)=(\S+)", run)))


def test_a_stop_leaves_time_for_the_longest_drain() -> None:
    unit = (OURS / "edged.container").read_text()
    limits = dict(re.findall(r"^(StopTimeout|TimeoutStopSec)=([0-9]+)s?$", unit, re.MULTILINE))
    longest_s = msgspec.json.schema(Serving)["$defs"]["Serving"]["properties"]["drain_s"]["maximum"]
    assert longest_s < int(limits["StopTimeout"]) < int(limits["TimeoutStopSec"])
