"""Updates as tables and lines. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import Any

from google.protobuf import json_format

from edged._pb.edged.v1 import update_pb2 as pb
from edged.ctl.output import Column, Table
from edged.ctl.words import short_digest, size

# What happened, of itself, where nothing else is said of it; the words are `update.machine`'s.
_HAPPENED = {
    "wanted": "it is wanted",
    "fetched": "all of it has come",
    "taken_in": "it is in the store",
    "swapped": "the revisions have changed places",
    "passed": "it passed",
    "skipped": "nothing could be compared",
    "unproven": "too few requests came",
    "retry": "it is tried again",
    "superseded": "it is not wanted any more",
    "crashed": "its worker ended",
    "resumed": "it goes on",
    "settled": "what it replaced has gone",
    "started": "edged began with it so",
    "lasted": "it goes on",
    "stopped": "edged was stopped",
}


def updates(found: pb.UpdatesStatus) -> Table:
    """A line for each model."""
    columns = (
        Column("MODEL"),
        Column("SERVES", right=True),
        Column("PHASE"),
        Column("TO", right=True),
        Column("WHY", wraps=True),
    )
    return Table(columns, [_row(each) for each in found.models])


def _row(model: pb.ModelUpdate) -> tuple[str, ...]:
    target = str(model.target) if model.target else "-"
    return (model.model, str(model.serving or "-"), model.phase, target, model.deferred or model.decision or model.text)


def notes(found: pb.UpdatesStatus) -> Iterator[str]:
    """What the table cannot say."""
    if found.journal_problem:
        yield found.journal_problem
    if found.fetcher_lacks:
        yield f"the fetcher is not held by {', '.join(found.fetcher_lacks)}"
    for model in found.models:
        if model.pinned:
            yield f"{model.model} is pinned to revision {model.pinned}"
        if model.swaps:
            yield f"{model.model}: {model.swaps}"


def progress(found: pb.UpdatesStatus) -> Iterator[str]:
    """How far each update is, a line each."""
    for model in found.models:
        if model.target or model.phase == "committed":
            share = f" {_bar(model)}" if model.phase == "fetching" and model.total_bytes else ""
            why = f": {model.deferred or model.text}" if model.deferred or model.text else ""
            swaps = f"; {model.swaps}" if model.swaps and model.swaps not in why else ""
            yield f"{model.model} revision {model.target or model.serving} {model.phase}{share}{why}{swaps}"
        else:
            serves = f"revision {model.serving} serves" if model.serving else "no revision serves"
            but = f"; {model.decision}" if model.decision not in ("", serves) else ""
            yield f"{model.model}: {serves}{but}" if not model.serving else f"{model.model} {serves}{but}"


def _bar(model: pb.ModelUpdate) -> str:
    width = 20
    done = min(width, width * model.done_bytes // model.total_bytes)
    return f"[{'#' * done}{'.' * (width - done)}] {size(model.done_bytes)} of {size(model.total_bytes)}"


def history(found: pb.ListHistoryResponse, *, evidence: bool) -> Table:
    """A line for each step."""
    columns = (Column("TIME"), Column("MODEL"), Column("REV", right=True), Column("STEP"), Column("WHY", wraps=True))
    return Table(columns, [_step(each, evidence=evidence) for each in found.transitions])


def _step(step: pb.Transition, *, evidence: bool) -> tuple[str, ...]:
    at = step.at.ToDatetime(tzinfo=UTC).astimezone()
    why = f"{step.reason}: {step.text}" if step.reason else step.text or _HAPPENED.get(step.event, step.event)
    if evidence and step.evidence.fields:
        why += f" ({_facts(json_format.MessageToDict(step.evidence))})"
    return (f"{at:%Y-%m-%d %H:%M:%S}", step.model, str(step.revision), f"{step.before} → {step.after}", why)


def _facts(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_fact(value)}" for name, value in sorted(found.items()))


def _fact(value: Any) -> str:
    """A value of evidence, whose numbers are all floating point, as a person writes it."""
    match value:
        case dict():
            return f"[{_facts(value)}]"
        case list():
            return "[" + ", ".join(map(_fact, value)) + "]"
        case bool():
            return "yes" if value else "no"
        case float():
            return str(int(value)) if value.is_integer() else f"{value:.4g}"
        case None:
            return "n/a"
    return str(value)


def quarantine(found: pb.ListQuarantineResponse) -> Table:
    """A line for each variant."""
    columns = (Column("NAME"), Column("MODEL"), Column("REV", right=True), Column("VARIANT"), Column("WHY", wraps=True))
    return Table(columns, [_quarantined(each) for each in found.quarantined])


def _quarantined(each: pb.Quarantined) -> tuple[str, ...]:
    gone = "" if each.holds else " (no longer: the device has changed)"
    return (each.name[:8], each.model, str(each.revision), each.variant, f"{each.reason}: {each.text}{gone}")


def store(found: pb.Store) -> Table:
    """A line for each revision."""
    columns = (Column("MODEL"), Column("REV", right=True), Column("DIGEST"), Column("SIZE", right=True), Column("USE"))
    rows = [
        (each.model, str(each.revision), short_digest(each.digest), size(each.bytes), each.use or "-")
        for each in found.revisions
    ]
    return Table(columns, rows)


def store_notes(found: pb.Store) -> Iterator[str]:
    """What it takes, and what is wrong with it."""
    yield f"{size(found.used_bytes)} taken, {size(found.room_bytes)} may still be"
    for damage in found.damages:
        where = f" (of {', '.join(damage.revisions)})" if damage.revisions else ""
        then = (
            "; it was taken out, and is fetched again" if damage.discarded else "; see `edgectl store verify --repair`"
        )
        yield f"damaged: {damage.digest[:16] or 'a manifest'} {damage.what}{where}{then}"
    if found.verified and not found.damages:
        yield "every byte is as it was signed"
