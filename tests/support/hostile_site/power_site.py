"""Cuts the power of a daemon of a test at a step that it names: the process ends as by kill -9, before that step.

A step is whatever Python does to the state folder (audit events of the interpreter) and each transaction of SQLite, so
that no write can be added that is not one; and where it is asked for, each change that is told within the daemon, as
that a worker is ready or has gone. `EDGED_TEST_POWER` names a JSON file: `state`, the folder; `steps`, a file that
takes a line for each step; `cut`, the step to end at, or none; `changes`, whether those are steps too.
"""

import collections
import json
import os
import signal
import sqlite3
import sys
import threading

from edged.changes import Changes

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


class Power:
    """Counts steps, and ends the process at the one that was named."""

    def __init__(self, state, steps, cut):
        self._state = state
        self._steps = os.open(steps, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._cut = cut
        self._counted = collections.Counter()
        self._busy = threading.local()

    def audit(self, event, arguments):
        """The interpreter's hook."""
        if event == "open":
            path, _, flags = arguments
            touched = bool(flags & WRITES) and isinstance(path, str) and path.startswith(self._state)
        elif event in CHANGES:
            touched = any(str(argument).startswith(self._state) for argument in arguments[:2])
        else:
            return
        if touched and not getattr(self._busy, "now", False):
            self._busy.now = True
            try:
                self.step(event)
            finally:
                self._busy.now = False

    def step(self, event):
        """One step, named by what is done and by which function of edged."""
        frame, names = sys._getframe(1), []
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module.startswith("edged."):
                names.append(f"{module}.{frame.f_code.co_name}")
            frame = frame.f_back
        where = [name for name in names if not name.startswith("edged.durable.")][:1] or ["elsewhere"]
        through = " durably" if names and names[0].startswith("edged.durable.") else ""
        name = f"{event} by {where[0]}{through}"
        self._counted[name] += 1
        name = f"{name} {self._counted[name]}"
        os.write(self._steps, f"{name}\n".encode())
        if name == self._cut:
            os.kill(os.getpid(), signal.SIGKILL)


def install():
    """Follows what this process does, where a test asks for it."""
    with open(os.environ["EDGED_TEST_POWER"]) as file:
        given = json.load(file)
    changes = given.pop("changes")
    power = Power(**given)
    sys.addaudithook(power.audit)
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def execute(self, sql, *arguments):
            if sql != "COMMIT":
                return super().execute(sql, *arguments)
            power.step("before a commit")
            done = super().execute(sql, *arguments)
            power.step("after a commit")
            return done

    sqlite3.connect = lambda *arguments, **options: connect(*arguments, **options, factory=Connection)
    if changes:
        mark = Changes.mark

        def told(self):
            power.step("change")
            mark(self)

        Changes.mark = told


if "EDGED_TEST_POWER" in os.environ:
    install()
