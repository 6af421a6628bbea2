"""The daemon's command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from edged import __version__, log
from edged.config import render
from edged.config.load import load
from edged.errors import Code, EdgedError
from edged.system import guard

# sysexits.h: what the service manager shows beside the failed unit.
_EXIT = {Code.SETTINGS_INVALID: 78, Code.NOT_PERMITTED: 77, Code.ALREADY_RUNNING: 75, Code.CANNOT_LISTEN: 71}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path("/"),
    help="Folder under which every path lies that edged uses (settings, sockets, state, models).  [default: /]",
)
@click.option(
    "--config",
    "files",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Settings file to read instead of those under /usr/lib/edged and /etc/edged; may be given again.",
)
@click.option("--check-config", is_flag=True, help="Say everything that is wrong with the settings, and exit.")
@click.option("--print-config", is_flag=True, help="Print the settings and where each came from, and exit.")
@click.version_option(__version__, prog_name="edged", message="%(prog)s %(version)s")
def main(root: Path, files: tuple[Path, ...], *, check_config: bool, print_config: bool) -> None:
    """Serve machine-learning models on this device.

    Runs in the foreground until SIGTERM; SIGHUP reads the settings again. Ask it with edgectl.

    Exit status: 0 stopped as asked, 78 settings wrong, 77 a folder may not be used, 75 already running,
    71 an address cannot be listened on, 143 stopped by a second SIGTERM.
    """
    root = root.absolute()
    try:
        if check_config or print_config:
            loaded = load(root, files)
            checked = ", ".join(loaded.files) or "no file found, the defaults hold"
            sys.stdout.write(render.as_toml(loaded) if print_config else f"the settings are good: {checked}\n")
            return
        _serve(root, files)
    except EdgedError as error:
        sys.stderr.write(f"edged: {error}\n" if "\n" not in str(error) else f"{error}\n")
        sys.exit(_EXIT.get(error.code, 1))


def _serve(root: Path, files: tuple[Path, ...]) -> None:
    guard.install()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it writes past the log, in a form of its own
    # Imported here: grpc takes a tenth of a second, which --check-config need not.
    import asyncio

    import uvloop

    from edged.app import App
    from edged.config.origin import Origin, settings_for_start
    from edged.system.starts import supervised

    settings, origin, degraded = settings_for_start(Origin(root, files), supervised=supervised(os.environ))

    async def run() -> None:
        await App(settings, origin, degraded).run()

    with log.beside():
        log.configure(settings.log.level, settings.log.format)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())


if __name__ == "__main__":
    main()
