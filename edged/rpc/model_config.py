"""A model's manifest in the words of Triton's `ModelConfig`. Pure.

The message is that of `protos/inference/model_config.proto`. What a manifest does not have a word for is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from edged._pb.inference import model_config_pb2 as pb
from edged.bundle.manifest import Manifest, Variant
from edged.types import Datatype, TensorSpec

# Engines whose platform Triton names otherwise than itself.
_PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}


def platform(variant: Variant) -> str:
    """The engine and the form of its file, as Triton names them: `onnxruntime_onnx`."""
    return _PLATFORMS.get(variant.runtime, variant.runtime)


def model_config(manifest: Manifest, variant: Variant, digest: str) -> pb.ModelConfig:
    """What `manifest` says of a model that `variant` serves."""
    return pb.ModelConfig(
        name=manifest.name,
        platform=platform(variant),
        backend=variant.runtime,
        version_policy=pb.ModelVersionPolicy(specific=pb.ModelVersionPolicy.Specific(versions=[manifest.revision])),
        max_batch_size=manifest.max_batch_size,
        input=[
            pb.ModelInput(name=spec.name, data_type=data_type(spec.datatype), dims=_dims(manifest, spec))
            for spec in manifest.inputs
        ],
        output=[
            pb.ModelOutput(name=spec.name, data_type=data_type(spec.datatype), dims=_dims(manifest, spec))
            for spec in manifest.outputs
        ],
        dynamic_batching=_batching(manifest),
        instance_group=[pb.ModelInstanceGroup(name=variant.name, kind=_kind(variant), count=1)],
        default_model_filename=variant.file,
        model_warmup=_warmup(manifest),
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
        parameters={
            "edged_digest": pb.ModelParameter(string_value=digest),
            "edged_variant": pb.ModelParameter(string_value=variant.name),
        },
    )


def data_type(datatype: Datatype) -> pb.DataType.ValueType:
    """The datatype by its number here."""
    name = "TYPE_STRING" if datatype is Datatype.BYTES else f"TYPE_{datatype}"
    return pb.DataType.Value(name)


def _dims(manifest: Manifest, spec: TensorSpec) -> Sequence[int]:
    """The shape without the batch axis, which Triton leaves out where there is one."""
    return spec.shape[1:] if manifest.max_batch_size else spec.shape


def _batching(manifest: Manifest) -> pb.ModelDynamicBatching:
    queue = manifest.queue
    return pb.ModelDynamicBatching(
        preferred_batch_size=[queue.preferred_batch_size] if queue.preferred_batch_size else [],
        max_queue_delay_microseconds=queue.max_delay_us,
        preserve_ordering=queue.preserve_ordering,
        priority_levels=queue.levels,
        default_priority_level=queue.level(0),
    )


def _kind(variant: Variant) -> pb.ModelInstanceGroup.Kind.ValueType:
    """GPU or CPU where the variant says so; another accelerator is the engine's business."""
    if variant.requires.accelerator in ("nvidia", "intel-gpu") or variant.options.device.startswith("GPU"):
        return pb.ModelInstanceGroup.KIND_GPU
    if variant.requires.accelerator or variant.options.device not in ("", "CPU"):
        return pb.ModelInstanceGroup.KIND_MODEL
    return pb.ModelInstanceGroup.KIND_CPU


def _warmup(manifest: Manifest) -> list[pb.ModelWarmup]:
    """Each run's inputs lie in one file, under their names; its rows are the file's."""
    return [
        pb.ModelWarmup(
            name=run.file,
            count=run.count,
            inputs={
                spec.name: pb.ModelWarmup.Input(
                    data_type=data_type(spec.datatype), dims=_dims(manifest, spec), input_data_file=run.file
                )
                for spec in manifest.inputs
            },
        )
        for run in manifest.warmup
    ]
