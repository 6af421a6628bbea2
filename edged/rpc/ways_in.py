"""The ways in: the socket of applications, TCP where asked for, the socket of administrators; each a server of its own.

grpc offers all services of one server on all its addresses, and what is offered differs from way to way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edged.changes import Changes
from edged.config.settings import Listen
from edged.events import EventLog
from edged.rpc import health, inference, reflection, repository
from edged.rpc.log_settings import LogSettings
from edged.rpc.server import Methods, Server, Tls
from edged.serving.repository import Repository
from edged.serving.service import Service

# What calls under way get once the requests they carried are answered or given up.
_CLOSE_S = 1.0


class Offer(msgspec.Struct, frozen=True):
    """What stands behind the calls."""

    service: Service
    repository: Repository
    events: EventLog
    changes: Changes
    administration: Mapping[str, Methods]
    """Services for administrators alone, by name."""


def servers(
    offer: Offer, listen: Listen, stack: contextlib.AsyncExitStack, *, administrators_only: bool
) -> dict[str, Server]:
    """The servers by their address as clients write it, not yet started; stopped with `stack`.

    Raises EdgedError (cannot_listen).
    """
    made: dict[str, Server] = {}

    def make(address: str, services: Mapping[str, Methods]) -> Server:
        server = made[address] = _server(offer, services, listen)
        stack.push_async_callback(server.stop, _CLOSE_S)
        return server

    if administrators_only:
        Path(listen.socket).unlink(missing_ok=True)  # the one of a crashed daemon, at which callers would wait
    else:
        public = _protocol(offer, listen, listen.socket_priority)
        make(f"unix:{listen.socket}", public).add_socket(Path(listen.socket))
    make(f"unix:{listen.admin_socket}", _administration(offer, listen)).add_socket(Path(listen.admin_socket))
    if listen.tcp and not administrators_only:
        remote = _protocol(offer, listen, listen.tcp_priority, socket=listen.socket)
        make(listen.tcp, remote).add_tcp(listen.tcp, _tls(listen))
    return made


def _protocol(offer: Offer, listen: Listen, best_priority: int, *, socket: str = "") -> dict[str, Methods]:
    """What applications are offered; `socket`: where they may share memory instead; empty: here."""
    return {
        inference.SERVICE: {
            **inference.Inference(offer.service, listen.max_message_bytes, best_priority, socket=socket).methods(),
            **repository.elsewhere(listen.admin_socket),
            **LogSettings(offer.events, admin_socket=listen.admin_socket).methods(),
        }
    }


def _administration(offer: Offer, listen: Listen) -> dict[str, Methods]:
    """What administrators are offered."""
    return {
        inference.SERVICE: {
            **inference.Inference(offer.service, listen.max_message_bytes).methods(),
            **repository.RepositoryCalls(offer.repository).methods(),
            **LogSettings(offer.events, admin_socket="").methods(),
        },
        **offer.administration,
    }


def _server(offer: Offer, services: Mapping[str, Methods], listen: Listen) -> Server:
    names = [*services, health.SERVICE]
    offered = {
        **services,
        health.SERVICE: health.Health(offer.service, offer.changes, names).methods(),
        **{name: reflection.methods(names) for name in reflection.SERVICES},
    }
    return Server(offered, listen.max_message_bytes)


def _tls(listen: Listen) -> Tls | None:
    if not listen.tls_certificate:
        return None
    return Tls(Path(listen.tls_certificate), Path(listen.tls_key), Path(listen.tls_client_ca))
