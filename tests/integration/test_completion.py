"""The completion scripts work in the shells that they are for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def shell(name: str, script: str, home: Path) -> str:
    """What a script prints in a shell of its own."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [name, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home), "TERM": "dumb", "LANG": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_bash_completes_commands(tmp_path: Path):
    script = (
        'eval "$(edgectl completion bash)"; function="$(complete -p edgectl | sed "s/.*-F \\([^ ]*\\).*/\\1/")";'
        'COMP_WORDS=(edgectl statu); COMP_CWORD=1; "$function" edgectl statu edgectl; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert shell("bash", script, tmp_path).split() == ["status"]


def test_fish_completes_commands(tmp_path: Path):
    script = 'edgectl completion fish | source; complete --do-complete "edgectl statu"'
    assert [line.split("\t")[0] for line in shell("fish", script, tmp_path).splitlines()] == ["status"]


def test_zsh_takes_the_script_and_registers_it(tmp_path: Path):
    script = (
        'autoload -U compinit && compinit -D; eval "$(edgectl completion zsh)"; print -r -- "$_comps[edgectl]";'
        'whence -w "$_comps[edgectl]"'
    )
    registered, kind = shell("zsh", script, tmp_path).splitlines()
    assert kind == f"{registered}: function"
