"""TCP addresses as settings name them: those to listen on are an IP address and a port, never a host name."""

from __future__ import annotations

import ipaddress
import re

import msgspec


class Address(msgspec.Struct, frozen=True):
    """An IP address without brackets, and a port."""

    host: str
    port: int
    loopback: bool
    """No other machine can reach it."""


def parse(text: str) -> Address:
    """`127.0.0.1:8001` or `[::1]:8001`. Raises ValueError, saying what is wrong with it."""
    host, colon, port = text.rpartition(":")
    if not colon or not port or host.count("[") != host.count("]"):
        raise ValueError("names no port")
    if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError(f"has {port} for a port")
    try:
        if host.startswith("[") and host.endswith("]"):
            ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.IPv6Address(host[1:-1])
        else:
            ip = ipaddress.IPv4Address(host)
    except ValueError:
        raise ValueError(f"has {host} for an IP address" if host else "names no IP address") from None
    return Address(str(ip), int(port), ip.is_loopback)


class Broker(msgspec.Struct, frozen=True):
    """Where an MQTT broker listens. Its host may be a name: it is looked up when it is called, off the loop."""

    host: str
    port: int
    tls: bool
    loopback: bool


_PORTS = {"mqtt": 1883, "mqtts": 8883}


def broker(text: str) -> Broker:
    """`mqtts://broker.example`, with a port where it is not 8883. Raises ValueError, saying what is wrong with it."""
    scheme, _, place = text.partition("://")
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[0-9A-Za-z._-]+)(?::([0-9]{1,5}))?", place)
    if scheme not in _PORTS or not found:
        raise ValueError("is no broker's URL")
    port = int(found[2]) if found[2] else _PORTS[scheme]
    if not 1 <= port <= 65535:
        raise ValueError(f"has {port} for a port")
    host = found[1].strip("[]")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return Broker(host, port, scheme == "mqtts", loopback)
