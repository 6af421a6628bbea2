"""Models of a Triton model repository: what is carried over, what is told, what is refused."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from edged.bundle import triton
from edged.bundle.folder import check, pack
from edged.bundle.manifest import Queue
from edged.bundle.triton import import_model
from edged.errors import Code, EdgedError
from edged.types import Datatype, TensorSpec

CONFIG = """\
name: "resnet"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "image" data_type: TYPE_FP32 dims: [ 3, -1, -1 ] } ]
output [ { name: "scores" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
"""


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "repository" / "resnet"
    for version in ("1", "3", "10"):
        (folder / version).mkdir(parents=True)
        (folder / version / "model.onnx").write_bytes(b"version " + version.encode())
    (folder / "config.pbtxt").write_text(CONFIG, encoding="utf-8")
    (folder / "labels.txt").write_text('cat\ndog "big"\nbird\n', encoding="utf-8")
    return folder


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "bundle"


def rewrite(model: Path, old: str, new: str) -> None:
    text = (model / "config.pbtxt").read_text()
    assert old in text
    (model / "config.pbtxt").write_text(text.replace(old, new), encoding="utf-8")


def refused(model: Path, target: Path, **options: object) -> EdgedError:
    before = sorted(target.parent.rglob("*"))
    with pytest.raises(EdgedError) as raised:
        import_model(model, target, **options)
    assert sorted(target.parent.rglob("*")) == before, "something was left behind"
    assert raised.value.code is Code.BUNDLE_INVALID
    assert raised.value.hint
    return raised.value


def test_a_model_becomes_a_bundle_that_can_be_packed(model, target):
    imported = import_model(model, target)
    made = imported.description
    assert (made.name, made.revision, made.max_batch_size) == ("resnet", 10, 8)
    assert made.inputs == (TensorSpec("image", Datatype.FP32, (-1, 3, -1, -1)),)
    assert made.outputs == (TensorSpec("scores", Datatype.FP32, (-1, 3), ("cat", 'dog "big"', "bird")),)
    (variant,) = made.variants
    assert (variant.name, variant.runtime, variant.file) == ("onnxruntime", "onnxruntime", "model.onnx")
    assert (target / "model.onnx").read_bytes() == b"version 10"
    assert sorted(path.name for path in target.iterdir()) == ["bundle.toml", "model.onnx"]
    assert pack(target).revision == 10
    assert [problem.key for problem in check(target)] == ["acceptance.goldens"]
    assert imported.notes == ("version 1: left where it is", "version 3: left where it is")


def test_the_description_reads_well(model, target):
    import_model(model, target)
    text = (target / "bundle.toml").read_text()
    assert text.startswith(
        "# Made from version 10 of a Triton model; docs/bundle.md lists every key.\n\n"
        'name = "resnet"\nrevision = 10\nmax_batch_size = 8\n\n'
        '[[inputs]]\nname = "image"\ndatatype = "FP32"\nshape = [-1, 3, -1, -1]\n\n'
        '[[outputs]]\nname = "scores"\ndatatype = "FP32"\nshape = [-1, 3]\n'
        'labels = ["cat", "dog \\"big\\"", "bird"]\n\n'
        '[[variants]]\nname = "onnxruntime"\nruntime = "onnxruntime"\nfile = "model.onnx"\n\n'
    )
    assert "# [[acceptance.goldens]]" in text


def test_the_version_wanted_is_taken(model, target):
    assert import_model(model, target, revision=3).description.revision == 3
    assert (target / "model.onnx").read_bytes() == b"version 3"


def test_an_empty_folder_is_a_target(model, target):
    target.mkdir()
    import_model(model, target)
    assert (target / "bundle.toml").is_file()


def test_a_model_without_batches_keeps_its_shapes(model, target):
    rewrite(model, "max_batch_size: 8", "max_batch_size: 0")
    made = import_model(model, target).description
    assert (made.max_batch_size, made.inputs[0].shape, made.outputs[0].shape) == (0, (3, -1, -1), (3,))


@pytest.mark.parametrize(
    "kind", ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP64", "BF16"]
)
def test_datatypes_keep_their_names(model, target, kind):
    rewrite(model, "TYPE_FP32 dims: [ 3, ", f"TYPE_{kind} dims: [ 3, ")
    assert import_model(model, target).description.inputs[0].datatype is Datatype[kind]


def test_strings_are_bytes(model, target):
    rewrite(model, "TYPE_FP32 dims: [ 3, ", "TYPE_STRING dims: [ 3, ")
    assert import_model(model, target).description.inputs[0].datatype is Datatype.BYTES


@pytest.mark.parametrize(
    ("line", "runtime"),
    [
        ('backend: "onnxruntime"', "onnxruntime"),
        ('backend: "openvino"', "openvino"),
        ('backend: "onnxruntime" platform: "onnxruntime_onnx"', "onnxruntime"),
        ("", "onnxruntime"),
    ],
)
def test_the_engine_follows_from_backend_and_platform(model, target, line, runtime):
    rewrite(model, 'platform: "onnxruntime_onnx"', line)
    (variant,) = import_model(model, target).description.variants
    assert (variant.name, variant.runtime) == (runtime, runtime)


def test_the_folder_names_a_model_without_a_name(model, target):
    rewrite(model, 'name: "resnet"', "")
    assert import_model(model, target).description.name == "resnet"


def test_another_file_name_is_kept(model, target):
    rewrite(model, 'name: "resnet"', 'name: "resnet" default_model_filename: "best.onnx"')
    (model / "10" / "best.onnx").write_bytes(b"best")
    imported = import_model(model, target)
    assert imported.description.variants[0].file == "best.onnx"
    assert (target / "best.onnx").read_bytes() == b"best"
    assert "10/model.onnx: not copied; a variant names one file" in imported.notes


def test_a_reshape_is_applied_and_told(model, target):
    rewrite(model, "dims: [ 3, -1, -1 ]", "dims: [ 1 ] reshape: { shape: [ ] }")
    imported = import_model(model, target)
    assert imported.description.inputs[0].shape == (-1,)
    assert "input image: reshape: callers give the model's own shape, [], not [1]" in imported.notes


def test_what_is_not_carried_over_is_told(model, target):
    more = """
        instance_group [ { count: 2 kind: KIND_GPU } ]
        dynamic_batching { default_queue_policy { max_queue_size: 3 } }
        version_policy: { latest { num_versions: 2 } }
        optimization { graph { level: 1 } }
        parameters { key: "intra_op_thread_count" value: { string_value: "2" } }
        model_warmup [ { name: "zeros" batch_size: 1 } ]
        response_cache { enable: true }
        metric_tags { key: "team" value: "vision" }
    """
    rewrite(model, "max_batch_size: 8", f"max_batch_size: 8 {more}")
    rewrite(model, 'name: "image"', 'name: "image" optional: true format: FORMAT_NCHW')
    (model / "10" / "model.onnx.data").write_bytes(b"")
    notes = import_model(model, target).notes
    nested = ("input", "dynamic_batching")
    told = {":".join(note.split(":")[: 2 if note.startswith(nested) else 1]) for note in notes}
    assert told == {
        "version 1",
        "version 3",
        "10/model.onnx.data",
        "instance_group",
        "dynamic_batching: default_queue_policy",
        "version_policy",
        "optimization",
        "parameters",
        "model_warmup",
        "response_cache",
        "metric_tags",
        "input image: optional",
        "input image: format",
    }
    assert len(notes) == len(told)


@pytest.mark.parametrize(
    ("said", "queue", "left"),
    [
        ("max_queue_delay_microseconds: 100", Queue(max_delay_us=100), []),
        (
            "max_queue_delay_microseconds: 100 preferred_batch_size: [2, 4, 16]",
            Queue(max_delay_us=100, preferred_batch_size=4),
            ["preferred_batch_size 2", "preferred_batch_size 16"],
        ),
        ("preferred_batch_size: [4]", Queue(), ["how batches form"]),
        ("preserve_ordering: true", Queue(preserve_ordering=True), []),
        ("priority_levels: 5 default_priority_level: 2", Queue(priority_levels=5, default_priority=2), []),
        ("priority_levels: 5", Queue(priority_levels=5), []),
        ("preserve_ordering: true priority_levels: 5", Queue(preserve_ordering=True), ["priority_levels"]),
        ("", Queue(), []),
    ],
)
def test_how_requests_wait_is_carried_over(model, target, said: str, queue: Queue, left: list[str]):
    rewrite(model, "max_batch_size: 8", f"max_batch_size: 8 dynamic_batching {{ {said} }}")
    imported = import_model(model, target)
    assert imported.description.queue == queue
    notes = [note for note in imported.notes if note.startswith("dynamic_batching")]
    assert [note.split(":")[1].strip() for note in notes] == left


def test_a_queue_that_edged_cannot_have_is_refused(model, target):
    rewrite(model, "max_batch_size: 8", "max_batch_size: 8 dynamic_batching { priority_levels: 101 }")
    with pytest.raises(EdgedError, match="priority_levels"):
        import_model(model, target)
    assert not target.exists()


def test_every_setting_is_carried_refused_or_told():
    from edged._pb.inference import model_config_pb2

    def names(message: str) -> set[str]:
        return set(getattr(model_config_pb2, message).DESCRIPTOR.fields_by_name)

    assert names("ModelConfig") >= triton._CARRIED | set(triton._REFUSED)
    assert not triton._CARRIED & set(triton._REFUSED)
    assert names("ModelDynamicBatching") >= triton._CARRIED_OF_BATCHING
    parts = ("ModelConfig", "ModelDynamicBatching", "ModelInput", "ModelOutput")
    assert set(triton._LEFT) <= {name for part in parts for name in names(part)}
    assert names("ModelInput") | names("ModelOutput") >= triton._CARRIED_OF_TENSORS


def test_labels_that_do_not_fit_are_left_and_told(model, target):
    (model / "labels.txt").write_text("cat\ndog\n", encoding="utf-8")
    imported = import_model(model, target)
    assert imported.description.outputs[0].labels == ()
    assert "output scores: labels: 2 do not fit the last axis; not carried over" in imported.notes


def test_labels_keep_what_is_strange_in_them(model, target):
    (model / "labels.txt").write_bytes('tab\there\r\n\r\n"\\ü\u2028'.encode())
    assert import_model(model, target).description.outputs[0].labels == ("tab\there", "", '"\\ü\u2028')


def test_labels_too_long_to_write_are_left_and_told(model, target):
    (model / "labels.txt").write_text("\n".join(f"a label of some length {n}" for n in range(20_000)), encoding="utf-8")
    rewrite(model, "dims: [ 3 ]", "dims: [ 20000 ]")
    imported = import_model(model, target)
    assert imported.description.outputs[0].labels == ()
    assert "output scores: labels: too long for bundle.toml; not carried over" in imported.notes


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('platform: "onnxruntime_onnx"', 'platform: "tensorrt_plan"', '"tensorrt_plan" is not supported'),
        ('platform: "onnxruntime_onnx"', 'backend: "python"', '"python" is not supported'),
        ('platform: "onnxruntime_onnx"', 'backend: "openvino" platform: "onnxruntime_onnx"', "are two engines"),
        ("max_batch_size: 8", "ensemble_scheduling { step { } }", "ensemble_scheduling is not supported"),
        ("max_batch_size: 8", "sequence_batching { }", "sequence_batching is not supported"),
        ("max_batch_size: 8", 'batch_input { target_name: "x" }', "batch_input is not supported"),
        ("max_batch_size: 8", "max_batch_size: 100000", "max_batch_size: 100000 does not fit"),
        ("TYPE_FP32 dims: [ 3, ", "TYPE_INVALID dims: [ 3, ", "input image: has no data_type"),
        ("dims: [ 3, -1, -1 ]", "dims: [ 3 ] is_shape_tensor: true", "is_shape_tensor is not supported"),
        ("dims: [ 3, -1, -1 ]", "dims: [ -3 ]", "inputs[0].shape[1]: -3 does not fit"),
        (CONFIG.splitlines()[3], "", "inputs: [] does not fit"),
        (CONFIG.splitlines()[3], CONFIG.splitlines()[3] * 2, 'inputs[1].name: "image" comes twice'),
        ("max_batch_size: 8", "max_batch_size: eight", "config.pbtxt:3:17"),
        ("max_batch_size: 8", "max_batch_sise: 8", "config.pbtxt:3:1"),
        ("max_batch_size: 8", "max_batch_size: 99999999999", "config.pbtxt:3:17"),
        ("max_batch_size: 8", "max_batch_size: 8 }", "config.pbtxt:3:"),
        ("max_batch_size: 8", "optimization {" * 5000, "config.pbtxt:3:"),
        ('"labels.txt"', '"../secret"', 'has a part ".."'),
        ('"labels.txt"', '"/etc/passwd"', "is absolute"),
        ('"labels.txt"', '"absent.txt"', "absent.txt: does not exist"),
        ("max_batch_size: 8", 'default_model_filename: "model.xml"', "is no name of an .onnx file"),
        ("max_batch_size: 8", 'default_model_filename: "../1/model.onnx"', "is no name of an .onnx file"),
        ("max_batch_size: 8", 'default_model_filename: "absent.onnx"', "absent.onnx: does not exist"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_by_name(model, target, old, new, told):
    rewrite(model, old, new)
    assert told in str(refused(model, target))


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("ResNet 50", "resnet-50"), ("_x_", "x"), ("größe", "gr-e"), ("模型", "model"), ("a" * 70, "a" * 64)],
)
def test_a_name_that_is_not_allowed_is_refused_with_another(model, target, name, suggestion):
    rewrite(model, '"resnet"', f'"{name}"')
    error = refused(model, target)
    assert "the model name" in error.message
    assert error.hint == f"give it another, as in `--name {suggestion}`"
    assert import_model(model, target, name=suggestion).description.name == suggestion


def test_a_version_that_is_not_there_is_refused(model, target):
    assert "has no version 2; there are: 1, 3, 10" in str(refused(model, target, revision=2))


def test_a_model_without_versions_is_refused(model, target):
    for version in ("1", "3", "10"):
        shutil.rmtree(model / version)
    (model / "01").mkdir()
    (model / "0").mkdir()
    (model / "5").write_bytes(b"")
    assert "has no version folder" in str(refused(model, target))


def replace_by_link(path: Path) -> None:
    aside = path.with_name("aside" if path.is_dir() else f"aside-{path.name}")
    path.rename(aside)
    path.symlink_to(aside.name)


@pytest.mark.parametrize("path", ["config.pbtxt", "labels.txt", "10", "10/model.onnx", "1"])
def test_links_in_the_source_are_refused(model, target, path):
    replace_by_link(model / path)
    assert f"{model / path}: is a link" in str(refused(model, target))


def test_a_pipe_for_a_model_is_refused(model, target):
    (model / "10" / "model.onnx").unlink()
    os.mkfifo(model / "10" / "model.onnx")
    assert "model.onnx: is a named pipe" in str(refused(model, target))


def test_a_model_made_of_a_folder_is_refused(model, target):
    (model / "10" / "model.onnx").unlink()
    (model / "10" / "model.onnx").mkdir()
    assert "model.onnx: is a folder" in str(refused(model, target))


@pytest.mark.parametrize("path", ["config.pbtxt", "labels.txt"])
def test_huge_text_is_not_read(model, target, path):
    with (model / path).open("r+b") as file:
        file.truncate(triton.MAX_TEXT_BYTES + 1)
    assert f"{path}: is larger than 1024 KiB" in str(refused(model, target))


@pytest.mark.parametrize("path", ["config.pbtxt", "labels.txt"])
def test_bytes_that_are_no_text_are_refused(model, target, path):
    (model / path).write_bytes(b"\xff")
    assert f"{path}: is not UTF-8 text" in str(refused(model, target))


def test_a_source_that_is_not_there_is_refused(tmp_path, target):
    assert "absent: cannot be opened" in str(refused(tmp_path / "absent", target))


def test_a_target_in_use_is_left_alone(model, target):
    target.mkdir()
    (target / "model.onnx").write_bytes(b"mine")
    assert "is no empty folder" in str(refused(model, target))
    assert (target / "model.onnx").read_bytes() == b"mine"


def test_a_target_that_is_a_link_is_refused(model, target, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target.symlink_to("elsewhere")
    assert "is no empty folder" in str(refused(model, target))


def test_a_target_that_is_a_file_is_refused(model, target):
    target.write_bytes(b"mine")
    assert "is no empty folder" in str(refused(model, target))


def test_a_target_below_nothing_is_refused(model, tmp_path):
    assert "No such file or directory" in str(refused(model, tmp_path / "absent" / "bundle"))


@pytest.mark.parametrize("there_before", [True, False])
def test_a_full_disk_leaves_nothing_behind(model, target, monkeypatch, there_before):
    if there_before:
        target.mkdir()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(triton.shutil, "copyfileobj", full)
    assert f"{target}: No space left on device" in str(refused(model, target))
    assert target.exists() is there_before
