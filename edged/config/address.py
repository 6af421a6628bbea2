"""TCP addresses as settings name them: an IP address and a port, never a host name, so that none is ever looked up."""

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
