"""The conformance suite of The Update Framework against the code that devices run.

The suite comes from its own repository and pins an older python-tuf, so it has an environment of its own:
`make test-conformance` makes it, where that repository can be reached.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
ENVIRONMENT = Path(os.environ.get("EDGED_TUF_CONFORMANCE", REPO / ".venv-conformance")).absolute()

# None too where the environment was made and the repository could not be reached.
SUITE = next(ENVIRONMENT.glob("lib/python3*/site-packages/tuf_conformance"), None)


@pytest.mark.slow
@pytest.mark.skipif(SUITE is None, reason="tuf-conformance is not installed: make test-conformance")
@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is missing: the suite sets clocks with it")
def test_the_suite_passes(tmp_path):
    client = tmp_path / "client"
    client.write_text(f'#!/bin/sh\nexec {sys.executable} -I -m edged.update.fetch --timeout 5 "$@"\n')
    client.chmod(0o755)
    tests = ["-q", SUITE, "--entrypoint", client, "-p", "no:cacheprovider"]
    command = [ENVIRONMENT / "bin/python", "-m", "pytest", *tests]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
