"""`edgectl fleet`: a fleet made, bundles published, repositories verified and exported."""

from __future__ import annotations

import re
from datetime import UTC, timedelta
from pathlib import Path

import click

from edged import schema
from edged.ctl import faults, output
from edged.ctl.asked import Asked, common
from edged.ctl.lazy import Entry, LazyGroup
from edged.ctl.words import count, size
from edged.errors import Code, EdgedError
from edged.fleet import roles
from edged.fleet.opened import bar, of_fleet, opened, passphrases, ring, tell_waiting, waiting_data, waits
from edged.types import ModelName

COMMANDS = {
    "init": Entry("edged.fleet.commands", "init", "Make a fleet: its keys, roles and repository."),
    "publish": Entry("edged.fleet.commands", "publish", "Check, cut, sign and publish a bundle."),
    "plan": Entry("edged.fleet.commands_plan", "plan", "Which revision each hardware class runs."),
    "operators": Entry("edged.fleet.commands_plan", "operators", "Who may command devices."),
    "command": Entry(
        "edged.fleet.commands_send", "command", "Sign a command, send it through the broker, and show the answers."
    ),
    "renew": Entry("edged.fleet.commands_keys", "renew", "Sign snapshot and timestamp anew; a timer runs it."),
    "sign": Entry("edged.fleet.commands_keys", "sign", "Sign what waits, where the offline keys are."),
    "rotate-key": Entry("edged.fleet.commands_keys", "rotate_key", "Replace a key."),
    "expire": Entry("edged.fleet.commands_keys", "expire", "How long a role's signatures last."),
    "verify": Entry("edged.fleet.commands", "verify", "Read a whole repository as a new device would."),
    "export": Entry("edged.fleet.commands", "export", "Put some models on a stick."),
    "gc": Entry("edged.fleet.commands_keys", "gc", "Remove what nothing refers to any more."),
}

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command("fleet", cls=LazyGroup, entries=COMMANDS)
@common
def fleet() -> None:
    """Publish models to many devices; needs no edged.

    A fleet is a folder: repository/ is what devices fetch from, keys/ what signs it. docs/fleet.md tells the whole way.
    """


def _name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    for misfit in schema.misfits(value, ModelName):
        raise click.BadParameter(f"{misfit.found}; {misfit.remedy}")
    return value


def _share(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    found = {}
    for value in values:
        named = re.fullmatch(r"([a-z]+)=([1-9][0-9]?)/([1-9][0-9]?)", value)
        if not named or named[1] not in roles.KEYED or int(named[2]) > int(named[3]):
            raise click.BadParameter(f"{value!r} is no ROLE=NEEDED/KEYS; give one such as root=2/3")
        found[named[1]] = (int(named[2]), int(named[3]))
    return found


@click.command
@common
@passphrases
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--name",
    required=True,
    metavar="NAME",
    callback=_name,
    help="The fleet's name, as its devices' settings give it.",
)
@click.option(
    "--share",
    "shares",
    multiple=True,
    metavar="ROLE=NEEDED/KEYS",
    callback=_share,
    help="How many signatures a role needs, of how many keys; may be given again.  [default: 1/1]",
)
@click.pass_obj
def init(
    asked: Asked, folder: Path, name: str, shares: dict[str, tuple[int, int]], passphrase_file: Path | None
) -> None:
    """Make a fleet: its keys, roles and repository.

    DIR is new or empty. Then carry the keys of root and targets to a machine that has no network, and put root.json
    into the image of every device.
    """
    from edged.fleet.starting import ROOT_NAME, start

    home = start(folder, name, ring(folder / "keys", passphrase_file), shares)
    offline = sorted(str(path) for role in roles.OFFLINE for path in home.keys.glob(f"{role}-*.pem"))
    if asked.as_json:
        output.document({"fleet": name, "folder": str(folder), "root": str(folder / ROOT_NAME), "offline": offline})
        return
    output.line(f"{folder} is the fleet {name}")
    output.line()
    rows = [("serve", str(home.repository)), ("into each image", str(folder / ROOT_NAME))]
    output.table(output.fields([*rows, *(("carry offline", path) for path in offline)]))


