"""What edged-os.service runs, as root: `python -I -m edged.oshelper`.

Exit status: 0 done, 1 where settings or root's own folder cannot be used; where settings cannot, what waits is refused.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from edged import log
from edged.config.load import load
from edged.config.settings import Settings
from edged.document import DocumentError
from edged.errors import EdgedError
from edged.oshelper.helper import Helper, refuse
from edged.system import identity
from edged.update.environment import build_time


def main(arguments: Sequence[str] | None = None) -> int:
    """Takes what waits, and leaves what bootc says for the daemon to read, whatever fails of that."""
    parser = argparse.ArgumentParser(prog="python -m edged.oshelper", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/"), help="folder under which every path lies")
    root = parser.parse_args(arguments).root.absolute()
    try:
        settings = _settings(root)
        log.configure(settings.log.level, settings.log.format)
        settings = identity.named(settings.under(root), root)
        helper = Helper(settings, root, build_time(root))
        try:
            helper.tell_status()  # first too: an order may take hours
        finally:
            try:
                helper.run()
            finally:
                helper.tell_status()
    except (EdgedError, OSError) as error:
        sys.stderr.write(f"edged-os: {error}\n")
        return 1
    return 0


def _settings(root: Path) -> Settings:
    """Those of the device. Raises EdgedError; what waits in the folder that is used by default is refused with it."""
    try:
        return load(root).settings
    except DocumentError as error:
        refuse(Path(Settings().under(root).paths.state), f"the device's settings are wrong: {error}")
        raise


if __name__ == "__main__":
    if os.geteuid() == 0:
        os.setgroups([])  # who acts as the daemon is to have no group of root's
    sys.exit(main())
