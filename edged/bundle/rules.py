"""What the schema alone cannot say about a bundle: how its parts fit together. Pure: nothing here reads a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise

import msgspec

from edged.bundle import paths, versions
from edged.bundle.exclusion import excludes
from edged.bundle.manifest import Description, Drift, File, Manifest
from edged.runtimes.base import ENGINES, cannot_derive
from edged.schema import Key, Misfit, show
from edged.types import Datatype, Level, TensorSpec

MAX_BUNDLE_BYTES = 2**40

# Engines give these as bytes, not as numbers that could be put in order.
_NOT_WATCHED = (Datatype.BYTES, Datatype.BF16)


def named_files(description: Description) -> Iterator[tuple[Key, str]]:
    """Every path that the bundle names, with the key that names it; a path may come more than once."""
    for index, variant in enumerate(description.variants):
        yield ("variants", index, "file"), variant.file
    for index, warmup in enumerate(description.warmup):
        yield ("warmup", index, "file"), warmup.file
    for index, golden in enumerate(description.acceptance.goldens):
        yield ("acceptance", "goldens", index, "file"), golden.file


def misfits(description: Description) -> Iterator[Misfit]:
    """Everything that makes a description, or a manifest, unusable although its schema fits."""
    if description.min_revision > description.revision:
        yield Misfit(
            ("min_revision",),
            f"{description.min_revision} is above the revision, {description.revision}",
            "a bundle may not forbid itself; lower it",
        )
    yield from _tensor_misfits(description)
    yield from _variant_misfits(description)
    yield from _golden_misfits(description)
    yield from _queue_misfits(description)
    yield from _degradation_misfits(description)
    for index, drift in enumerate(description.drift):
        yield from _drift_misfits(description, drift, ("drift", index))
    yield from _endless_misfits(description)
    if isinstance(description, Manifest):
        yield from _manifest_misfits(description)
    else:
        yield from _path_misfits({path: key for key, path in reversed(list(named_files(description)))})


def warnings(description: Description) -> Iterator[Misfit]:
    """What is allowed, and yet hardly meant."""
    if not description.acceptance.goldens:
        yield Misfit(
            ("acceptance", "goldens"),
            "there are none",
            "a trial can then show only that the model loads; give at least one golden",
        )
    for index, variant in enumerate(description.variants):
        rival = next((each for each in description.variants[:index] if excludes(each, variant)), None)
        if rival is not None:
            yield Misfit(
                ("variants", index, "options", "device"),
                f"may be that of {show(rival.name)}, which one process at a time can have",
                "neither can take the other's place while it serves; have one of them run elsewhere",
            )
    for level, degradation in description.degradation.items():
        if description.max_batch_size <= degradation.max_batch_size != 0:
            yield Misfit(
                ("degradation", level.value, "max_batch_size"),
                f"{degradation.max_batch_size} is no less than the model's own, {description.max_batch_size}",
                "give a smaller one, or leave it out",
            )


def _tensor_misfits(description: Description) -> Iterator[Misfit]:
    batched = description.max_batch_size > 0
    for side in ("inputs", "outputs"):
        tensors: tuple[TensorSpec, ...] = getattr(description, side)
        yield from _duplicates((((side, index, "name"), tensor.name) for index, tensor in enumerate(tensors)), side)
        for index, tensor in enumerate(tensors):
            if batched and (not tensor.shape or tensor.shape[0] != -1):
                yield Misfit(
                    (side, index, "shape"),
                    f"{show(tensor.shape)} does not begin with the batch, though max_batch_size is above 0",
                    "begin it with -1, or set max_batch_size = 0",
                )
            if tensor.labels and side == "inputs":
                yield Misfit((side, index, "labels"), "stands on an input", "labels name the classes of an output")
            elif tensor.labels:
                yield from _label_misfits(tensor, (side, index, "labels"), batched=batched)


def _label_misfits(tensor: TensorSpec, key: Key, *, batched: bool) -> Iterator[Misfit]:
    if len(tensor.shape) <= int(batched):
        found = f"the shape {show(tensor.shape)} has no axis of classes"
        yield Misfit(key, found, "leave the labels out, or give the output its last axis")
    elif tensor.shape[-1] not in (-1, len(tensor.labels)):
        found = f"has {len(tensor.labels)} entries, and the last axis of the output {tensor.shape[-1]}"
        yield Misfit(key, found, "give one label per class")


def _variant_misfits(description: Description) -> Iterator[Misfit]:
    variants = description.variants
    yield from _duplicates(
        ((("variants", index, "name"), variant.name) for index, variant in enumerate(variants)), "variants"
    )
    for index, variant in enumerate(variants):
        reason = versions.fault(variant.requires.runtime)
        if reason:
            yield Misfit(
                ("variants", index, "requires", "runtime"),
                f"{show(variant.requires.runtime)} {reason}",
                'give PEP 440 specifiers, comma-separated: ">=1.20,<2"',
            )
        engine = ENGINES.get(variant.runtime)
        if variant.derived and engine is not None and not engine.derives:
            why = cannot_derive(variant.runtime)
            yield Misfit(("variants", index, "derived"), f"variant {show(variant.name)}: {why.message}", why.hint)
        if 0 < variant.caps.memory_mib < variant.requires.memory_mib:
            yield Misfit(
                ("variants", index, "caps", "memory_mib"),
                f"{variant.caps.memory_mib} is below what the variant requires, {variant.requires.memory_mib}",
                "raise the cap, or require less",
            )


def _golden_misfits(description: Description) -> Iterator[Misfit]:
    goldens = description.acceptance.goldens
    covered: set[str] = set()
    for index, golden in enumerate(goldens):
        covered.update(golden.variants or (variant.name for variant in description.variants))
        for place, name in enumerate(golden.variants):
            yield from _unknown_variant(description, name, ("acceptance", "goldens", index, "variants", place))
    for index, variant in enumerate(description.variants):
        if goldens and variant.name not in covered:
            yield Misfit(
                ("variants", index, "name"),
                f"no golden covers {show(variant.name)}",
                "add one, or name the variant in one that there is",
            )


def _queue_misfits(description: Description) -> Iterator[Misfit]:
    queue = description.queue
    if queue.default_priority > queue.levels:
        yield Misfit(
            ("queue", "default_priority"),
            f"{queue.default_priority} is below the lowest priority, {queue.levels}",
            "lower it, or raise priority_levels",
        )
    if queue.preserve_ordering and queue.levels > 1:
        yield Misfit(
            ("queue", "preserve_ordering"),
            f"cannot hold where {queue.levels} priorities are told apart",
            "leave priority_levels out, or the order",
        )
    if queue.preferred_batch_size > description.max_batch_size:
        yield Misfit(
            ("queue", "preferred_batch_size"),
            f"{queue.preferred_batch_size} is above max_batch_size, {description.max_batch_size}",
            "lower it",
        )
    if queue.max_delay_us and not description.max_batch_size:
        found = "waits for company, though the model takes no batch"
        yield Misfit(("queue", "max_delay_us"), found, "leave it out, or set max_batch_size")
    if queue.preferred_batch_size and not queue.max_delay_us:
        found = "has no meaning where no batch waits"
        yield Misfit(("queue", "preferred_batch_size"), found, "set max_delay_us, or leave it out")


def _degradation_misfits(description: Description) -> Iterator[Misfit]:
    for level, degradation in description.degradation.items():
        if level is Level.NOMINAL:
            found, remedy = "costs a model nothing at level nominal", "take it out; nominal is the bundle as it stands"
            yield Misfit(("degradation", level.value), found, remedy)
        if degradation.variant:
            yield from _unknown_variant(description, degradation.variant, ("degradation", level.value, "variant"))


def _unknown_variant(description: Description, name: str, key: Key) -> Iterator[Misfit]:
    known = [variant.name for variant in description.variants]
    if name not in known:
        yield Misfit(key, f"{show(name)} is no variant", f"the variants are: {', '.join(known)}")


def _drift_misfits(description: Description, drift: Drift, key: Key) -> Iterator[Misfit]:
    reference = drift.reference
    output = next((output for output in description.outputs if output.name == drift.output), None)
    if output is None:
        known = ", ".join(tensor.name for tensor in description.outputs)
        yield Misfit((*key, "output"), f"{show(drift.output)} is no output", f"the outputs are: {known}")
    elif drift.kind == "classes" and output.shape and output.shape[-1] not in (-1, len(reference)):
        found = f"has {len(reference)} entries, and the last axis of the output {output.shape[-1]}"
        yield Misfit((*key, "reference"), found, "give one count per class")
    if output is not None and output.datatype in _NOT_WATCHED:
        yield Misfit((*key, "output"), f"is of {output.datatype}, which is not watched", "name an output of numbers")
    if drift.kind == "classes" and (drift.review_below, drift.review_above) != (None, None):
        yield Misfit((*key, "kind"), "classes have no results to review", 'watch the "confidence" beside them')
    if drift.review_below is not None and drift.review_above is not None and drift.review_below > drift.review_above:
        yield Misfit((*key, "review_below"), "lies above review_above, so that all is reviewed", "exchange the two")
    if drift.kind == "classes" and min(reference) < 0:
        yield Misfit((*key, "reference"), f"{min(reference):g} is no count", "give counts, each at least 0")
    if drift.kind != "classes" and any(left > right for left, right in pairwise(reference)):
        yield Misfit((*key, "reference"), "is not in rising order", "give quantiles, the lowest first")


def _endless_misfits(description: Description) -> Iterator[Misfit]:
    """Numbers that TOML can hold and JSON cannot: a tolerance of `inf` would be written as none at all."""
    parts = ((field.name, getattr(description, field.name)) for field in msgspec.structs.fields(description))
    for name, part in parts:
        if name != "files":
            for key in _endless(msgspec.to_builtins(part), (name,)):
                yield Misfit(key, "is not a finite number", "give a finite one, or leave it out")


def _endless(data: object, key: Key) -> Iterator[Key]:
    if isinstance(data, float) and not math.isfinite(data):
        yield key
    elif isinstance(data, dict):
        for name, part in data.items():
            yield from _endless(part, (*key, name))
    elif isinstance(data, list | tuple):
        for index, part in enumerate(data):
            yield from _endless(part, (*key, index))


def _path_misfits(keys: dict[str, Key]) -> Iterator[Misfit]:
    """Paths that are unsafe, or that some file system could not hold side by side."""
    for path, key in keys.items():
        reason = paths.fault(path)
        if reason:
            yield Misfit(key, f"{show(path)} {reason}", "name a file inside the bundle, as in model.onnx")
    folded: dict[str, str] = {}
    for path in keys:
        other = folded.setdefault(path.casefold(), path)
        if other != path:
            yield Misfit(keys[path], f"{show(path)} and {show(other)} differ only by case", "rename one of them")
    for path, key in keys.items():
        parents = path.casefold().split("/")[:-1]
        for end in range(1, len(parents) + 1):
            above = folded.get("/".join(parents[:end]))
            if above is not None:
                yield Misfit(key, f"{show(path)} lies inside {show(above)}, which is a file", "rename one of them")


def _manifest_misfits(manifest: Manifest) -> Iterator[Misfit]:
    files = manifest.files
    listed: dict[str, Key] = {}
    for index, file in enumerate(files):
        key: Key = ("files", index, "path")
        if file.path in listed:
            yield Misfit(key, f"{show(file.path)} is listed twice", "list each file once")
        elif index and file.path < files[index - 1].path:
            yield Misfit(key, f"{show(file.path)} is out of order", "list the files sorted by path")
        listed.setdefault(file.path, key)
        yield from _chunk_misfits(file, ("files", index, "chunks"))
    yield from _path_misfits(listed)
    for key, path in named_files(manifest):
        if path not in listed:
            yield Misfit(key, f"{show(path)} is not among the files", "pack the bundle again")
    total = sum(file.size for file in files)
    if total > MAX_BUNDLE_BYTES:
        found = f"{total} bytes in all are more than a bundle may hold, {MAX_BUNDLE_BYTES}"
        yield Misfit(("files",), found, "make smaller files, or several bundles")


def _chunk_misfits(file: File, key: Key) -> Iterator[Misfit]:
    end = 0
    for index, chunk in enumerate(file.chunks):
        if chunk.offset != end:
            found = f"{chunk.offset} is not where the chunk before it ends, {end}"
            yield Misfit((*key, index, "offset"), found, "chunks follow one another without gap or overlap")
            return
        end += chunk.length
    if file.chunks and end != file.size:
        found = f"the chunks end at {end}, and the file at {file.size}"
        yield Misfit(key, found, "chunks cover the whole file")


def _duplicates(names: Iterable[tuple[Key, str]], what: str) -> Iterator[Misfit]:
    seen: set[str] = set()
    for key, name in names:
        if name in seen:
            yield Misfit(key, f"{show(name)} comes twice", f"give each of the {what} a name of its own")
        seen.add(name)