@click.command
@common
@of_fleet
@click.argument("folder", metavar="BUNDLE_DIR", type=_FOLDER)
@click.option("--untried", is_flag=True, help="Publish also what this machine can run no variant of.")
@click.pass_obj
def publish(asked: Asked, fleet: Path, passphrase_file: Path | None, folder: Path, *, untried: bool) -> int:
    """Check, cut, sign and publish a bundle.

    It is checked as `edgectl bundle check` does. Nothing runs it before the plan says so. What is published stays
    as it is: a change takes a new revision. Doing it again changes nothing, and mends what is missing.
    """
    import asyncio

    from edged.ctl import check as checking

    try:
        from edged.fleet.publishing import publish as put
    except ImportError as error:
        found = f"what publishing needs is not installed: {error.name}"
        raise EdgedError(Code.UNSUPPORTED, found, "install it with `pip install edged[fleet]`") from error
    from edged.runtimes.base import ENGINES
    from edged.system import hardware

    device = hardware.read(asked.settings.device.hardware_class)
    runtimes = {name: engine.version() for name, engine in ENGINES.items()}
    checked = asyncio.run(checking.check(folder.absolute(), device, runtimes, asked.settings.workers))
    none_tried = not checked.problems and all(tried.passed_over for tried in checked.tried)
    if checked.verdict and not (untried and none_tried):
        hint = "see `edgectl bundle check`" + ("; --untried publishes it all the same" if none_tried else "")
        raise EdgedError(Code.BUNDLE_INVALID, f"{folder} is not good: {checked.verdict}", hint)
    with opened(fleet, passphrase_file) as signing, bar("publishing", shown=not asked.as_json) as told:
        published = put(signing.home, signing, folder, told)
    manifest = published.manifest
    if asked.as_json:
        output.document(
            {
                "name": manifest.name,
                "revision": manifest.revision,
                "changed": published.changed,
                "chunks": published.chunks,
                "new_chunks": published.new_chunks,
                "new_bytes": published.new_bytes,
                "waiting": waiting_data(published.waiting),
            }
        )
        return faults.DONE
    what = f"{manifest.name} revision {manifest.revision}"
    later = published.changed and waits(published.waiting, "models")
    done = "is published" if published.changed else "was published before, just so"
    output.line(f"{what} {'will be published once it is signed' if later else done}")
    output.line(f"{published.new_chunks} of {count(published.chunks, 'chunk')} are new, {size(published.new_bytes)}")
    tell_waiting(published.waiting)
    if published.changed and not later:
        output.line(f"next: `edgectl fleet plan set {manifest.name} --class CLASS --revision {manifest.revision}`")
    return faults.DONE


def _repository(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    scheme, is_url, _ = value.partition("://")
    if is_url:
        if scheme not in ("http", "https", "file"):
            raise click.BadParameter(f"{value!r} is no URL that devices fetch from; give one of https, http or file")
        return value.rstrip("/")
    folder = Path(value).absolute()
    if not folder.is_dir():
        raise click.BadParameter(f"there is no folder {value!r}")
    if not (folder / "metadata").is_dir():
        inner = f"; did you mean {Path(value) / 'repository'}?" if (folder / "repository/metadata").is_dir() else ""
        raise click.BadParameter(f"{value!r} is no repository, it has no folder metadata{inner}")
    return folder.as_uri()


@click.command
@common
@click.argument("repository", metavar="DIR_OR_URL", callback=_repository)
@click.option(
    "--trust",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="The root of trust: root.json of the fleet's folder, as it lies in the image.",
)
@click.option("--exported", is_flag=True, help="It holds only some of the models, as `export` makes it.")
@click.pass_obj
def verify(asked: Asked, repository: str, trust: Path, *, exported: bool) -> int:
    """Read a whole repository as a new device would.

    Exit status: 0 it is whole, 1 it is not.
    """
    from edged.fleet.verifying import verify as read

    with bar("verifying", shown=not asked.as_json) as told:
        verified = read(repository, trust.read_bytes(), in_part=exported, told=told)
    if asked.as_json:
        output.document(
            {
                "good": not verified.problems,
                "problems": verified.problems,
                "expires": {role: at.astimezone(UTC).isoformat() for role, at in verified.expires.items()},
                "revisions": [{"model": model, "revision": revision} for model, revision in verified.revisions],
                "chunks": verified.chunks,
            }
        )
        return faults.NO if verified.problems else faults.DONE
    for problem in verified.problems:
        output.line(f"problem: {problem}")
    rows = [(f"{role} until", f"{at:%Y-%m-%d %H:%M} UTC") for role, at in sorted(verified.expires.items())]
    held = f"{count(len(verified.revisions), 'revision')} in {count(verified.chunks, 'chunk')}"
    output.table(output.fields([*rows, ("holds", f"{held}, {size(verified.chunk_bytes)}")]))
    output.line(f"not good: {count(len(verified.problems), 'problem')}" if verified.problems else "good")
    return faults.NO if verified.problems else faults.DONE


def _days(_context: click.Context, _parameter: click.Parameter, value: str) -> timedelta:
    named = re.fullmatch(r"([1-9][0-9]{0,3})d", value)
    if not named:
        raise click.BadParameter(f"{value!r} is no number of days; give one such as 180d")
    return timedelta(days=int(named[1]))


@click.command
@common
@of_fleet
@click.option("--usb", "to", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="DIR")
@click.option("--valid", required=True, callback=_days, metavar="DAYS", help="How long it may lie in a drawer: 180d.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="A model; may be given again.  [default: all]")
@click.pass_obj
def export(
    asked: Asked, fleet: Path, passphrase_file: Path | None, to: Path, valid: timedelta, models: tuple[str, ...]
) -> None:
    """Put some models on a stick.

    What the plan has devices run is written to DIR, new or empty: a repository complete and signed on its own. A
    device that has seen something newer refuses it.
    """
    from edged.fleet.exporting import export as put

    with opened(fleet, passphrase_file) as signing:
        exported = put(signing.home, signing, to, models, valid)
        until = signing.now + valid
    if asked.as_json:
        revisions = [{"model": model, "revision": revision} for model, revision in exported.revisions]
        output.document({"folder": str(to), "revisions": revisions, "until": until.isoformat()})
        return
    rows = [("model", f"{model} revision {revision}") for model, revision in exported.revisions]
    output.table(output.fields([("written", str(to)), *rows, ("size", size(exported.bytes))]))
    output.line(f"devices take it until {until:%Y-%m-%d}")
