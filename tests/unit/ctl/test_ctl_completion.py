"""Completion in shells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edged.ctl.main import COMMANDS, run


def complete(line: str, root: Path) -> list[str]:
    """What bash is offered for the last word of `line`."""
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-m", "edged.ctl.main"],
        check=True,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "EDGED_ROOT": str(root),
            "_EDGECTL_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        },
    )
    assert done.stderr == ""
    return [each.split(",", 1)[1] for each in done.stdout.splitlines() if "," in each]


@pytest.mark.parametrize(
    ("shell", "marks"),
    [
        ("bash", ["complete -o nosort -F", "_EDGECTL_COMPLETE=bash_complete"]),
        ("zsh", ["#compdef edgectl", "_EDGECTL_COMPLETE=zsh_complete"]),
        ("fish", ["complete --no-files --command edgectl", "_EDGECTL_COMPLETE=fish_complete"]),
    ],
)
def test_each_shell_has_its_script(shell: str, marks: list[str], capsys: pytest.CaptureFixture[str]):
    assert run(["completion", shell]) == 0
    captured = capsys.readouterr()
    assert all(mark in captured.out for mark in marks)
    assert captured.err == ""


def test_bash_takes_its_script():
    script = 'eval "$(%s -m edged.ctl.main completion bash)" && complete -p edgectl'
    done = subprocess.run(
        ["bash", "--norc", "-c", script % sys.executable], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "_edgectl_completion edgectl" in done.stdout


def test_commands_and_options_are_offered(tmp_path: Path):
    assert complete("edgectl ", tmp_path) == list(COMMANDS)
    assert complete("edgectl bu", tmp_path) == ["bundle"]
    assert complete("edgectl bundle ", tmp_path) == ["check", "import", "pack"]
    assert complete("edgectl completion ", tmp_path) == ["bash", "zsh", "fish"]
    assert complete("edgectl --", tmp_path) == ["--root", "--config", "--timeout", "--json", "--help"]
    assert complete("edgectl infer m --", tmp_path) == ["--json", "--revision", "--output", "--top", "--help"]


def test_models_are_quietly_none_without_a_daemon(tmp_path: Path):
    assert complete("edgectl infer ", tmp_path) == []


def test_models_are_quietly_none_with_wrong_settings(tmp_path: Path):
    settings = tmp_path / "etc/edged/edged.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text("nonsense")
    assert complete("edgectl infer ", tmp_path) == []
