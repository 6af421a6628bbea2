"""Another process beside the test's own."""

import subprocess
import sys

import pytest
from support.polling import PATIENCE_S


class Other:
    """Another process, which runs `code` and then says so; it ends when its input does."""

    def __init__(self, code, *arguments):
        script = f"import sys\n{code}\nprint('done', flush=True)\nsys.stdin.read()\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "done\n", self.process.stderr.read()

    def end(self):
        self.process.communicate(timeout=PATIENCE_S)


@pytest.fixture
def other():
    started = []

    def start(*arguments):
        started.append(Other(*arguments))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
        each.process.communicate()
