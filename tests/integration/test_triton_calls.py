"""Triton's calls beside the Open Inference Protocol's: configuration, statistics, repository, log settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from onnx import helper
from support.bundles import make_bundle, onnx_model, sums_bundle
from support.calls import Refusal, refusal, request, tensor
from support.daemon import DIGITS, Daemon

from edged._pb.inference import grpc_service_pb2 as pb
from edged._pb.inference import model_config_pb2 as config_pb
from edged.bundle.folder import read_manifest
from edged.bundle.manifest import digest
from edged.worker.usage import resident_bytes

SERVICE = "inference.GRPCInferenceService"
DENIED = (grpc.StatusCode.PERMISSION_DENIED, "not_permitted")
UNSUPPORTED = (grpc.StatusCode.UNIMPLEMENTED, "unsupported")
ARGUMENT = (grpc.StatusCode.INVALID_ARGUMENT, "invalid_argument")
NO_MODEL = (grpc.StatusCode.NOT_FOUND, "model_not_found")
NO_REVISION = (grpc.StatusCode.NOT_FOUND, "revision_not_found")

X, Y = [("x", "FP32", [-1, 2])], [("y", "FP32", [-1, 2])]


def call(daemon: Daemon, method: str, /, *, admin: bool = True, **fields: Any) -> Any:
    """A call by name, its request made of `fields`."""
    asked = getattr(pb, f"{method}Request")(**fields)
    return daemon.call(f"{SERVICE}/{method}", asked, getattr(pb, f"{method}Response"), admin=admin)


def refused_call(daemon: Daemon, method: str, /, *, admin: bool = True, **fields: Any) -> Refusal:
    with pytest.raises(grpc.RpcError) as raised:
        call(daemon, method, admin=admin, **fields)
    return refusal(raised.value)


# Configuration and statistics.


def test_the_configuration_is_the_manifests(daemon: Daemon) -> None:
    manifest = read_manifest(DIGITS)
    found = call(daemon, "ModelConfig", admin=False, name="digits").config
    assert (found.name, found.platform, found.backend) == ("digits", "onnxruntime_onnx", "onnxruntime")
    assert found.max_batch_size == manifest.max_batch_size
    assert list(found.version_policy.specific.versions) == [manifest.revision]
    [image] = found.input
    assert (image.name, image.data_type, list(image.dims)) == ("image", config_pb.TYPE_FP32, [1, 8, 8])
    [scores] = found.output
    assert (scores.name, scores.data_type, list(scores.dims)) == ("scores", config_pb.TYPE_FP32, [10])
    [group] = found.instance_group
    assert (group.name, group.kind, group.count) == ("fp32", config_pb.ModelInstanceGroup.KIND_CPU, 1)
    [warmup] = found.model_warmup
    assert (warmup.name, warmup.count) == (manifest.warmup[0].file, manifest.warmup[0].count)
    assert warmup.inputs["image"].input_data_file == "warmup.npz"
    assert found.default_model_filename == "model.onnx"
    assert found.HasField("dynamic_batching")
    assert found.parameters["edged_digest"].string_value == digest(manifest)


def test_without_a_batch_axis_the_configuration_has_whole_shapes(daemon: Daemon) -> None:
    found = call(daemon, "ModelConfig", admin=False, name="unbatched", version="3").config
    assert (found.max_batch_size, list(found.input[0].dims)) == (0, [-1, -1, -1])


def test_text_is_a_string_in_the_configuration(daemon: Daemon) -> None:
    found = call(daemon, "ModelConfig", admin=False, name="identity-bytes").config
    assert found.input[0].data_type == config_pb.TYPE_STRING


@pytest.mark.parametrize("name", ["ModelConfig", "ModelStatistics"])
def test_a_model_that_is_not_there_has_none(daemon: Daemon, name: str) -> None:
    assert refused_call(daemon, name, name="nobody")[:2] == NO_MODEL
    assert refused_call(daemon, name, name="sums", version="2")[:2] == NO_REVISION
    assert refused_call(daemon, name, name="sums", version="latest")[:2] == ARGUMENT


def statistics(daemon: Daemon, name: str = "", version: str = "") -> Any:
    return call(daemon, "ModelStatistics", admin=False, name=name, version=version).model_stats


def test_statistics_count_what_was_done(daemon: Daemon) -> None:
    [before] = statistics(daemon, "sums")
    rows = 3
    row = bytes(12 * rows)
    inputs = [tensor(name, "FP32", [rows, 3]) for name in ("a", "b")]
    for _ in range(4):
        daemon.infer(request("sums", *inputs, raw=[row, row]))
    with pytest.raises(grpc.RpcError):
        daemon.infer(request("sums", inputs[0], raw=[row]))
    [after] = statistics(daemon, "sums", "1")
    assert (after.name, after.version) == ("sums", "1")
    assert after.inference_count - before.inference_count == 4 * rows
    assert after.execution_count - before.execution_count == 4
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        old, new = getattr(before.inference_stats, part), getattr(after.inference_stats, part)
        assert new.count - old.count == 4
        assert new.ns > old.ns
    assert after.inference_stats.fail == before.inference_stats.fail  # a caller's mistake is none of the model's
    [size] = [each for each in after.batch_stats if each.batch_size == rows]
    known = sum(each.compute_infer.count for each in before.batch_stats if each.batch_size == rows)
    assert size.compute_infer.count - known == 4
    assert after.last_inference >= before.last_inference
    [memory] = after.memory_usage
    worker = next(each for each in daemon.status().workers if each.model == "sums")
    assert (memory.type, memory.id) == ("CPU", 0)
    assert 0.5 < memory.byte_size / resident_bytes(worker.pid) < 2


def test_a_model_of_one_answer_to_each_request_says_so_and_counts_no_answers_apart(daemon: Daemon) -> None:
    row = bytes(12)
    daemon.infer(request("sums", *(tensor(name, "FP32", [1, 3]) for name in ("a", "b")), raw=[row, row]))
    config = call(daemon, "ModelConfig", admin=False, name="sums").config
    assert not config.model_transaction_policy.decoupled
    [counted] = statistics(daemon, "sums")
    assert counted.inference_stats.success.count > 0
    assert not counted.response_stats


def test_statistics_of_no_name_are_those_of_all(daemon: Daemon) -> None:
    assert [each.name for each in statistics(daemon)] == sorted(model.name for model in daemon.status().models)


@pytest.mark.parametrize(
    "name", ["CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister", "TraceSetting"]
)
@pytest.mark.parametrize("admin", [False, True])
def test_what_is_not_carried_out_says_so_by_name(daemon: Daemon, name: str, admin: bool) -> None:
    status, code, message = refused_call(daemon, name, admin=admin)
    assert (status, code) == UNSUPPORTED
    assert message.startswith(f"{name} is not supported")


def test_the_server_lists_its_extensions(daemon: Daemon) -> None:
    found = set(call(daemon, "ServerMetadata", admin=False).extensions)
    assert {"classification", "model_configuration", "model_repository", "statistics", "logging"} <= found
    assert not {"cuda_shared_memory", "trace", "sequence"} & found


def test_metadata_tells_of_batches_and_labels(daemon: Daemon) -> None:
    found = call(daemon, "ModelMetadata", admin=False, name="digits").properties
    assert found["edged_max_batch_size"] == "32"
    assert json.loads(found["edged_labels.scores"]) == [str(digit) for digit in range(10)]
    assert "edged_labels.y" not in call(daemon, "ModelMetadata", admin=False, name="unbatched").properties


# The repository, on a daemon of its own.


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with `sums`; and `neg`, whose revision 3 serves, 2 does not load and 1 is as good as 3."""
    folder = tmp_path_factory.mktemp("repository")
    model = onnx_model([helper.make_node("Neg", ["x"], ["y"])], X, Y)
    bundles = [
        make_bundle(folder / str(revision), content, X, Y, name="neg", revision=revision)
        for revision, content in ((1, model), (2, b"\xff" * 100), (3, model))
    ]
    from support import long_lived

    with Daemon(folder / "root", [sums_bundle(folder), *bundles]) as daemon:
        daemon.start()
        long_lived.PROCESSES.add(daemon.pid)
        daemon.wait_for(lambda status: status.ready)
        daemon.infer(neg())
        yield daemon
        long_lived.PROCESSES.discard(daemon.pid)


