"""Makes a bundle of a model as a Triton model repository holds it: `config.pbtxt` and `<version>/model.onnx`."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edged import document, durable, schema
from edged.bundle import paths, rules, toml
from edged.bundle.folder import read_description
from edged.bundle.manifest import Description
from edged.errors import Code, EdgedError
from edged.types import ModelName

if TYPE_CHECKING:
    from edged._pb.inference import model_config_pb2

CONFIG_NAME = "config.pbtxt"
MAX_TEXT_BYTES = 1024 * 1024
"""The bound of the configuration, and of each file of labels."""

_VERSION = re.compile(r"[1-9][0-9]{0,15}", re.ASCII)
_MODEL_FILE = "model.onnx"
_ENGINES = {"onnxruntime": "onnxruntime", "onnxruntime_onnx": "onnxruntime", "openvino": "openvino"}
_DATATYPES = {"TYPE_STRING": "BYTES"}

_CARRIED = {
    "name",
    "platform",
    "backend",
    "max_batch_size",
    "input",
    "output",
    "default_model_filename",
    "dynamic_batching",
}
_CARRIED_OF_BATCHING = {
    "preferred_batch_size",
    "max_queue_delay_microseconds",
    "preserve_ordering",
    "priority_levels",
    "default_priority_level",
}
_CARRIED_OF_TENSORS = {"name", "data_type", "dims", "reshape", "label_filename"}
_REFUSED = {
    "ensemble_scheduling": "an ensemble is no model of its own; import the models it is made of",
    "sequence_batching": "edged keeps no state between requests",
    "batch_input": "edged computes no inputs; make the model compute them",
    "batch_output": "edged takes outputs apart by rows only",
}
_LEFT = {
    "default_queue_policy": "serving.default_timeout_s and the bounds of [serving] hold for all models",
    "priority_queue_policy": "serving.default_timeout_s and the bounds of [serving] hold for all priorities",
    "instance_group": "edged runs one worker; options.device and options.threads say where and how wide",
    "version_policy": "a bundle is one version; plans choose among them",
    "model_warmup": "name an .npz under [[warmup]] instead",
    "optimization": "see options in docs/bundle.md for what can be set",
    "parameters": "see options in docs/bundle.md for what can be set",
    "model_operations": "the model must load without libraries of custom operations",
    "cc_model_filenames": "only the file taken is part of the bundle; further files become variants",
    "optional": "requests must always give it",
    "allow_ragged_batch": "only requests of one shape share a batch",
}

_GOLDENS = """
# What the model must answer before it may serve: inputs with the outputs they must give, as arrays called
# `inputs/NAME` and `outputs/NAME` in an .npz beside this file. Without one a trial shows only that the model loads.
# [[acceptance.goldens]]
# file = "goldens.npz"
# atol = 1e-5
# rtol = 1e-4
"""


class Imported(msgspec.Struct, frozen=True):
    """The bundle that was made, and what of the model's configuration it does not carry, a line each."""

    description: Description
    notes: tuple[str, ...]


def import_model(source: Path, target: Path, revision: int | None = None, name: str = "") -> Imported:
    """Writes the bundle of one version of the model in `source` to `target`, which is new or empty.

    `revision` chooses the version folder, the highest where it is None; `name` replaces the model's own. Raises
    EdgedError, with nothing left behind, when the model cannot be carried over or a file cannot be read or written.
    """
    try:
        return _import(source, target, revision, name)
    except OSError as error:
        hint = "check who may read and write there, and the space left"
        raise EdgedError(Code.BUNDLE_INVALID, f"{error.filename or target}: {error.strerror}", hint) from error


def _import(source: Path, target: Path, revision: int | None, name: str) -> Imported:
    config = _read_config(source)
    for field, _ in config.ListFields():
        if field.name in _REFUSED:
            raise _refusal(source, f"{field.name} is not supported", _REFUSED[field.name])
    version, others = _choose_version(source, revision)
    file = config.default_model_filename or _MODEL_FILE
    if not file.endswith(".onnx") or "/" in file:
        hint = "a variant names one ONNX file; convert the model, or give that file as default_model_filename"
        raise _refusal(source, f"the model file {schema.show(file)} is no name of an .onnx file", hint)
    notes = [f"version {other}: left where it is" for other in others]
    notes += [f"{version}/{left}: not copied; a variant names one file" for left in _beside(source, version, file)]
    notes += _notes(config, _CARRIED, "")
    data = _data(source, config, version, name, notes)
    text = _text(data)
    if len(text.encode()) > document.MAX_BYTES:
        for tensor in data["outputs"]:
            if tensor.pop("labels", None):
                notes.append(
                    f"output {tensor['name']}: labels: too long for {paths.DESCRIPTION_NAME}; not carried over"
                )
        text = _text(data)
    description = _write(source, f"{version}/{file}", target, file, text)
    return Imported(description, tuple(notes))


