"""`edgectl load` and `edgectl unload`: which models have a worker, and of which revision."""

from __future__ import annotations

import click

from edged._pb.inference import grpc_service_pb2 as pb
from edged.ctl import completion, output
from edged.ctl.asked import Asked, common
from edged.ctl.numbers import REVISION


@click.command
@common
@click.argument("model", shell_complete=completion.models)
@click.option("--revision", type=REVISION, metavar="N", help="This one.  [default: the one that serves, or did last]")
@click.pass_obj
def load(asked: Asked, model: str, revision: int | None) -> None:
    """Have a model serve.

    A revision that is on this device is loaded beside the one that serves and takes its place when it is ready; no
    request is refused meanwhile. Where it does not load, the other serves on. It holds until edged is started again.

    edged goes on even if edgectl gives up waiting; --timeout says how long that may take.
    """
    from edged.ctl.client import Client

    with Client(asked, admin=True) as client:
        client.load(model, revision)
        _tell(asked, client.index(), model)


@click.command
@common
@click.argument("model", shell_complete=completion.models)
@click.pass_obj
def unload(asked: Asked, model: str) -> None:
    """End a model's workers; its memory goes back.

    What it has taken is answered first, and new requests are refused. It holds until `edgectl load MODEL`, or until
    edged is started again.
    """
    from edged.ctl.client import Client

    with Client(asked, admin=True) as client:
        client.unload(model)
        _tell(asked, client.index(), model)


def _tell(asked: Asked, index: pb.RepositoryIndexResponse, model: str) -> None:
    """Where the model's revisions stand now."""
    found = [each for each in index.models if each.name == model]
    if asked.as_json:
        from edged.ctl.plain import plain

        output.document({"models": [plain(each) for each in found]})
        return
    for each in found:
        why = f": {each.reason}" if each.reason else ""
        output.line(f"{each.name} revision {each.version} is {each.state.lower()}{why}")