def neg(version: str = "") -> pb.ModelInferRequest:
    return request("neg", tensor("x", "FP32", [1, 2]), raw=[bytes(8)], model_version=version)


def index(daemon: Daemon, **fields: Any) -> list[tuple[str, str, str, str]]:
    found = call(daemon, "RepositoryIndex", **fields).models
    return [(each.name, each.version, each.state, each.reason) for each in found]


def revision(value: Any) -> dict[str, pb.ModelRepositoryParameter]:
    kind = "int64_param" if isinstance(value, int) else "string_param"
    return {"revision": pb.ModelRepositoryParameter(**{kind: value})}


def test_the_index_lists_what_is_on_the_device(shared_daemon: Daemon) -> None:
    never = "never loaded"
    assert index(shared_daemon) == [
        ("neg", "1", "UNAVAILABLE", never),
        ("neg", "2", "UNAVAILABLE", never),
        ("neg", "3", "READY", ""),
        ("sums", "1", "READY", ""),
    ]
    assert [each[:2] for each in index(shared_daemon, ready=True)] == [("neg", "3"), ("sums", "1")]


@pytest.mark.parametrize("name", ["RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"])
def test_the_repository_is_for_the_admin_socket(shared_daemon: Daemon, name: str) -> None:
    status, code, message = refused_call(shared_daemon, name, admin=False)
    assert (status, code) == DENIED
    assert message.startswith(f"{name} is answered on the admin socket only; ask ")
    assert str(shared_daemon.admin_socket) in message


