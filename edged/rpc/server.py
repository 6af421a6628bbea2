"""gRPC servers: methods over raw bytes, errors as statuses, sockets that appear whole.

Messages are decoded here and not by grpc, which answers INTERNAL where the bytes are no message.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from edged import durable, log
from edged.errors import Code, EdgedError
from edged.rpc.status import CODE_KEY, STATUS

# Who may connect is the folder's business and the group's; everybody else is kept out.
_SOCKET_MODE = 0o660

# Folders in which sockets are made, beside their final place.
_BIND_PREFIX = ".bind-"

# gRPC's limit on the headers of a message is 8 KiB, and a longer status is lost altogether. These are bytes of UTF-8,
# three of which each byte takes there that is not ASCII.
_MAX_DETAILS = 2048

# Calls and streams under way at once, on one server; grpc refuses further ones with RESOURCE_EXHAUSTED. More than one
# process can take with all its connections, far above what queues hold, far below what would fill the memory.
_MAX_CALLS = 5120

# Of these so many on one connection: a client that opens more has them wait at its own end. It bounds what one
# connection can hold of ours when its answers are not read.
_MAX_CALLS_PER_CONNECTION = 256

# Connections at once, to one server; further ones are closed. `connections` sees to it that one process does not take
# them all.
_MAX_CONNECTIONS = 256

# A message that is a little too long comes through all the same, to be refused with a code and advice; what is longer
# grpc turns away, which says neither.
_MESSAGE_MARGIN_BYTES = 16 * 1024 * 1024

# Asked of clients that have a retry policy: to wait so long when the queue was full, and not to try the same again
# where the status is the same and nothing would change (gRPC's proposal A6: below 0).
_PUSHBACK_MS = {Code.OVERLOADED: "100", Code.MESSAGE_TOO_LARGE: "-1"}

Unary = Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]
Stream = Callable[[bytes, grpc.aio.ServicerContext], AsyncIterator[bytes]]
Chat = Callable[[AsyncIterator[bytes], grpc.aio.ServicerContext], AsyncIterator[bytes]]
Duplex = Callable[[AsyncIterator[bytes], grpc.aio.ServicerContext], Awaitable[None]]

Methods = Mapping[str, grpc.RpcMethodHandler]

_Message = TypeVar("_Message", bound=Message)
_log = log.get("rpc")


def decode(kind: type[_Message], data: bytes) -> _Message:
    """The message that `data` holds. Raises EdgedError (malformed_request)."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        name = kind.DESCRIPTOR.full_name
        raise EdgedError(
            Code.MALFORMED_REQUEST, f"the request is no {name}", "is the client's protocol the same?"
        ) from error


class _Refusal(NamedTuple):
    """What a caller is told whose request is refused.

    gRPC keeps the frame that refuses, until garbage is collected: what it is told is made of the error first, whose own
    frames hold the request, and what it has of the request it lets go.
    """

    status: grpc.StatusCode
    details: str
    trailing: tuple[tuple[str, str], ...]