def _data(
    source: Path, config: model_config_pb2.ModelConfig, version: int, name: str, notes: list[str]
) -> dict[str, Any]:
    """What `bundle.toml` will say; what it cannot say is added to `notes`."""
    batched = config.max_batch_size > 0
    engine = _engine(source, config)
    data: dict[str, Any] = {
        "name": _name(source, config, name),
        "revision": version,
        "max_batch_size": max(config.max_batch_size, 0),
        "inputs": [_tensor(source, tensor, batched, notes) for tensor in config.input],
        "outputs": [_tensor(source, tensor, batched, notes) for tensor in config.output],
        "variants": [{"name": engine, "runtime": engine, "file": config.default_model_filename or _MODEL_FILE}],
    }
    if queue := _queue(config.dynamic_batching, data["max_batch_size"], notes):
        data["queue"] = queue
    found = list(schema.misfits(data, Description))
    if not found:
        found = list(rules.misfits(msgspec.convert(data, Description)))
    if found:
        places = [f"{schema.dotted(misfit.key)}: {misfit.found}; {misfit.remedy}" for misfit in found]
        hint = "write out what Triton fills in by itself; its v2/models/NAME/config shows it"
        raise _refusal(source, "makes no bundle: " + "\n".join(places), hint)
    return data


def _queue(batching: model_config_pb2.ModelDynamicBatching, rows: int, notes: list[str]) -> dict[str, Any]:
    """The table `queue`, of what Triton and edged have in common."""
    notes += _notes(batching, _CARRIED_OF_BATCHING, "dynamic_batching: ")
    found: dict[str, Any] = {}
    if batching.preserve_ordering:
        found["preserve_ordering"] = True
    if batching.priority_levels > 1 and batching.preserve_ordering:
        notes.append("dynamic_batching: priority_levels: not carried over; the order is preserved, so there is one")
    elif batching.priority_levels:
        found["priority_levels"] = batching.priority_levels
        if batching.default_priority_level:
            found["default_priority"] = batching.default_priority_level
    if batching.max_queue_delay_microseconds and rows:
        found["max_delay_us"] = batching.max_queue_delay_microseconds
        preferred = max((each for each in batching.preferred_batch_size if each <= rows), default=0)
        if preferred:
            found["preferred_batch_size"] = preferred
        notes += [
            f"dynamic_batching: preferred_batch_size {each}: not carried over; edged has one, the largest that fits"
            for each in sorted({*batching.preferred_batch_size} - {preferred})
        ]
    elif batching.preferred_batch_size or batching.max_queue_delay_microseconds:
        why = "without max_queue_delay_microseconds nothing waits for it" if rows else "the model has no batch axis"
        notes.append(f"dynamic_batching: how batches form: not carried over; {why}")
    return found


def _refusal(source: Path, message: str, hint: str) -> EdgedError:
    return EdgedError(Code.BUNDLE_INVALID, f"{source / CONFIG_NAME}: {message}", hint)


def _read_text(source: Path, path: str) -> str:
    with open(paths.open_inside(source, path), "rb") as file:
        raw = file.read(MAX_TEXT_BYTES + 1)
    if len(raw) > MAX_TEXT_BYTES:
        hint = "is it the right file?"
        raise EdgedError(Code.BUNDLE_INVALID, f"{source / path}: is larger than {MAX_TEXT_BYTES // 1024} KiB", hint)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise EdgedError(Code.BUNDLE_INVALID, f"{source / path}: is not UTF-8 text", "save it as UTF-8") from error


def _read_config(source: Path) -> model_config_pb2.ModelConfig:
    # Few need this module, and the daemon never does.
    from google.protobuf import text_format

    from edged._pb.inference import model_config_pb2

    text = _read_text(source, CONFIG_NAME)
    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        hint = "mend the line, or take out a setting that is newer than edged"
        raise EdgedError(Code.BUNDLE_INVALID, f"{source / CONFIG_NAME}:{error}", hint) from error


def _choose_version(source: Path, wanted: int | None) -> tuple[int, list[int]]:
    """The version to take, and the others."""
    with os.scandir(source) as entries:
        numbered = [entry for entry in entries if _VERSION.fullmatch(entry.name)]
    for entry in numbered:
        if entry.is_symlink():
            raise EdgedError(Code.BUNDLE_INVALID, f"{entry.path}: is a link", "put the folder itself there")
    versions = sorted(int(entry.name) for entry in numbered if entry.is_dir())
    chosen = wanted if wanted is not None else max(versions, default=0)
    if chosen not in versions:
        there = f"there are: {', '.join(map(str, versions))}" if versions else "a version is a folder such as 1"
        what = f"version {chosen}" if wanted is not None else "version folder"
        raise EdgedError(Code.BUNDLE_INVALID, f"{source}: has no {what}", there)
    return chosen, [version for version in versions if version != chosen]


