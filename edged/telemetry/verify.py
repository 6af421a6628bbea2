"""The child that reads commands: one command, one process, which then ends with all that it parsed.

    python -I -m edged.telemetry.verify DESCRIPTOR

DESCRIPTOR is a stream socket: a JSON `Asked` comes until its end, a JSON `Verdict` goes back.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
from pathlib import Path

import msgspec

from edged.telemetry.commands import Context, judge
from edged.types import Operators

MAX_ASKED_BYTES = 256 * 1024

_MAX_OPERATORS_BYTES = 2**20

_CPU_S = 5
_MEMORY_BYTES = 512 * 2**20


class Asked(msgspec.Struct, frozen=True):
    """A command as it came, and what it is held against."""

    data: bytes
    context: Context
    operators: str
    """The file that says who may command: a signed target, which the update brought."""


def verify(key: str, signature: bytes, signed: bytes) -> bool:
    """Whether the ed25519 key, in hex, has made `signature`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def read_operators(path: Path) -> Operators | None:
    """Who may command; None where the file is not there, or is none."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_OPERATORS_BYTES), type=Operators)
    except (OSError, msgspec.MsgspecError):
        return None


def main() -> None:
    """Judges the one command."""
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=int(sys.argv[1])) as link:
        os.set_inheritable(link.fileno(), False)
        data = b""
        while len(data) <= MAX_ASKED_BYTES and (part := link.recv(65536)):
            data += part
        asked = msgspec.json.decode(data, type=Asked)
        context = msgspec.structs.replace(asked.context, operators=read_operators(Path(asked.operators)))
        link.sendall(msgspec.json.encode(judge(asked.data, context, verify)))


if __name__ == "__main__":
    main()
