"""The fleet of the tour: keys, a repository, a plan, made and fed by `edgectl fleet` as an operator would."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from tools.demo.asking import MODEL
from tools.demo.device import UPDATE_S

NAME = "demo"
CLASS = "generic"


class Fleet:
    """Everything in `folder`, the keys under a passphrase that nobody knows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._passphrase = secrets.token_urlsafe()
        self._edgectl("init", str(folder), "--name", NAME)

    def trusted_by(self, root: Path) -> None:
        """Puts the root of trust into the image of the device below `root`, and has it follow the fleet."""
        trust, settings = root / "usr/share/edged/trust/root.json", root / "etc/edged/edged.toml.d/fleet.toml"
        for path in (trust, settings):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.folder / "root.json", trust)
        settings.write_text(
            f'[device]\nfleet = "{NAME}"\nhardware_class = "{CLASS}"\n'
            f'[update]\nrepository = "file://{self.folder}/repository"\nreserve_mib = 0\nshadow_max_s = 20\n'
        )

    def publish(self, bundle: Path) -> str:
        """Publishes a bundle that is good; gives what is said."""
        return self._edgectl("publish", "--fleet", str(self.folder), str(bundle)).splitlines()[0]

    def refuses(self, bundle: Path) -> str:
        """Gives why a bundle is not published. Exits when it is."""
        ended = self._run("publish", "--fleet", str(self.folder), str(bundle))
        if ended.returncode == 0:
            sys.exit(f"a bad bundle was published: {bundle}")
        return ended.stderr.strip()

    def publish_unchecked(self, bundle: Path) -> None:
        """Publishes a bundle without trying it, as somebody would who has the keys and no sense."""
        from edged.fleet.home import Home
        from edged.fleet.keys import Ring
        from edged.fleet.publishing import publish
        from edged.fleet.signing import Signing

        home = Home(self.folder)
        publish(home, Signing(home, Ring(self.folder / "keys", [self._passphrase], None)), bundle)

    def plan(self, revision: int) -> None:
        """Has every device run a revision."""
        words = ("--class", CLASS, "--revision", str(revision), "--fleet", str(self.folder))
        self._edgectl("plan", "set", MODEL, *words)

    def _edgectl(self, *words: str) -> str:
        ended = self._run(*words)
        if ended.returncode != 0:
            sys.exit(f"edgectl fleet {' '.join(words)} ended with status {ended.returncode}:\n{ended.stderr}")
        return ended.stdout

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edged.ctl.main", "fleet", *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=UPDATE_S,
            env={**os.environ, "EDGED_FLEET_PASSPHRASE": self._passphrase},
        )
