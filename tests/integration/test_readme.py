"""The README's commands run, as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
README = (REPO / "README.md").read_text()
PATIENCE_S = 120
DEMO_S = 300.0  # half a minute where nothing else runs


def block(heading: str, language: str) -> str:
    """The code block under a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found, f"no {language} block under {heading}"
    return found[1]


def checkout(folder: Path) -> Path:
    """A folder that looks like a checkout after `make demo`: the commands may write beside what is linked."""
    for name in ("bootc", "docs", "tests", "tools", "edged"):
        (folder / name).symlink_to(REPO / name)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    return folder


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script as a person at a terminal would: every line has to succeed, background jobs end with it."""
    return subprocess.run(
        ["bash", "-mec", script],
        check=False,
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=PATIENCE_S,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb", "LANG": "C.UTF-8"},
    )


def test_the_two_commands_are_targets_of_make():
    commands = [line.split("#")[0].split() for line in block("Try it", "sh").strip().splitlines()]
    assert commands == [["make", "demo"], ["make", "test"]]
    for command in commands:
        planned = subprocess.run([*command, "--dry-run"], check=False, cwd=REPO, capture_output=True, text=True)
        assert planned.returncode == 0, planned.stderr


def test_the_demo_runs_to_its_end_and_leaves_nothing(tmp_path_factory: pytest.TempPathFactory):
    tmp_path = tmp_path_factory.mktemp("d")  # the demo's sockets lie below it, and their paths must be short
    done = subprocess.run(
        [sys.executable, "-m", "tools.demo"],
        cwd=REPO,
        check=False,
        capture_output=True,
        text=True,
        timeout=DEMO_S,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    accuracy = re.search(r"^ *accuracy (\d+\.\d) %;", done.stdout, re.MULTILINE)
    assert accuracy
    assert float(accuracy[1]) >= 98.0
    assert "answered by digits, revision 1, variant fp32" in done.stdout
    for found in ("shadow", "committed", "(golden_mismatch)", "(error_rate)", "kill -9", "it served last"):
        assert found in done.stdout
    assert done.stdout.count("0 failed") == 6
    assert len(done.stdout.splitlines()) <= 85  # narrow here; some 70 in a terminal
    assert list(tmp_path.iterdir()) == []


def test_running_it_by_hand_works_as_written(tmp_path: Path):
    done = run(block("Run it", "sh") + "wait %1\n", checkout(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "digits" in done.stdout


def test_checking_a_bundle_works_as_written(tmp_path: Path):
    done = run(". .venv/bin/activate\n" + block("Serve your own model", "sh"), checkout(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_asking_it_works_as_written(tmp_path: Path):
    python = REPO / ".venv-tritonclient/bin/python"
    if not python.exists():
        pytest.skip("tritonclient's environment is missing: `make test` makes it")
    folder = checkout(tmp_path)
    script = block("Run it", "sh").split("edgectl --root device infer")[0]
    done = run(f"{script}{python} - <<'END'\n{block('Ask it', 'python')}END\nkill %1\nwait %1\n", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\[\[.*\]\]", done.stdout, re.DOTALL)