def test_a_model_goes_and_comes_back(shared_daemon: Daemon) -> None:
    before = {each.model: each.pid for each in shared_daemon.status().workers}
    call(
        shared_daemon,
        "RepositoryModelUnload",
        model_name="neg",
        parameters={"unload_dependents": pb.ModelRepositoryParameter(bool_param=True)},
    )
    assert not Path(f"/proc/{before['neg']}").exists()
    assert ("neg", "3", "UNAVAILABLE", "somebody asked for that; `edgectl load neg` has it serve again") in index(
        shared_daemon
    )
    assert not call(shared_daemon, "ModelReady", name="neg").ready
    with pytest.raises(grpc.RpcError) as raised:
        shared_daemon.infer(neg())
    assert refusal(raised.value)[:2] == (grpc.StatusCode.UNAVAILABLE, "model_unavailable")
    # The device is as its people want it: serving, and ready.
    status = shared_daemon.status()
    assert (status.ready, list(status.degraded_reasons)) == (True, [])
    [counted] = statistics(shared_daemon, "neg")
    assert (list(counted.memory_usage), counted.inference_count > 0) == ([], True)
    call(shared_daemon, "RepositoryModelLoad", model_name="neg")
    assert shared_daemon.infer(neg()).model_version == "3"
    after = {each.model: each.pid for each in shared_daemon.status().workers}
    assert after["sums"] == before["sums"]


@pytest.mark.parametrize("asked", [1, "1"])
def test_another_revision_serves_on_demand(shared_daemon: Daemon, asked: Any) -> None:
    call(shared_daemon, "RepositoryModelLoad", model_name="neg", parameters=revision(asked))
    assert shared_daemon.infer(neg()).model_version == "1"
    assert [each[:2] for each in index(shared_daemon, ready=True)] == [("neg", "1"), ("sums", "1")]
    call(shared_daemon, "RepositoryModelLoad", model_name="neg", parameters=revision(3))
    assert shared_daemon.infer(neg()).model_version == "3"


def test_a_revision_that_does_not_load_is_told(shared_daemon: Daemon) -> None:
    status, code, message = refused_call(shared_daemon, "RepositoryModelLoad", model_name="neg", parameters=revision(2))
    assert (status, code) == (grpc.StatusCode.FAILED_PRECONDITION, "load_failed")
    assert message.startswith("revision 2 of model 'neg' is not ready")
    assert message.endswith("revision 3 serves on")
    assert shared_daemon.infer(neg()).model_version == "3"


