"""A test that leaves a process, a task, a socket or a file behind fails."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import operator
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
from support import long_lived
from support.polling import until
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling, LoadScopeScheduling

# As in a worker: an engine that a test runs in this process leaves nothing in the temporary folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# A machine that does ten things at once may take any time over an example.
hypothesis.settings.register_profile("edged", deadline=None, print_blob=True)
hypothesis.settings.load_profile("edged")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick ones first, which nothing long-lived is to run beside; then whole systems, then those with a daemon.

    Systems are one's alone of those that run side by side, and the longest: while it has them, others have the rest.
    """
    order = {"system": 1, "integration": 2}
    items.sort(key=lambda item: order.get(item.path.relative_to(Path(__file__).parent).parts[0], 0))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """For `-n`: one of those that run side by side takes a whole file, in the order above."""
    config.option.loadscopereorder = False
    return _ByFile(config, log)


class _ByFile(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        """Systems share a folder, so all of them are one's."""
        file = super()._split_scope(nodeid)
        return "tests/system" if file.startswith("tests/system/") else file


@pytest.fixture(scope="module", autouse=True)
def out_of_the_collectors_way() -> None:
    """What is alive between two modules stays: the collector need not look at it again after each further test, which
    takes longer the more tests there have been."""
    gc.collect()
    gc.freeze()


def _processes() -> set[int]:
    """Children of ours. Each thread knows those that it started; asking all of /proc would take far longer."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.update(map(int, (thread / "children").read_text().split()))
    return found - long_lived.PROCESSES


def _sockets() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def _files() -> set[str]:
    """Files outside the folders that pytest gives: in the temporary folder, and ours in shared memory."""
    shared = Path("/dev/shm")
    found = set(Path(tempfile.gettempdir()).iterdir())
    if shared.exists():
        found.update(path for path in shared.iterdir() if "edged" in path.name)
    return {str(path) for path in found}


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary folder for this run and its children alone: what others leave in theirs is no matter of ours."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compares processes, sockets and files before and after each test."""
    for name in request.fixturenames:  # what is shared is made before the test and outlives it
        if name in ("daemon", "shared_daemon"):
            request.getfixturevalue(name)
    processes, sockets, files = _processes(), _sockets(), _files()
    yield
    gc.collect()
    assert not (left := _processes() - processes), f"the test left processes behind: {sorted(left)}"
    # gRPC closes what a channel had in a thread of its own, when that has its turn; and what lies in shared memory may
    # be that of a test beside this one.
    until(lambda: _sockets() - sockets, "the test has left no socket behind", holds=operator.not_, limit_s=10)
    until(lambda: _files() - files, "the test has left no file behind", holds=operator.not_, limit_s=10)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """What a test had logged elsewhere, or more of, is as before for the next one."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture(autouse=True)
async def ends_its_tasks() -> AsyncIterator[None]:
    """In asynchronous tests, every task is to have ended."""
    yield
    running = {task for task in asyncio.all_tasks() if task is not asyncio.current_task() and not task.done()}
    assert not running, f"the test left tasks behind: {running}"
