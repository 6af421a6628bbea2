"""What values of the settings must keep to together, or beyond what a type can say."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import PurePath

import msgspec

from edged import schema
from edged.config import address
from edged.config.settings import Settings, beneath

# sun_path in unix(7) holds 108 bytes, the last of them zero.
MAX_SOCKET_PATH_BYTES = 107

_TLS = ("tls_certificate", "tls_key", "tls_client_ca")


class Objection(msgspec.Struct, frozen=True, kw_only=True):
    """Values that cannot stand."""

    keys: tuple[str, ...]
    """Those at fault: the one given last is the one to show."""
    with_keys: tuple[str, ...] = ()
    """Further ones that the verdict rests on."""
    found: str
    remedy: str

    @property
    def alone(self) -> bool:
        """One value is wrong whatever the others are."""
        return len(self.keys) == 1 and not self.with_keys


def objections(settings: Settings, root: PurePath) -> Iterator[Objection]:
    """Everything that is wrong with `settings` when their paths are used below `root`."""
    yield from _sockets(settings, root)
    yield from _tcp(settings)
    yield from _metrics(settings)
    yield from _broker(settings)
    for one, other in combinations(("state", "cache", "factory"), 2):
        folder = PurePath(getattr(settings.paths, one))
        if folder == PurePath(getattr(settings.paths, other)):
            yield Objection(
                keys=(f"paths.{one}", f"paths.{other}"),
                found=f"{one} and {other} are both {schema.show(str(folder))}",
                remedy="give each a folder of its own",
            )
    low, high = settings.workers.restart_min_s, settings.workers.restart_max_s
    if low > high:
        yield Objection(
            keys=("workers.restart_min_s", "workers.restart_max_s"),
            found=f"restart_min_s is {low}, above restart_max_s, which is {high}",
            remedy="raise restart_max_s or lower restart_min_s",
        )


def _sockets(settings: Settings, root: PurePath) -> Iterator[Objection]:
    both = (PurePath(settings.listen.socket), PurePath(settings.listen.admin_socket))
    for name, path in zip(("socket", "admin_socket"), both, strict=True):
        whole = beneath(root, str(path))
        length = len(whole.encode("utf-8", "surrogateescape"))
        if length > MAX_SOCKET_PATH_BYTES:
            yield Objection(
                keys=(f"listen.{name}",),
                found=f"{schema.show(whole)} is {length} bytes long",
                remedy=f"allowed: a socket's path of at most {MAX_SOCKET_PATH_BYTES} bytes, --root counted",
            )
    if both[0].parent == both[1].parent:
        where = "are both" if both[0] == both[1] else "stand in one folder,"
        shared = both[0] if both[0] == both[1] else both[0].parent
        yield Objection(
            keys=("listen.socket", "listen.admin_socket"),
            found=f"socket and admin_socket {where} {schema.show(str(shared))}",
            remedy="give admin_socket a folder of its own: the folder's group decides who may administer",
        )


def _broker(settings: Settings) -> Iterator[Objection]:
    broker = settings.mqtt.broker
    if not broker:
        return
    try:
        place = address.broker(broker)
    except ValueError as error:
        yield Objection(
            keys=("mqtt.broker",),
            found=f"{schema.show(broker)} {error}",
            remedy='allowed: a URL such as "mqtts://broker.example:8883"',
        )
        return
    if not place.tls and not place.loopback:
        yield Objection(
            keys=("mqtt.broker",),
            found=f"{schema.show(broker)} would be spoken to in the open",
            remedy="use mqtts://, or a broker on this device",
        )


def _tcp(settings: Settings) -> Iterator[Objection]:
    listen = settings.listen
    given = [name for name in _TLS if getattr(listen, name)]
    missing = [name for name in _TLS if name not in given]
    if given and missing:
        yield Objection(
            keys=tuple(f"listen.{name}" for name in given),
            with_keys=tuple(f"listen.{name}" for name in missing),
            found=f"{' and '.join(given)} set, but not {' and '.join(missing)}",
            remedy="set all three or none",
        )
    if not listen.tcp:
        return
    try:
        reachable = not address.parse(listen.tcp).loopback
    except ValueError as error:
        yield Objection(
            keys=("listen.tcp",),
            found=f"{schema.show(listen.tcp)} {error}",
            remedy='allowed: IP:port with a port from 1 to 65535, such as "127.0.0.1:8001" or "[::1]:8001"',
        )
        return
    if reachable and not given:
        yield Objection(
            keys=("listen.tcp",),
            with_keys=tuple(f"listen.{name}" for name in _TLS),
            found=f"{schema.show(listen.tcp)} can be reached from other machines",
            remedy=f"set {', '.join(_TLS)} as well, or listen on 127.0.0.1",
        )


def _metrics(settings: Settings) -> Iterator[Objection]:
    """They tell of everything that runs here, to whoever asks: never to other machines."""
    listen = settings.listen
    if not listen.metrics:
        return
    remedy = 'allowed: IP:port of loopback with a port from 1 to 65535, such as "127.0.0.1:9464" or "[::1]:9464"'
    try:
        loopback = address.parse(listen.metrics).loopback
        found = "" if loopback else "can be reached from other machines, and metrics are for this device alone"
    except ValueError as error:
        found = str(error)
    if found:
        yield Objection(keys=("listen.metrics",), found=f"{schema.show(listen.metrics)} {found}", remedy=remedy)
    elif listen.tcp == listen.metrics:
        yield Objection(
            keys=("listen.tcp", "listen.metrics"),
            found=f"tcp and metrics are both {schema.show(listen.tcp)}",
            remedy="give each a port of its own",
        )
