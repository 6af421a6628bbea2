"""`edgectl watch`: what changes, as it changes."""

from __future__ import annotations

from collections.abc import Iterator

import click

from edged import clock
from edged._pb.edged.v1 import admin_pb2 as pb
from edged.ctl import output
from edged.ctl.asked import Asked, common
from edged.ctl.client import Client
from edged.ctl.plain import plain, word
from edged.errors import Code, EdgedError


@click.command
@common
@click.pass_obj
def watch(asked: Asked) -> None:
    """Follow what changes, as it changes.

    It goes on until Ctrl-C, or until edged stops. Each line has the time, what changed, and the summary where that is
    another than before. With --json each line is the whole state, as `edgectl status --json` gives it.

    Exit status: 0 after Ctrl-C and when edged stops, 3 when it was not running.
    """
    with Client(asked, admin=True) as client:
        client.status()  # within the time that was given: the stream below may be silent for days
        try:
            _follow(client, as_json=asked.as_json)
        except KeyboardInterrupt:
            return
        except EdgedError as error:
            if error.code is not Code.NOT_RUNNING:
                raise
    output.fail("edged has stopped")


def _follow(client: Client, *, as_json: bool) -> None:
    before: pb.Status | None = None
    for status in client.watch():
        if as_json:
            output.document(plain(status))
        else:
            for text in news(before, status):
                output.line(f"{clock.wall().astimezone():%H:%M:%S}  {text}")
        before = status


def news(before: pb.Status | None, after: pb.Status) -> list[str]:
    """What to tell of a state, given the one told before. Nothing where only counters differ. Pure."""
    told = list(_changes(before, after)) if before is not None else []
    if before is None or before.summary != after.summary:
        told.append(after.summary)
    return told


def _changes(before: pb.Status, after: pb.Status) -> Iterator[str]:
    if before.pid != after.pid:
        yield f"edged was started again, pid {after.pid}"
    if before.level != after.level:
        yield f"level {word(before, 'level')} → {word(after, 'level')}"
    yield from _model_changes(before, after)
    yield from _worker_changes(before, after)
    yield from (f"degraded: {reason}" for reason in _untold(after, before))
    yield from (f"no longer degraded: {reason}" for reason in _untold(before, after))


def _untold(status: pb.Status, other: pb.Status) -> list[str]:
    """Reasons of the one state that the other has not, but for those that its models' own reasons tell."""
    own = [model.reason for model in status.models if model.reason]
    reasons = [reason for reason in status.degraded_reasons if reason not in other.degraded_reasons]
    return [reason for reason in reasons if not any(each in reason for each in own)]


def _model_changes(before: pb.Status, after: pb.Status) -> Iterator[str]:
    old = {(model.name, model.revision): model for model in before.models}
    new = {(model.name, model.revision): model for model in after.models}
    for name, revision in old.keys() - new.keys():
        yield f"model {name} revision {revision} is gone"
    for (name, revision), model in new.items():
        which = f"model {name} revision {revision}"
        by = f" (variant {model.variant})" if model.variant else ""
        was = old.get((name, revision))
        if was is None:
            yield f"{which} is new: {word(model, 'state')}{by}"
        elif was.state != model.state:
            why = f": {model.reason}" if model.reason else by
            yield f"{which} {word(was, 'state')} → {word(model, 'state')}{why}"
        elif was.variant != model.variant:
            yield f"{which} variant {was.variant or 'none'} → {model.variant or 'none'}"


def _worker_changes(before: pb.Status, after: pb.Status) -> Iterator[str]:
    def keyed(status: pb.Status) -> dict[tuple[str, int, str, int], pb.Worker]:
        return {(each.model, each.revision, each.variant, each.pid): each for each in status.workers}

    old, new = keyed(before), keyed(after)
    for model, revision, variant, pid in sorted(old.keys() - new.keys()):
        yield f"worker {pid} of {model} revision {revision} variant {variant} is gone"
    for model, revision, variant, pid in sorted(new.keys() - old.keys()):
        yield f"worker {pid} of {model} revision {revision} variant {variant} is there"