def unary(method: Unary) -> grpc.RpcMethodHandler:
    """A method of one request and one reply."""

    async def call(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            return await method(data, context)
        except EdgedError as error:
            refusal = _refusal(error)
        except Exception:  # noqa: BLE001 - answered as a defect, and logged
            refusal = _refusal(unexpected())
        del data
        return await _abort(context, refusal)

    return grpc.unary_unary_rpc_method_handler(call)


def stream(method: Stream) -> grpc.RpcMethodHandler:
    """A method of one request and many replies."""

    async def call(data: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        try:
            async for reply in method(data, context):
                yield reply
        except EdgedError as error:
            refusal = _refusal(error)
        except Exception:  # noqa: BLE001 - answered as a defect, and logged
            refusal = _refusal(unexpected())
        else:
            return
        del data
        await _abort(context, refusal)

    return grpc.unary_stream_rpc_method_handler(call)


def chat(method: Chat) -> grpc.RpcMethodHandler:
    """A method of many requests and many replies."""

    async def call(data: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        try:
            async for reply in method(data, context):
                yield reply
        except EdgedError as error:
            refusal = _refusal(error)
        except Exception:  # noqa: BLE001 - answered as a defect, and logged
            refusal = _refusal(unexpected())
        else:
            return
        await _abort(context, refusal)

    return grpc.stream_stream_rpc_method_handler(call)


def duplex(method: Duplex) -> grpc.RpcMethodHandler:
    """A method of many requests and many replies that writes its replies itself, to the context."""

    async def call(data: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        try:
            await method(data, context)
        except EdgedError as error:
            refusal = _refusal(error)
        except Exception:  # noqa: BLE001 - answered as a defect, and logged
            refusal = _refusal(unexpected())
        else:
            return
        await _abort(context, refusal)

    return grpc.stream_stream_rpc_method_handler(call)


def unexpected() -> EdgedError:
    """What a caller is told whose request met a defect; logged with the exception that is being handled."""
    _log.exception("a request met a defect of edged")
    return EdgedError(Code.INTERNAL, "a defect of edged; its log says more", "please report it")


def _refusal(error: EdgedError) -> _Refusal:
    trailing = [(CODE_KEY, error.code.value)]
    if (pushback_ms := _PUSHBACK_MS.get(error.code)) is not None:
        trailing.append(("grpc-retry-pushback-ms", pushback_ms))
    details = str(error).encode(errors="replace")
    if len(details) > _MAX_DETAILS:
        details = details[:_MAX_DETAILS] + "…".encode()
    return _Refusal(STATUS[error.code], details.decode(errors="ignore"), tuple(trailing))


async def _abort(context: grpc.aio.ServicerContext, refusal: _Refusal) -> bytes:
    await context.abort(*refusal)
    raise AssertionError("unreachable: abort raises")


class Tls:
    """What a TCP address beyond loopback demands: our certificate and key, and the CA of the clients' ones."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path) -> None:
        """Reads the files. Raises EdgedError (cannot_listen) naming one that cannot be read or used.

        grpc says neither which file is wrong nor, where it is the clients' authorities that are missing, that one is.
        """
        contents = []
        for path in (key, certificate, client_ca):
            try:
                contents.append(path.read_bytes())
            except OSError as error:
                raise _unusable(path, f"cannot be read: {error.strerror}") from error
        for path, content in ((certificate, contents[1]), (client_ca, contents[2])):
            if not _holds_certificates(content):
                raise _unusable(path, "holds no certificate in PEM form")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            raise _unusable(key, f"is no private key in PEM form that belongs to {certificate}") from error
        pair, self._client_ca = (contents[0], contents[1]), contents[2]
        self._pairs = [pair]

    def credentials(self) -> grpc.ServerCredentials:
        """Mutual TLS."""
        return grpc.ssl_server_credentials(self._pairs, self._client_ca, require_client_auth=True)


def _holds_certificates(content: bytes) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata=content.decode("ascii", "ignore"))
    except (OSError, ValueError):
        return False
    return context.cert_store_stats()["x509"] > 0


def _unusable(path: Path, why: str) -> EdgedError:
    return EdgedError(Code.CANNOT_LISTEN, f"{path} {why}", "see tls_certificate, tls_key and tls_client_ca in [listen]")


class Server:
    """One gRPC server with services of its own: what it offers, it offers on all its addresses."""

    def __init__(self, services: Mapping[str, Methods], max_message_bytes: int) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes + _MESSAGE_MARGIN_BYTES),
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_concurrent_streams", _MAX_CALLS_PER_CONNECTION),
                # With it grpc resets calls at random near that number, which clients see as UNAVAILABLE.
                ("grpc.http.overload_protection", 0),
                ("grpc.max_allowed_incoming_connections", _MAX_CONNECTIONS),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=_MAX_CALLS,
        )
        for name, methods in services.items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, dict(methods)),))
        self.bound: list[str] = []
        """The addresses of its Unix sockets, as the kernel knows them."""
        self._sockets: list[tuple[Path, Path]] = []
        self._placed: list[tuple[Path, int]] = []
        self._bind_folders = contextlib.ExitStack()

    def add_socket(self, path: Path) -> None:
        """Listens on a Unix socket, which appears at `path` when the server has started.

        grpc makes sockets that everybody may connect to. So it is bound in a folder that nobody else may enter, and
        renamed into place with its mode and its folder's group set. The bind goes by a descriptor: the folder's name
        may be too long for a socket's address. Raises EdgedError (cannot_listen).
        """
        try:
            folder = Path(tempfile.mkdtemp(prefix=_BIND_PREFIX, dir=path.parent))
            self._bind_folders.callback(_remove_folder, folder)
            descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            # Open until the end: grpc removes its socket by this name then, which must lead nowhere else.
            self._bind_folders.callback(os.close, descriptor)
            bound = f"/proc/self/fd/{descriptor}/s"
            self._server.add_insecure_port(f"unix:{bound}")
        except (OSError, RuntimeError) as error:
            raise EdgedError(
                Code.CANNOT_LISTEN, f"{path} cannot be made: {error}", "check who may write to its folder"
            ) from error
        self.bound.append(bound)
        self._sockets.append((folder / "s", path))

    def add_tcp(self, address: str, tls: Tls | None) -> None:
        """Listens on `address` (IP:port). Raises EdgedError (cannot_listen)."""
        try:
            if tls is None:
                self._server.add_insecure_port(address)
            else:
                self._server.add_secure_port(address, tls.credentials())
        except RuntimeError as error:
            raise EdgedError(
                Code.CANNOT_LISTEN,
                f"{address} cannot be listened on",
                "is it in use, or not an address of this device?",
            ) from error

    async def start(self) -> None:
        """Begins to answer, then shows the sockets. Raises EdgedError (cannot_listen)."""
        await self._server.start()
        for made, path in self._sockets:
            try:
                made.chmod(_SOCKET_MODE)
                group = path.parent.stat().st_gid
                if made.stat().st_gid != group:
                    os.chown(made, -1, group)
                self._placed.append((path, made.stat().st_ino))
                durable.place(made, path)
            except OSError as error:
                raise EdgedError(
                    Code.CANNOT_LISTEN,
                    f"{path} cannot be put in place: {error.strerror}",
                    "check who owns its folder",
                ) from error
            _remove_folder(made.parent)

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls, gives those under way `grace_s` seconds, and takes the sockets away."""
        await self._server.stop(grace_s)
        for path, inode in self._placed:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:
                    path.unlink()
        self._placed.clear()
        self._bind_folders.close()


def remove_leftovers(folder: Path) -> None:
    """Removes what a daemon left in `folder` that was killed as it started. Only for the holder of its lock."""
    for left in folder.glob(f"{_BIND_PREFIX}*"):
        _remove_folder(left)


def _remove_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        (folder / "s").unlink(missing_ok=True)
        folder.rmdir()
