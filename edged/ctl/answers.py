"""What a model answered, for people and for programs. Pure."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edged._pb.inference import grpc_service_pb2 as pb
from edged.ctl.words import count, cut, safe
from edged.types import Datatype
from edged.worker import codec
from edged.worker.messages import Form

_SHOWN_VALUES = 8
_SHOWN_ROWS = 16
_SHOWN_LETTERS = 60

# Scores of classes come in these; whole numbers are more often the classes themselves.
_SCORES = (Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64, Datatype.INT8, Datatype.UINT8)


class Output(msgspec.Struct, frozen=True):
    """One output; BF16 values stand in it as float32."""

    name: str
    datatype: Datatype
    values: Any

    @property
    def has_scores(self) -> bool:
        """Whether each row is taken for the scores of classes: the protocol does not say."""
        return self.datatype in _SCORES and self.values.ndim == 2 and self.values.shape[1] > 1

    def largest(self, top: int) -> list[list[int]]:
        """For each row the indices of its `top` largest values, the largest first; NaN comes last."""
        order = np.argsort(-self.values.astype(np.float64), axis=1, kind="stable")
        found: list[list[int]] = order[:, :top].tolist()
        return found


def outputs(response: pb.ModelInferResponse) -> list[Output]:
    """The outputs of a response. Raises EdgedError when the bytes are not what their metadata says."""
    found = []
    for meta, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        datatype = Datatype(meta.datatype)
        values = codec.decode(meta.name, datatype, tuple(meta.shape), Form.RAW, memoryview(raw))
        if datatype is Datatype.BF16:  # the upper half of a float32
            values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        found.append(Output(meta.name, datatype, values))
    return found


def parameter(response: pb.ModelInferResponse, name: str) -> bool | str:
    """What the daemon says beside the outputs; empty where it says nothing."""
    value = response.parameters.get(name)
    chosen = value.WhichOneof("parameter_choice") if value is not None else None
    return getattr(value, chosen) if chosen else ""


def who(response: pb.ModelInferResponse, took_s: float) -> str:
    """Who answered, and how long it took."""
    parts = [f"revision {response.model_version}", f"variant {parameter(response, 'edged_variant') or '?'}"]
    if level := parameter(response, "edged_level"):
        parts.append(f"level {level}")
    if parameter(response, "edged_degraded"):
        parts.append("degraded")
    return f"{response.model_name} {', '.join(parts)}: answered in {took_s * 1000:.1f} ms"


def text(output: Output, top: int) -> Iterator[str]:
    """Lines for people: the largest scores of each row where there are many, else the first values."""
    values = output.values
    title = f"{output.name}  {output.datatype} {list(values.shape)}"
    if not output.has_scores or values.shape[1] <= _SHOWN_VALUES:
        flat = values.reshape(-1)
        shown = ", ".join(_show(value) for value in flat[:_SHOWN_VALUES])
        yield f"{title}: {shown}" + (", …" if flat.size > _SHOWN_VALUES else "")
        return
    yield f"{title}, the largest:"
    for row, indices in enumerate(output.largest(top)[:_SHOWN_ROWS]):
        scores = [f"{index} ({_show(values[row, index])})" for index in indices]
        yield ("  " if len(values) == 1 else f"  row {row}: ") + ", ".join(scores)
    if len(values) > _SHOWN_ROWS:
        yield f"  and {count(len(values) - _SHOWN_ROWS, 'row')} more; --json has all"


def data(response: pb.ModelInferResponse, found: Sequence[Output], took_s: float, top: int) -> dict[str, Any]:
    """The whole answer for programs."""
    return {
        "model": response.model_name,
        "revision": int(response.model_version),
        "variant": parameter(response, "edged_variant"),
        "level": parameter(response, "edged_level"),
        "degraded": bool(parameter(response, "edged_degraded")),
        "took_ms": round(took_s * 1000, 3),
        "outputs": [_output_data(output, top) for output in found],
    }


def _output_data(output: Output, top: int) -> dict[str, Any]:
    values = output.values
    told: dict[str, Any] = {
        "name": output.name,
        "datatype": output.datatype.value,
        "shape": list(values.shape),
        "data": [_plain(value) for value in _list(values)],
    }
    if output.has_scores:
        told["largest"] = [
            [{"index": index, "value": _plain(float(values[row, index]))} for index in indices]
            for row, indices in enumerate(output.largest(top))
        ]
    return told


def _list(values: NDArray[Any]) -> list[Any]:
    found: list[Any] = values.reshape(-1).tolist()
    return found


def _plain(value: Any) -> Any:
    """A value as JSON has it: what is no finite number as text, bytes that are no text as base64."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    return value


def _show(value: Any) -> str:
    if isinstance(value, bytes):
        return f'"{cut(safe(value.decode(errors="backslashreplace")), _SHOWN_LETTERS)}"'
    if isinstance(value, np.bool_):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, np.floating) else str(value)
