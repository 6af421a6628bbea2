"""Triton's repository calls: which revisions are here, and loading and unloading them. For the admin socket alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import grpc

from edged._pb.inference import grpc_service_pb2 as pb
from edged.errors import Code, EdgedError
from edged.models.resident import Resident
from edged.models.routes import parse_version
from edged.models.states import State
from edged.rpc.server import Methods, decode, unary
from edged.serving.repository import Repository

_CALLS = ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")

# Triton has four words for where a model stands.
_STATES = {
    State.LOADING: "LOADING",
    State.READY: "READY",
    State.FAILED: "UNAVAILABLE",
    State.UNLOADING: "UNLOADING",
    State.UNAVAILABLE: "UNAVAILABLE",
}

_REVISION = "revision"
_DEPENDENTS = "unload_dependents"


class RepositoryCalls:
    """The calls `Repository…`."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def methods(self) -> Methods:
        """The calls by name."""
        return dict(zip(_CALLS, (unary(self._index), unary(self._load), unary(self._unload)), strict=True))

    async def _index(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        asked = decode(pb.RepositoryIndexRequest, data)
        _refuse_repository(asked.repository_name)
        found = (each for each in self._repository.known() if each.ready or not asked.ready)
        return pb.RepositoryIndexResponse(models=map(_entry, found)).SerializeToString()

    async def _load(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        asked = decode(pb.RepositoryModelLoadRequest, data)
        _refuse_repository(asked.repository_name)
        _refuse_others(asked.parameters, _REVISION)
        await self._repository.load(asked.model_name, _revision(asked.model_name, asked.parameters))
        return pb.RepositoryModelLoadResponse().SerializeToString()

    async def _unload(self, data: bytes, _: grpc.aio.ServicerContext) -> bytes:
        asked = decode(pb.RepositoryModelUnloadRequest, data)
        _refuse_repository(asked.repository_name)
        _refuse_others(asked.parameters, _DEPENDENTS)  # no model here depends on another
        await self._repository.unload(asked.model_name)
        return pb.RepositoryModelUnloadResponse().SerializeToString()


def elsewhere(admin_socket: str) -> Methods:
    """What answers these calls where they are not offered."""

    def refused(name: str) -> grpc.RpcMethodHandler:
        async def call(_: bytes, __: grpc.aio.ServicerContext) -> bytes:
            hint = f"ask {admin_socket}; `edgectl load` and `edgectl unload` do"
            raise EdgedError(Code.NOT_PERMITTED, f"{name} is answered on the admin socket only", hint)

        return unary(call)

    return {name: refused(name) for name in _CALLS}


def _entry(resident: Resident) -> pb.RepositoryIndexResponse.ModelIndex:
    return pb.RepositoryIndexResponse.ModelIndex(
        name=resident.name,
        version=str(resident.revision),
        state=_STATES[resident.state],
        reason=resident.reason,
    )


def _refuse_repository(name: str) -> None:
    if name:
        raise EdgedError(
            Code.UNSUPPORTED, "repository_name is not supported", "leave it empty: there is one repository"
        )


def _refuse_others(parameters: Iterable[str], known: str) -> None:
    """Files and configurations are a bundle's, and its signature covers them: a load cannot bring others."""
    for name in parameters:
        if name != known:
            hint = f"leave it out; {known!r} is the one that is"
            raise EdgedError(Code.UNSUPPORTED, f"parameter {name[:64]!r} is not supported", hint)


def _revision(model: str, parameters: Mapping[str, pb.ModelRepositoryParameter]) -> int | None:
    """The revision that a load asks for, a number or one in text; None: none is named. Raises EdgedError."""
    if _REVISION not in parameters:
        return None
    value = parameters[_REVISION]
    choice = value.WhichOneof("parameter_choice")
    if choice not in ("int64_param", "string_param"):
        raise EdgedError(Code.INVALID_ARGUMENT, f"parameter {_REVISION!r} is no number", "give one such as 7")
    return parse_version(model, str(getattr(value, choice)))
