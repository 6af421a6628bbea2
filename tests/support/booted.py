"""What tests do inside of a system that was booted for them, be it a container or a virtual machine."""

from __future__ import annotations

import shlex
import subprocess
from abc import ABC, abstractmethod

from support.polling import PATIENCE_S, until


class Booted(ABC):
    """A system; subclasses say how a script gets into it."""

    # How often a condition is looked at.
    again_s = 0.05

    @abstractmethod
    def shell(self, script: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """Runs a shell script inside, as root."""

    def run(self, script: str, timeout_s: float = PATIENCE_S) -> str:
        """Runs a shell script inside that is to succeed; gives what it printed."""
        done = self.shell(script, timeout_s)
        assert done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def wait(self, script: str, limit_s: float = 2 * PATIENCE_S) -> None:
        """Waits until a shell script succeeds."""
        until(
            lambda: self.shell(script),
            f"{script} succeeds",
            holds=lambda done: not done.returncode,
            limit_s=limit_s,
            again_s=self.again_s,
        )

    def property(self, name: str) -> str:
        """A property of the unit."""
        return self.run(f"systemctl show edged --property={name} --value")

    def wait_logged(self, part: str, unit: str = "edged") -> None:
        """Waits until a unit's journal holds `part`: what is logged is written by others, and later."""
        self.wait(f"journalctl --unit={unit} --no-pager --output=cat | grep -qF {shlex.quote(part)}")

    def journal(self) -> str:
        """What the daemon logged."""
        return self.run("journalctl --unit=edged --no-pager --output=cat")
