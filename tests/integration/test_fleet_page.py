"""docs/fleet.md: what it shows is typed as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from support.fleets import DIGITS, PASSPHRASE, REPO

PATIENCE_S = 120


def test_every_command_of_the_page_works_as_written(tmp_path: Path) -> None:
    """One after the other in one shell; what they fetch from lies on the disk."""
    script = "".join(re.findall(r"```sh\n(.*?)```", (REPO / "docs/fleet.md").read_text(), re.DOTALL))
    assert script.count("edgectl fleet") == 4
    served = (tmp_path / "shops/repository").as_uri()
    for shown, here in (("/tmp/", f"{tmp_path}/"), ("https://models.example/shops", served)):
        assert shown in script
        script = script.replace(shown, here)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/1").symlink_to(DIGITS)
    done = subprocess.run(
        ["bash", "-ec", script],
        input=f"{PASSPHRASE}\n",
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=PATIENCE_S,
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\ngood\n" in done.stdout
    assert (tmp_path / "plan/plan.json").exists()
