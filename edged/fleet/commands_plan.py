"""`edgectl fleet plan` and `edgectl fleet operators`: what devices run, and who may command them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import msgspec

from edged import schema
from edged.ctl import output
from edged.ctl.asked import Asked, common
from edged.ctl.numbers import REVISION, Number
from edged.ctl.output import Column, Table
from edged.fleet.opened import of_fleet, opened, tell_waiting, waiting_data, waits
from edged.fleet.operators import COMMANDS
from edged.update.plan import Plan, Rollout, Wave, Window

_STEPS = ("next", "pause", "resume", "abort", "finish")


@click.group
@common
def plan() -> None:
    """Which revision each hardware class runs.

    And how far its rollouts have come.
    """


def _waves(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[Wave]:
    found = []
    for value in values:
        named = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(%?)(?::([0-9]{1,12})h)?", value)
        if not named or (not named[2] and "." in named[1]):
            raise click.BadParameter(f"{value!r} is no wave; give 10% or 25 (devices), with :24h to soak so long")
        data: dict[str, float] = {"percent": float(named[1])} if named[2] else {"devices": int(named[1])}
        if named[3]:
            data["min_soak_s"] = int(named[3]) * 3600
        for misfit in schema.misfits(data, Wave):
            wrong = f"{schema.dotted(misfit.key)} {misfit.found}; {misfit.remedy}"
            raise click.BadParameter(f"{value!r} is no wave: {wrong}")
        found.append(msgspec.convert(data, Wave))
    return found


def _pins(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    found = {}
    for value in values:
        device, _, revision = value.rpartition("=")
        if not device or not revision.isdecimal() or not int(revision):
            raise click.BadParameter(f"{value!r} is no DEVICE=REVISION")
        found[device] = int(revision)
    return found


def _windows(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[Window]:
    found = []
    for value in values:
        named = re.fullmatch(r"(?:([a-z,]+) )?([0-9:]{5})\+([0-9]+)h( utc)?", value)
        try:
            if not named:
                raise ValueError
            days = named[1].split(",") if named[1] else []
            data = {"days": days, "start": named[2], "duration_s": int(named[3]) * 3600}
            found.append(msgspec.convert({**data, "zone": "utc" if named[4] else "local"}, Window))
        except ValueError as error:  # msgspec's too
            raise click.BadParameter(f"{value!r} is no window; give 02:00+3h, or sat,sun 22:30+6h utc") from error
    return found


@plan.command("set")
@common
@of_fleet
@click.argument("model", metavar="MODEL")
@click.option("--class", "classes", multiple=True, required=True, metavar="CLASS", help="A class; may be given again.")
@click.option("--revision", type=REVISION, required=True, metavar="N", help="What it runs.")
@click.option(
    "--wave", "waves", multiple=True, metavar="WAVE", callback=_waves, help="Go there in waves: 1% or 25:24h."
)
@click.option("--population", type=Number(0, 10**9, whole=True), default=0, metavar="N", help="Devices of the class.")
@click.option("--rollout", "name", default="", metavar="ID", help="The rollout's name.  [default: of model, revisions]")
@click.option(
    "--pin", "pins", multiple=True, metavar="DEVICE=N", callback=_pins, help="A device with another revision."
)
@click.option("--unpin", "unpins", multiple=True, metavar="DEVICE", help="A device that is pinned no more.")
@click.option("--window", "windows", multiple=True, metavar="WINDOW", callback=_windows, help="When: sat,sun 02:00+3h.")
@click.option(
    "--jitter", type=Number(0, 2_592_000, whole=True), metavar="SECONDS", help="Spread downloads over so long."
)
@click.option("--no-unproven", is_flag=True, help="A soak that saw too few requests does not commit.")
@click.pass_obj
def set_plan(asked: Asked, /, fleet: Path, passphrase_file: Path | None, **given: Any) -> None:
    """Have devices of a class run a revision of MODEL, at once or in waves.

    Without --wave the whole class goes there, and a rollout under way is over. With it, the revision that is set stays
    until `plan wave MODEL --class CLASS finish`. Windows, jitter and pins stay as they are where they are not given.
    """
    from edged.fleet import planning
    from edged.fleet.listing import Listing

    with opened(fleet, passphrase_file) as signing:
        listing = Listing(signing)
        changed = listing.plan()
        for name in given["classes"]:
            for revision in {given["revision"], *given["pins"].values()}:
                planning.check(listing, given["model"], name, revision)
            changed = _set(changed, name, given)
        waiting = planning.put(signing, listing, changed)
    _tell(asked, changed, waiting_data(waiting))
    if not asked.as_json:
        tell_waiting(waiting)


def _set(changed: Plan, name: str, given: dict[str, Any]) -> Plan:
    from edged.fleet import planning

    model, revision = given["model"], given["revision"]
    if given["waves"]:
        population = int(given["population"])
        changed = planning.rolled(changed, model, name, revision, given["waves"], population, given["name"])
    else:
        changed = planning.settled(changed, model, name, revision)
    terms = changed.models[model][name]
    pins = {device: at for device, at in {**terms.pins, **given["pins"]}.items() if device not in given["unpins"]}
    terms = msgspec.structs.replace(terms, pins=pins)
    if given["windows"]:
        terms = msgspec.structs.replace(terms, windows=tuple(given["windows"]))
    if given["jitter"] is not None:
        terms = msgspec.structs.replace(terms, download_jitter_s=int(given["jitter"]))
    if given["no_unproven"]:
        terms = msgspec.structs.replace(terms, allow_unproven=False)
    return planning.with_terms(changed, model, name, terms)


@plan.command
@common
@of_fleet
@click.argument("model", metavar="MODEL")
@click.option("--class", "name", required=True, metavar="CLASS")
@click.argument("step", type=click.Choice(_STEPS))
@click.pass_obj
def wave(asked: Asked, fleet: Path, passphrase_file: Path | None, model: str, name: str, step: str) -> None:
    """Move the rollout of MODEL for a class a step: open the next wave, pause, resume, abort, or finish it."""
    from edged.fleet import planning
    from edged.fleet.listing import Listing

    with opened(fleet, passphrase_file) as signing:
        listing = Listing(signing)
        changed = planning.moved(listing.plan(), model, name, step)
        waiting = planning.put(signing, listing, changed)
    _tell(asked, changed, waiting_data(waiting))
    if not asked.as_json:
        tell_waiting(waiting)


@plan.command
@common
@of_fleet
@click.pass_obj
def show(asked: Asked, fleet: Path, passphrase_file: Path | None) -> None:
    """Show the plan as it is published."""
    from edged.fleet.listing import Listing

    with opened(fleet, passphrase_file, changes=False) as signing:
        found = Listing(signing).plan()
    _tell(asked, found, [])


def _tell(asked: Asked, plan: Plan, waiting: list[dict[str, Any]]) -> None:
    if asked.as_json:
        output.document({"plan": msgspec.to_builtins(plan), "waiting": waiting})
        return
    titles = ("MODEL", "CLASS")
    columns = [*map(Column, titles), Column("REVISION", right=True), Column("ROLLOUT", wraps=True), Column("PINS")]
    rows = [
        (model, name, str(terms.revision), _rollout(terms.rollout), str(len(terms.pins) or "-"))
        for model, classes in sorted(plan.models.items())
        for name, terms in sorted(classes.items())
    ]
    output.table(Table(columns, rows))


def _rollout(rollout: Rollout | None) -> str:
    if rollout is None:
        return "-"
    return f"to {rollout.revision}, {rollout.status}, wave {rollout.open_wave + 1} of {len(rollout.waves)}"


@click.group
@common
def operators() -> None:
    """Who may command devices.

    It is signed with the offline key of targets.
    """


@operators.command
@common
@of_fleet
@click.argument("name", metavar="NAME")
@click.option(
    "--public-key",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="Their ed25519 key, as PEM; the private half stays theirs.",
)
@click.option(
    "--may",
    multiple=True,
    required=True,
    type=click.Choice(COMMANDS),
    metavar="COMMAND",
    help=f"One of {', '.join(COMMANDS)}; may be given again.",
)
@click.option("--class", "classes", multiple=True, metavar="CLASS", help="Only devices of this class.  [default: all]")
@click.pass_obj
def add(asked: Asked, /, fleet: Path, passphrase_file: Path | None, **given: Any) -> None:
    """Let NAME give commands; one of that name is replaced."""
    from edged.fleet import operators as named
    from edged.fleet.keys import public_hex

    key = public_hex(given["public_key"].read_bytes(), str(given["public_key"]))
    with opened(fleet, passphrase_file) as signing:
        waiting = named.add(signing, given["name"], key, given["may"], given["classes"])
    if asked.as_json:
        output.document({"operator": given["name"], "waiting": waiting_data(waiting)})
        return
    may = ", ".join(given["may"])
    later = waits(waiting, "targets")
    output.line(f"{given['name']} will be let {may} once it is signed" if later else f"{given['name']} may {may}")
    tell_waiting(waiting)


@operators.command
@common
@of_fleet
@click.argument("name", metavar="NAME")
@click.pass_obj
def remove(asked: Asked, fleet: Path, passphrase_file: Path | None, name: str) -> None:
    """Let NAME give no commands any more."""
    from edged.fleet import operators as named

    with opened(fleet, passphrase_file) as signing:
        waiting = named.remove(signing, name)
    if asked.as_json:
        output.document({"operator": name, "waiting": waiting_data(waiting)})
        return
    later = waits(waiting, "targets")
    output.line(f"{name} will command no more once it is signed" if later else f"{name} may command no more")
    tell_waiting(waiting)
