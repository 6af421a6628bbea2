"""The worker's main program: loads one variant of one revision and answers what comes over the link.

Started as `python -I -B -m edged.worker.host DAEMON LINK ARENA REGIONS`, or forked by a template. It ends when the
link does.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from edged.errors import EdgedError
from edged.worker import sandbox
from edged.worker.arena import Window
from edged.worker.build import build
from edged.worker.inbox import Inbox
from edged.worker.landlock import READ, Access
from edged.worker.messages import (
    PREFIX,
    Build,
    Derived,
    FromWorker,
    Infer,
    Load,
    RunShadow,
    ToWorker,
    Unmap,
    Unmapped,
)
from edged.worker.model import Model, failed
from edged.worker.regions import Mappings
from edged.worker.sandbox import Confined
from edged.worker.tie import tie_to

# proc(5): from -1000 (never) to 1000 (first).
_OOM_SCORE_ADJ = "500"

Confine = Callable[[str, str, str, Mapping[str, Access]], Confined]

_decoder = msgspec.msgpack.Decoder(ToWorker)
_encoder = msgspec.msgpack.Encoder()


def _send(link: socket.socket, message: FromWorker, body: Sequence[memoryview | bytes] = ()) -> None:
    head = _encoder.encode(message)
    parts: list[memoryview | bytes] = [PREFIX.pack(len(head), sum(map(len, body))) + head, *body]
    while parts:
        sent = link.sendmsg(parts[:64])
        while parts and sent >= len(parts[0]):
            sent -= len(parts.pop(0))
        if sent:
            parts[0] = memoryview(parts[0])[sent:]


def serve(link: socket.socket, arena: Window, regions: Mappings, confine: Confine) -> None:
    """Answers what comes over the link until it ends; before a model is opened it confines itself."""
    model: Model | None = None
    inbox = Inbox(link)
    while frame := inbox.read():
        head, body = frame
        message = _decoder.decode(head)
        try:
            if isinstance(message, Load):
                source = message.source
                holds, lacks = confine(source.folder, source.runtime, source.options.device, _to_read(message.derived))
                model = Model(message)
                _send(link, msgspec.structs.replace(model.loaded, sandbox=holds, sandbox_lacks=lacks))
            elif isinstance(message, Build):
                source, more = message.source, {message.output: Access.WRITE_FILE}
                confine(source.folder, source.runtime, source.options.device, more)
                _send(link, build(message))
            elif isinstance(message, Unmap):
                if regions.drop(message.region) and model is not None:
                    model.let_go()
                _send(link, Unmapped())
            elif model is None:
                raise SystemExit("asked for answers before a model was loaded")
            elif isinstance(message, Infer):
                answered, bodies = model.infer(message, body, arena, regions)
                _send(link, answered, bodies)
            elif isinstance(message, RunShadow):
                _send(link, model.shadow(message, body))
            else:
                _send(link, model.golden(message))
        except EdgedError as error:
            _send(link, failed(error))


def _to_read(derived: Derived | None) -> Mapping[str, Access]:
    """Of what was built on this device, its own file alone; the folder is opened on the way to it."""
    if derived is None:
        return {}
    return {derived.folder: Access.READ_DIR, f"{derived.folder}/{derived.file.path}": READ}


def close_all_but(*kept: int) -> None:
    """Closes what the front itself had inherited, and so could not keep from its children."""
    for path in Path("/proc/self/fd").iterdir():
        descriptor = int(path.name)
        if descriptor > 2 and descriptor not in kept:
            with contextlib.suppress(OSError):  # the one that read the folder is closed already
                os.close(descriptor)


def run(descriptor: int, arena: int, regions: int) -> None:
    """Serves the link until it ends."""
    close_all_but(descriptor, arena, regions)
    os.dup2(2, 1)  # what an engine prints belongs into the log
    os.chdir("/")
    _be_first_to_go()
    with (
        socket.socket(fileno=descriptor) as link,
        socket.socket(fileno=regions) as control,
        contextlib.suppress(ConnectionError),
    ):
        link.set_inheritable(False)
        control.set_inheritable(False)
        control.setblocking(False)
        serve(link, Window(arena), Mappings(control), sandbox.confine)


def _be_first_to_go() -> None:
    """Where the kernel must end somebody for want of memory, a worker is worth less than the front."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE_ADJ, encoding="ascii")


def main() -> None:
    """Ties this process to its parent, then serves."""
    daemon, *descriptors = map(int, sys.argv[1:])
    tie_to(daemon)
    run(*descriptors)


if __name__ == "__main__":
    main()
