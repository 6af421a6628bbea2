"""The commands about models over the air: what is done, what was, and what an administrator decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from edged import clock
from edged._pb.edged.v1 import update_pb2 as pb
from edged.ctl import completion, output, update_tables
from edged.ctl.asked import Asked, common
from edged.ctl.client import Client
from edged.ctl.faults import DONE, NO
from edged.ctl.numbers import REVISION, Number
from edged.ctl.plain import plain
from edged.ctl.update_client import Updates

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@contextmanager
def _updates(asked: Asked) -> Iterator[Updates]:
    with Client(asked, admin=True) as client:
        yield Updates(client)


def _show(asked: Asked, found: Any, rows: Callable[[Any], output.Table], nothing: str) -> None:
    """A table of what was found, or the word for nothing."""
    table = rows(found)
    if asked.as_json:
        output.document(plain(found))
    elif not table.rows:
        output.line(nothing)
    else:
        output.table(table)


@click.command
@common
@click.option("--check", is_flag=True, help="Only say what the plan wants; begin nothing.")
@click.option("--watch", is_flag=True, help="Follow it until nothing is under way.")
@click.option("--from", "stick", type=_FOLDER, metavar="DIR", help="A repository on a stick, instead of the usual one.")
@click.pass_obj
def update(asked: Asked, stick: Path | None, *, check: bool, watch: bool) -> int:
    """Look at the repository now, and begin what the plan wants.

    Exit status: 0 done or begun, 1 it was refused or, with --watch, came to nothing.
    """
    with _updates(asked) as updates:
        newest = max((each.sequence for each in updates.history("", 1).transitions), default=0)
        found = updates.look(str(stick.absolute()) if stick else "", check_only=check)
        if watch and not check:
            return _follow(asked, updates, newest)
        _show(asked, found, update_tables.updates, "no models")
        if not asked.as_json:
            for line in update_tables.notes(found):
                output.line(line)
    return DONE


def _follow(asked: Asked, updates: Updates, newest: int) -> int:
    """Tells each change until nothing is under way; what failed after step `newest` came to nothing."""
    before: list[str] = []
    status = pb.UpdatesStatus()
    for status in updates.watch():
        lines = list(update_tables.progress(status))
        if asked.as_json:
            output.document(plain(status))
        else:
            for line in lines:
                if line not in before:
                    output.line(f"{clock.wall().astimezone():%H:%M:%S}  {line}")
        before = lines
        if not status.busy:
            break
    failed = [each for each in updates.history("", 100).transitions if each.sequence > newest and each.reason]
    for each in failed:
        output.fail(f"{each.model} revision {each.revision}: {each.text} ({each.reason})")
    told = {each.model for each in failed}
    refused = [each for each in status.models if each.refused and each.model not in told]
    for model in refused:
        output.fail(f"{model.model}: {model.decision}")
    return NO if failed or refused else DONE


@click.command
@common
@click.argument("model", required=False, default="", shell_complete=completion.models)
@click.option("--limit", type=Number(1, 2000, whole=True), default=100, metavar="N", help="Only the newest N.")
@click.option("--evidence", is_flag=True, help="Also the numbers that each decision rests on.")
@click.pass_obj
def history(asked: Asked, model: str, limit: int, *, evidence: bool) -> None:
    """Every step of updates, with its reason; kept across restarts.

    With MODEL only those of that model.
    """
    with _updates(asked) as updates:
        found = updates.history(model, limit)
    _show(asked, found, lambda each: update_tables.history(each, evidence=evidence), "nothing has happened")


@click.command
@common
@click.argument("model", shell_complete=completion.models)
@click.pass_obj
def explain(asked: Asked, model: str) -> None:
    """Why this revision of a model serves.

    It also says why this variant does, what was passed over, and what is wanted.
    """
    with _updates(asked) as updates:
        found = updates.explain(model)
    if asked.as_json:
        output.document(plain(found))
    else:
        for line in found.lines:
            output.line(line)


@click.command
@common
@click.argument("model", shell_complete=completion.models)
@click.option("--to", "revision", type=REVISION, default=None, metavar="REV", help="[default: the one before]")
@click.pass_obj
def rollback(asked: Asked, model: str, revision: int | None) -> None:
    """Have a model go back to another revision.

    While a new revision soaks, its route flips back at once and it is quarantined. Later the older one passes a trial
    first, and stays until `edgectl unpin`.
    """
    with _updates(asked) as updates:
        before = _model(updates, model)
        to = updates.roll_back(model, revision or 0)
    said = f"serves revision {to} already" if before.serving == to else f"goes back to revision {to}"
    _done(asked, f"{model} {said}", model=model, revision=to)


@click.command
@common
@click.argument("model", shell_complete=completion.models)
@click.argument("revision", type=REVISION, required=False)
@click.pass_obj
def pin(asked: Asked, model: str, revision: int | None) -> None:
    """Keep a model at a revision, whatever the plan says.

    Without REVISION it stays at what serves now, until `edgectl unpin`.
    """
    with _updates(asked) as updates:
        to = updates.pin(model, revision or 0)
        serving = _model(updates, model).serving
    if serving == to:
        said = f"stays at revision {to} until `edgectl unpin {model}`"
    else:
        serves = f"revision {serving} serves" if serving else "none serves"
        said = f"is to be at revision {to}; {serves} until it has passed"
    _done(asked, f"{model} {said}", model=model, revision=to)


@click.command
@common
@click.argument("model", shell_complete=completion.models)
@click.pass_obj
def unpin(asked: Asked, model: str) -> None:
    """Let the plan decide about a model again."""
    with _updates(asked) as updates:
        updates.unpin(model)
    _done(asked, f"the plan decides about {model} again", model=model)


def _model(updates: Updates, model: str) -> pb.ModelUpdate:
    """How the update of a model stands; nothing where there is no such model."""
    return next((each for each in updates.status().models if each.model == model), pb.ModelUpdate())


def _done(asked: Asked, text: str, **facts: Any) -> None:
    if asked.as_json:
        output.document(facts)
    else:
        output.line(text)


@click.group
@common
def quarantine() -> None:
    """What failed here and is not tried again.

    It holds while engine, driver and OS image are those it failed with.
    """


@quarantine.command("list")
@common
@click.pass_obj
def list_quarantine(asked: Asked) -> None:
    """Show it, with the reasons."""
    with _updates(asked) as updates:
        found = updates.quarantined()
    _show(asked, found, update_tables.quarantine, "nothing is quarantined")


@quarantine.command
@common
@click.argument("name", shell_complete=completion.models)
@click.pass_obj
def release(asked: Asked, name: str) -> None:
    """Let NAME be tried again: a name of the list, the beginning of one, or a model."""
    with _updates(asked) as updates:
        found = updates.release(name)
    if asked.as_json:
        output.document(plain(found))
    for each in () if asked.as_json else found.released:
        output.line(f"{each.model} revision {each.revision} may be tried again")


@click.command
@common
@click.argument("action", type=click.Choice(["show", "verify"]), default="show")
@click.option("--repair", is_flag=True, help="verify: take out what is damaged, and fetch it again.")
@click.pass_obj
def store(asked: Asked, action: str, *, repair: bool) -> int:
    """What the store of models holds, and whether it is whole.

    `show` lists it, `verify` reads every byte.

    Exit status: 0 it is whole, 1 something is damaged.
    """
    with _updates(asked) as updates:
        found: pb.Store = updates.store(verify=action == "verify", repair=repair)
    _show(asked, found, update_tables.store, "the store is empty")
    if not asked.as_json:
        for line in update_tables.store_notes(found):
            output.line(line)
    return NO if found.damages and not repair else DONE
