"""`edged.v1.Updates`: how models' updates stand, and what the device's own administrator decides. Admin socket only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import grpc
import msgspec
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from edged._pb.edged.v1 import update_pb2 as pb
from edged.errors import Code, EdgedError
from edged.rpc.server import Methods, decode, stream, unary
from edged.update import inventory
from edged.update.administration import Administration
from edged.update.agent import Agent
from edged.update.course import Course
from edged.update.records import Quarantined, Transition

SERVICE = "edged.v1.Updates"

_MAX_WATCHERS = 64
_WATCH_PAUSE_S = 0.1
_HISTORY = 100
_MOST_HISTORY = 2000


class Updates:
    """The calls of `edged.v1.Updates`."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._administration = Administration(agent)
        self._watchers = 0
        self._repairing: asyncio.Task[inventory.Held] | None = None

    def methods(self) -> Methods:
        """The calls by name."""
        return {
            "GetUpdates": unary(self._get_updates),
            "WatchUpdates": stream(self._watch_updates),
            "LookNow": unary(self._look_now),
            "ListHistory": unary(self._list_history),
            "Explain": unary(self._explain),
            "RollBack": unary(self._roll_back),
            "Pin": unary(self._pin),
            "Unpin": unary(self._unpin),
            "ListQuarantine": unary(self._list_quarantine),
            "ReleaseQuarantine": unary(self._release_quarantine),
            "HoldUpdates": unary(self._hold_updates),
            "ReleaseHold": unary(self._release_hold),
            "GetStore": unary(self._get_store),
        }

    async def _get_updates(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        decode(pb.GetUpdatesRequest, data)
        return self._status().SerializeToString()

    async def _watch_updates(self, data: bytes, _: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        decode(pb.WatchUpdatesRequest, data)
        if self._watchers >= _MAX_WATCHERS:
            raise EdgedError(Code.OVERLOADED, f"{self._watchers} callers watch already", "use GetUpdates")
        self._watchers += 1
        changes = self._agent.shop.changes
        before = b""
        try:
            while True:
                count = changes.count
                status = self._status().SerializeToString(deterministic=True)
                if status != before:
                    yield status
                before = status
                await changes.after(count)
                await asyncio.sleep(_WATCH_PAUSE_S)
        finally:
            self._watchers -= 1

    async def _look_now(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.LookNowRequest, data)
        stick = Path(request.from_dir) if request.from_dir else None
        if stick is not None and not stick.is_absolute():
            raise EdgedError(Code.INVALID_ARGUMENT, f"{request.from_dir[:256]!r} is no absolute path", "name it from /")
        await self._agent.look_at(stick, begin=not request.check_only)
        return pb.LookNowResponse(status=self._status()).SerializeToString()

    async def _list_history(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.ListHistoryRequest, data)
        ledger = self._agent.shop.ledger
        limit = min(request.limit or _HISTORY, _MOST_HISTORY)
        found = await ledger.do(ledger.journal.history, request.model, limit)
        if request.model and not found:
            self._agent.check_model(request.model)
        return pb.ListHistoryResponse(transitions=map(_transition, found)).SerializeToString()

    async def _explain(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.ExplainRequest, data)
        return pb.ExplainResponse(lines=inventory.explain(self._agent, request.model)).SerializeToString()

    async def _roll_back(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.RollBackRequest, data)
        revision = await self._administration.roll_back(request.model, request.revision)
        return pb.RollBackResponse(revision=revision).SerializeToString()

    async def _pin(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.PinRequest, data)
        serving = self._agent.course(request.model).state.serving if not request.revision else None
        revision = serving.revision if serving else request.revision
        if revision < 1:
            text = f"model {request.model[:64]!r} serves no revision that it could be pinned to"
            raise EdgedError(Code.INVALID_ARGUMENT, text, "name a revision")
        await self._administration.pin(request.model, revision, "pin")
        return pb.PinResponse(revision=revision).SerializeToString()

    async def _unpin(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.UnpinRequest, data)
        await self._administration.unpin(request.model)
        return pb.UnpinResponse().SerializeToString()

    async def _list_quarantine(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        decode(pb.ListQuarantineRequest, data)
        ledger = self._agent.shop.ledger
        found = await ledger.do(ledger.journal.quarantined)
        return pb.ListQuarantineResponse(quarantined=map(self._quarantined, found.values())).SerializeToString()

    async def _release_quarantine(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.ReleaseQuarantineRequest, data)
        if not request.name:
            raise EdgedError(Code.INVALID_ARGUMENT, "no name was given", "name a quarantine, or a model")
        released = await self._administration.release(request.name)
        return pb.ReleaseQuarantineResponse(released=map(self._quarantined, released)).SerializeToString()

    async def _hold_updates(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.HoldUpdatesRequest, data)
        longest_s = self._agent.shop.settings.hold_max_s
        if not 1 <= request.seconds <= longest_s:
            text = f"a hold of {request.seconds} s is not allowed"
            raise EdgedError(
                Code.INVALID_ARGUMENT, text, f"ask for 1 to {longest_s:g} s (update.hold_max_s), and renew it"
            )
        if request.model:
            self._agent.check_model(request.model)
        owner = request.owner[:128] or "an application"
        lease = await self._agent.holds.take(owner, request.model, request.seconds, request.lease)
        return pb.HoldUpdatesResponse(lease=lease.id, seconds=request.seconds).SerializeToString()

    async def _release_hold(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.ReleaseHoldRequest, data)
        released = await self._agent.holds.release(request.lease)
        await self._agent.reconsider()
        return pb.ReleaseHoldResponse(released=released).SerializeToString()

    async def _get_store(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        request = decode(pb.GetStoreRequest, data)
        if request.repair:
            held = await asyncio.shield(self._repair())
        else:
            held = await inventory.store(self._agent, verify=request.verify, repair=False)
        return _filled(pb.Store, held).SerializeToString()

    def _repair(self) -> asyncio.Task[inventory.Held]:
        """The repair that is under way: what it has taken out it fetches again, though who asked gives up."""
        if self._repairing is None or self._repairing.done():
            work = inventory.store(self._agent, verify=True, repair=True)
            self._repairing = asyncio.create_task(work, name="repair of the store")
            self._repairing.add_done_callback(lambda task: task.cancelled() or task.exception())  # told to who waits
        return self._repairing

    def _status(self) -> pb.UpdatesStatus:
        agent = self._agent
        return pb.UpdatesStatus(
            models=[self._model(course) for _, course in sorted(agent.courses.items())],
            repository=agent.shop.settings.repository,
            last_look=agent.looking.last_look,
            busy=agent.busy,
            journal_problem=agent.shop.ledger.journal.problem,
            fetcher_lacks=agent.looking.heard.lacks,
        )

    def _model(self, course: Course) -> pb.ModelUpdate:
        state, progress = course.state, course.stages.progress
        decision, pin = self._agent.decisions.get(state.model), self._agent.pins.get(state.model)
        return pb.ModelUpdate(
            model=state.model,
            phase=state.phase,
            serving=state.serving.revision if state.serving else 0,
            previous=state.previous.revision if state.previous else 0,
            target=state.target.revision if state.target else 0,
            cause=state.cause,
            deferred=state.deferred,
            text=course.text,
            decision=decision.why if decision else "",
            refused=bool(decision and decision.refused),
            attempts=state.attempts,
            crashes=state.crashes,
            pinned=pin.revision if pin else 0,
            total_bytes=progress.get("total", 0),
            swaps=state.swaps or (course.stages.foreseen if state.target else ""),
            done_bytes=sum(progress.get(part, 0) for part in ("kept", "copied", "fetched")),
        )

    def _quarantined(self, found: Quarantined) -> pb.Quarantined:
        key = found.key
        return pb.Quarantined(
            name=key.name,
            model=found.model,
            revision=found.revision,
            digest=key.digest,
            variant=key.variant,
            runtime=key.runtime,
            driver=key.driver,
            os_image=key.os_image,
            reason=found.reason,
            text=found.text,
            at=_timestamp(found.at),
            holds=self._agent.shop.environment.holds(found),
        )


def _transition(found: Transition) -> pb.Transition:
    made = pb.Transition(
        sequence=found.sequence,
        at=_timestamp(found.at),
        model=found.model,
        revision=found.revision,
        before=found.before,
        event=found.event,
        after=found.after,
        cause=found.cause,
        reason=found.reason,
        text=found.text,
    )
    made.evidence.update(found.evidence)
    return made


def _filled(kind: type[pb.Store], content: msgspec.Struct) -> Message:
    """A message of the fields that a struct of the same names has."""
    return json_format.ParseDict(msgspec.to_builtins(content), kind())


def _timestamp(at: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(at)
    return found