OVERRIDES = {
    "config": ({"config": pb.ModelRepositoryParameter(string_param="{}")}, UNSUPPORTED, "parameter 'config' is"),
    "file": ({"file:1/m": pb.ModelRepositoryParameter(bytes_param=b"")}, UNSUPPORTED, "parameter 'file:1/m' is"),
    "other": ({"x" * 5000: pb.ModelRepositoryParameter(int64_param=1)}, UNSUPPORTED, f"parameter '{'x' * 64}' is"),
    "no number": (revision("latest"), ARGUMENT, "model 'neg': 'latest' is no version"),
    "negative": (revision(-1), ARGUMENT, "model 'neg': '-1' is no version"),
    "a bool": ({"revision": pb.ModelRepositoryParameter(bool_param=True)}, ARGUMENT, "parameter 'revision' is no"),
    "unknown": (revision(9), NO_REVISION, "model 'neg' has no revision 9 on this device; it has 1, 2, 3"),
}


@pytest.mark.parametrize(("parameters", "kind", "message"), OVERRIDES.values(), ids=OVERRIDES)
def test_a_load_is_of_what_is_here_as_it_is(shared_daemon: Daemon, parameters: Any, kind: Any, message: str) -> None:
    found = refused_call(shared_daemon, "RepositoryModelLoad", model_name="neg", parameters=parameters)
    assert found[:2] == kind
    assert found.message.startswith(message)


@pytest.mark.parametrize("name", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_an_unknown_model_or_repository_is_refused(shared_daemon: Daemon, name: str) -> None:
    assert refused_call(shared_daemon, name, model_name="nobody")[:2] == NO_MODEL
    found = refused_call(shared_daemon, name, model_name="neg", repository_name="other")
    assert (found[:2], "repository_name is not supported" in found.message) == (UNSUPPORTED, True)


# Log settings, on the same.


def settings(daemon: Daemon, admin: bool = True, **values: Any) -> dict[str, Any]:
    kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    asked = {
        name.replace("__", "."): pb.LogSettingsRequest.SettingValue(**{kinds[type(value)]: value})
        for name, value in values.items()
    }
    found = call(daemon, "LogSettings", admin=admin, settings=asked).settings
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in found.items()}


def test_log_settings_are_seen_everywhere_and_changed_by_administrators(shared_daemon: Daemon) -> None:
    usual = settings(shared_daemon)
    assert usual == settings(shared_daemon, admin=False)
    assert (usual["log_level"], usual["log_verbose_level"], usual["log_info"]) == ("info", 0, True)
    found = refused_call(
        shared_daemon,
        "LogSettings",
        admin=False,
        settings={"log_info": pb.LogSettingsRequest.SettingValue(bool_param=False)},
    )
    assert found[:2] == DENIED
    assert settings(shared_daemon) == usual


def test_one_part_may_tell_more_or_less_than_the_others(tmp_path: Path) -> None:
    with Daemon(tmp_path, [DIGITS]).start() as daemon:
        found = settings(daemon, log_level="error", log_level__events="info")
        assert (found["log_level"], found["log_level.events"], found["log_warning"]) == ("error", "info", False)
        daemon.wait_logged("log_level_changed")
        call(daemon, "RepositoryModelUnload", model_name="digits")
        daemon.wait_logged("model_unloaded")
        settings(daemon, log_level__events="error")
        call(daemon, "RepositoryModelLoad", model_name="digits")
        call(daemon, "RepositoryModelUnload", model_name="digits")
        assert daemon.stop() == 0
        assert daemon.log().count("model_unloaded") == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"log_colour": "red"}, "there is no setting 'log_colour'"),
        ({"log_level": "loud"}, "setting 'log_level' is 'loud'; it is one of debug, info, warning, error"),
        ({"log_level__nobody": "info"}, "there is no part 'nobody'; the parts are "),
        ({"log_error": False}, "setting 'log_error' cannot be 'False'; errors are always logged"),
        ({"log_file": "/tmp/x"}, "setting 'log_file' cannot be '/tmp/x'"),
        ({"log_verbose_level": "1"}, "setting 'log_verbose_level' is no number"),
    ],
)
def test_what_cannot_be_set_is_refused_by_name(shared_daemon: Daemon, values: Any, message: str) -> None:
    usual = settings(shared_daemon)
    with pytest.raises(grpc.RpcError) as raised:
        settings(shared_daemon, **values)
    assert refusal(raised.value)[:2] == ARGUMENT
    assert refusal(raised.value).message.startswith(message)
    assert settings(shared_daemon) == usual