def _beside(source: Path, version: int, file: str) -> list[str]:
    return sorted(path.name for path in (source / str(version)).iterdir() if path.name != file)


def _notes(message: Any, carried: set[str], where: str) -> Iterator[str]:
    for field, _ in message.ListFields():
        if field.name not in carried:
            yield f"{where}{field.name}: not carried over; {_LEFT.get(field.name, 'edged has no counterpart')}"


def _name(source: Path, config: model_config_pb2.ModelConfig, wanted: str) -> str:
    name = wanted or config.name or source.resolve().name
    try:
        return msgspec.convert(name, ModelName)
    except msgspec.ValidationError as error:
        suggestion = re.sub(r"[^a-z0-9_.-]+", "-", name.lower())[:64].strip("-_.") or "model"
        found = f"the model name {schema.show(name)} is not allowed here: {schema.describe(ModelName)}"
        raise _refusal(source, found, f"give it another, as in `--name {suggestion}`") from error


def _engine(source: Path, config: model_config_pb2.ModelConfig) -> str:
    named = [word for word in (config.backend, config.platform) if word]
    for word in named:
        if word not in _ENGINES:
            hint = f"supported are: {', '.join(_ENGINES)}"
            raise _refusal(source, f"the backend or platform {schema.show(word)} is not supported", hint)
    engines = {_ENGINES[word] for word in named} or {"onnxruntime"}  # as Triton itself concludes from model.onnx
    if len(engines) > 1:
        raise _refusal(source, f"backend {named[0]} and platform {named[1]} are two engines", "give one of them")
    return engines.pop()


def _tensor(source: Path, tensor: Any, batched: bool, notes: list[str]) -> dict[str, Any]:
    """An input or output as `bundle.toml` has it; what it does not carry is added to `notes`."""
    where = f"{'input' if tensor.DESCRIPTOR.name == 'ModelInput' else 'output'} {tensor.name}: "
    if tensor.is_shape_tensor:
        raise _refusal(source, f"{where}is_shape_tensor is not supported", "edged serves tensors of values only")
    kind = type(tensor).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[tensor.data_type].name
    if kind == "TYPE_INVALID":
        raise _refusal(source, f"{where}has no data_type", "give one, such as TYPE_FP32")
    notes += _notes(tensor, _CARRIED_OF_TENSORS, where)
    dims = list(tensor.reshape.shape) if tensor.HasField("reshape") else list(tensor.dims)
    if dims != list(tensor.dims):
        notes.append(f"{where}reshape: callers give the model's own shape, {dims}, not {list(tensor.dims)}")
    data = {
        "name": tensor.name,
        "datatype": _DATATYPES.get(kind, kind.removeprefix("TYPE_")),
        "shape": [-1, *dims] if batched else dims,
    }
    if getattr(tensor, "label_filename", ""):
        text = _read_text(source, tensor.label_filename)
        labels = [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")] if text else []
        if dims and dims[-1] in (-1, len(labels)):
            data["labels"] = labels
        else:
            notes.append(f"{where}labels: {len(labels)} do not fit the last axis; not carried over")
    return data


def _text(data: dict[str, Any]) -> str:
    return f"# Made from version {data['revision']} of a Triton model; docs/bundle.md lists every key.\n\n" + (
        toml.emit(data) + _GOLDENS
    )


def _write(source: Path, path: str, target: Path, name: str, text: str) -> Description:
    """Copies the model and writes the description into `target`; takes both away again when something fails."""
    with open(paths.open_inside(source, path), "rb") as model:
        made_folder = _prepare(target)
        made_files: list[Path] = []
        try:
            with open(target / name, "xb") as copy:
                made_files.append(target / name)
                shutil.copyfileobj(model, copy, MAX_TEXT_BYTES)
                copy.flush()
                os.fsync(copy.fileno())
            durable.write(target / paths.DESCRIPTION_NAME, text.encode(), mode=0o644)
            made_files.append(target / paths.DESCRIPTION_NAME)
            return read_description(target)
        except BaseException:
            for made in made_files:
                made.unlink(missing_ok=True)
            if made_folder:
                target.rmdir()
            raise


def _prepare(target: Path) -> bool:
    """Makes the folder, and says whether it was not there; raises EdgedError when it is there and not empty."""
    if not os.path.lexists(target):
        target.mkdir()
        return True
    if target.is_symlink() or not target.is_dir() or any(target.iterdir()):
        raise EdgedError(Code.BUNDLE_INVALID, f"{target}: is no empty folder", "name one that is new or empty")
    return False
