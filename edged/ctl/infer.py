"""`edgectl infer`: one request, made of a file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from edged._pb.inference import grpc_service_pb2 as pb
from edged.ctl import completion, output, samples
from edged.ctl.asked import Asked, common
from edged.ctl.numbers import REVISION, Number
from edged.errors import Code, EdgedError
from edged.types import Datatype, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    from edged.ctl.client import Client

    with Client(asked, admin=False) as client:
        sample = samples.read(file)
        takes = client.metadata(model, revision).inputs
        notes: list[str] = []
        arrays = samples.inputs(sample, [_spec(tensor) for tensor in takes], notes)
        for each in notes:
            output.note(each)
        request = _request(model, revision, arrays, [_spec(tensor) for tensor in takes], wanted)
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


def _spec(tensor: pb.ModelMetadataResponse.TensorMetadata) -> TensorSpec:
    if tensor.datatype not in set(Datatype):
        hint = "is edged newer than edgectl?"
        raise EdgedError(Code.UNSUPPORTED, f"input {tensor.name!r} is {tensor.datatype}, unknown to edgectl", hint)
    return TensorSpec(tensor.name, Datatype(tensor.datatype), tuple(tensor.shape))


def _request(
    model: str,
    revision: int | None,
    arrays: dict[str, NDArray[Any]],
    specs: Sequence[TensorSpec],
    wanted: Sequence[str],
) -> pb.ModelInferRequest:
    from edged.worker.codec import encode

    request = pb.ModelInferRequest(model_name=model, model_version=str(revision or ""))
    for spec in specs:
        array = arrays[spec.name]
        request.inputs.add(name=spec.name, datatype=spec.datatype.value, shape=array.shape)
        request.raw_input_contents.append(bytes(encode(array, spec.datatype)))
    for name in wanted:
        request.outputs.add(name=name)
    return request
