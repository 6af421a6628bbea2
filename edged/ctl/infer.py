"""`edgectl infer`: one request, made of a file."""

from __future__ import annotations

import time

import click

from edged.ctl import completion, output, samples
from edged.ctl.asked import Asked, common
from edged.ctl.numbers import REVISION, Number


@click.command
@common
@click.argument("model", shell_complete=completion.models)
@click.argument("file", type=click.Path(allow_dash=True))
@click.option("--revision", type=REVISION, metavar="N", help="Ask this one.  [default: that which serves]")
@click.option("--output", "wanted", multiple=True, metavar="NAME", help="Only this output; may be given again.")
@click.option(
    "--top",
    type=Number(1, 1000, whole=True),
    default=3,
    metavar="K",
    show_default=True,
    help="Show the K largest scores.",
)
@click.pass_obj
def infer(asked: Asked, model: str, file: str, revision: int | None, wanted: tuple[str, ...], top: int) -> None:
    """Ask a model, with a picture or with arrays.

    \b
    MODEL is asked once, with what is in FILE:
      .png .jpg  a picture, for a model with one input of one (grey) or three
                 (RGB) channels, first or last; it is resized where the model
                 wants another size, and sent as 0 to 255 (UINT8) or 0 to 1
      .npz       numpy arrays under the inputs' names
      .json      {"input": nested lists}, or bare lists for a single input
      -          the same JSON, from standard input

    A batch axis that is missing is added. Of an output with rows of scores the largest are shown by their index, of
    any other the first values; --json has all.
    """
    from edged.ctl import requests
    from edged.ctl.client import Client

    with Client(asked, admin=False) as client:
        sample = samples.read(file)
        takes = [requests.spec(tensor) for tensor in client.metadata(model, revision).inputs]
        notes: list[str] = []
        arrays = samples.inputs(sample, takes, notes)
        for each in notes:
            output.note(each)
        request = requests.request(model, revision, arrays, takes)
        for name in wanted:
            request.outputs.add(name=name)
        began = time.monotonic()
        response = client.infer(request)
        took_s = time.monotonic() - began
    from edged.ctl import answers

    found = answers.outputs(response)
    if asked.as_json:
        output.document(answers.data(response, found, took_s, top))
        return
    output.line(answers.who(response, took_s))
    for each_output in found:
        for text in answers.text(each_output, top):
            output.line(text)
