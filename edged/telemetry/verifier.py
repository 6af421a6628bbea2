"""The front's side of verifying: one child for each command, told what to hold it against, and believed or not."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec

from edged.telemetry.commands import Context, Rejection, Verdict
from edged.telemetry.verify import Asked
from edged.worker.child import spawn

_VERIFY_S = 10.0
_MAX_VERDICT_BYTES = 128 * 1024


class Verifier:
    """Has commands verified."""

    def __init__(self, operators: Path) -> None:
        """`operators` is the file that says who may command."""
        self._operators = operators

    async def verify(self, data: bytes, context: Context) -> Verdict:
        """What the child says of a command."""
        asked = msgspec.json.encode(Asked(data, context, str(self._operators)))
        mine, other = socket.socketpair()
        with mine:
            mine.setblocking(False)
            with other:
                try:
                    child = spawn("edged.telemetry.verify", [str(other.fileno())], {}, [other.fileno()])
                except OSError as error:
                    return Verdict(code=Rejection.NOT_VERIFIED, text=f"no process could be made: {error.strerror}")
            try:
                async with asyncio.timeout(_VERIFY_S):
                    answer = await _exchange(mine, asked)
                return msgspec.json.decode(answer, type=Verdict)
            except (OSError, TimeoutError, msgspec.MsgspecError):
                ended = await child.stop(0)
                return Verdict(code=Rejection.NOT_VERIFIED, text=f"it could not be verified: {ended.text}")
            finally:
                await child.stop(_VERIFY_S)


async def _exchange(link: socket.socket, asked: bytes) -> bytes:
    """Sends all of `asked`, and reads the answer to its end. Raises OSError."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(link, asked)
    link.shutdown(socket.SHUT_WR)
    answer = b""
    while part := await loop.sock_recv(link, 65536):
        answer += part
        if len(answer) > _MAX_VERDICT_BYTES:
            raise OSError("the child says too much")
    return answer
