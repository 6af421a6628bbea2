"""The canonical form: one manifest, one spelling, one digest."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.bundle.manifest import Golden, Manifest, Soak, as_data, digest, encode

DATA: dict[str, Any] = {
    "name": "digits",
    "revision": 7,
    "max_batch_size": 8,
    "description": "Ziffern und Größen",
    "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}],
    "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 2], "labels": ["null", "eins"]}],
    "variants": [{"name": "fp32", "runtime": "onnxruntime", "file": "model.onnx", "caps": {"load_s": 2.5}}],
    "acceptance": {"goldens": [{"file": "goldens.npz", "rtol": 1e-7}], "soak": {"max_s": 7200}},
    "degradation": {"emergency": {"max_rate": 0.5}, "critical": {"max_batch_size": 2}},
    "drift": [{"output": "scores", "kind": "classes", "reference": [10, 12.5]}],
    "files": [
        {"path": "goldens.npz", "size": 3, "sha256": "1" * 64},
        {
            "path": "model.onnx",
            "size": 5,
            "sha256": "2" * 64,
            "chunks": [{"offset": 0, "length": 5, "sha256": "2" * 64}],
        },
    ],
}

CANONICAL = (
    '{"acceptance":{"goldens":[{"file":"goldens.npz","rtol":1e-7}],"soak":{"max_s":7200}},'
    '"degradation":{"critical":{"max_batch_size":2},"emergency":{"max_rate":0.5}},'
    '"description":"Ziffern und Größen",'
    '"drift":[{"kind":"classes","output":"scores","reference":[10,12.5]}],'
    f'"files":[{{"path":"goldens.npz","sha256":"{"1" * 64}","size":3}},'
    f'{{"chunks":[{{"length":5,"offset":0,"sha256":"{"2" * 64}"}}],'
    f'"path":"model.onnx","sha256":"{"2" * 64}","size":5}}],'
    '"inputs":[{"datatype":"FP32","name":"image","shape":[-1,64]}],'
    '"max_batch_size":8,"name":"digits",'
    '"outputs":[{"datatype":"FP32","labels":["null","eins"],"name":"scores","shape":[-1,2]}],'
    '"revision":7,'
    '"variants":[{"caps":{"load_s":2.5},"file":"model.onnx","name":"fp32","runtime":"onnxruntime"}]}'
)

# What a release is called must never change: signatures and stores on devices hold on to it.
DIGEST = "554f997f4ae443bce796fe4332839be37b80ecbf5621d4715ab27a8c0c64742a"

# Defaults, as somebody might spell them out: where, which key, the value.
SPELLED = [
    ((), "schema", 1),
    ((), "min_revision", 1),
    ((), "license", ""),
    ((), "warmup", []),
    (("inputs", 0), "labels", []),
    (("variants", 0), "derived", False),
    (("variants", 0), "requires", {"memory_mib": 0, "runtime": ""}),
    (("variants", 0), "options", {}),
    (("variants", 0, "caps"), "memory_mib", 0),
    (("variants", 0, "caps"), "inference_s", 0.0),
    (("acceptance", "goldens", 0), "atol", 0.00001),
    (("acceptance", "goldens", 0), "agreement", None),
    (("acceptance", "soak"), "min_requests", 500),
    (("acceptance", "soak"), "max_s", 7200.0),
    (("acceptance",), "shadow", {"samples": 200, "agreement": 0.95}),
    (("acceptance",), "budgets", {"p99_ms": -0.0}),
    (("degradation", "critical"), "variant", ""),
    (("degradation", "critical"), "max_rate", 0.0),
    (("drift", 0), "reference", [10.0, 12.5]),
    (("files", 0), "chunks", []),
]


def manifest(data: dict[str, Any]) -> Manifest:
    return msgspec.convert(data, Manifest)


def test_the_canonical_form_is_what_it_always_was():
    assert encode(manifest(DATA)).decode() == CANONICAL
    assert digest(manifest(DATA)) == DIGEST


def spelled_out(choice: set[int]) -> dict[str, Any]:
    data = copy.deepcopy(DATA)
    for index in choice:
        where, name, value = SPELLED[index]
        at: Any = data
        for part in where:
            at = at[part]
        at[name] = value
    return data


@given(st.sets(st.integers(0, len(SPELLED) - 1)), st.booleans())
def test_defaults_that_are_spelled_out_change_nothing(choice, as_json):
    data = spelled_out(choice)
    read = msgspec.json.decode(json.dumps(data), type=Manifest) if as_json else manifest(data)
    assert read == manifest(DATA)
    assert encode(read).decode() == CANONICAL


def test_every_spelling_of_a_default_is_told_apart_from_another_value():
    spelled = {msgspec.json.encode(spelled_out({index})) for index in range(len(SPELLED))}
    assert len(spelled) == len(SPELLED)
    assert msgspec.json.encode(DATA) not in spelled


@given(
    st.floats(0, allow_infinity=False),
    st.floats(0, 1),
    st.integers(0, 10_000_000),
    st.floats(0, 30 * 86_400),
    st.text(),
)
def test_the_canonical_form_reads_as_what_it_was_made_of(atol, agreement, min_requests, max_s, description):
    data = spelled_out(set())
    data["description"] = description
    data["acceptance"]["goldens"][0].update(atol=atol, agreement=agreement)
    data["acceptance"]["soak"] = {"min_requests": min_requests, "max_s": max_s}
    made = manifest(data)
    read = msgspec.json.decode(encode(made), type=Manifest)
    assert read == made
    assert encode(read) == encode(made)


def test_two_different_manifests_have_different_digests():
    changes = [{}, {"revision": 8}, {"name": "digit"}, {"max_batch_size": 7}, {"license": "MIT"}, {"min_revision": 2}]
    made = [manifest({**DATA, **change}) for change in changes]
    for one, other in itertools.combinations(made, 2):
        assert digest(one) != digest(other)


def test_what_is_built_in_code_is_encoded_as_what_is_read():
    built = Soak(max_s=7200, min_requests=500)
    acceptance = msgspec.structs.replace(manifest(DATA).acceptance, soak=built, goldens=(Golden(file="g", atol=1.0),))
    made = msgspec.structs.replace(manifest(DATA), acceptance=acceptance)
    assert b'"goldens":[{"atol":1,"file":"g"}],"soak":{"max_s":7200}' in encode(made)


def test_plain_data_is_what_the_canonical_form_says():
    assert json.loads(json.dumps(as_data(manifest(DATA)))) == json.loads(CANONICAL)
    assert manifest(as_data(manifest(DATA))) == manifest(DATA)


def test_empty_parts_are_left_out():
    bare = {name: part for name, part in DATA.items() if name not in ("degradation", "drift", "acceptance")}
    empty: dict[str, Any] = {"degradation": {}, "drift": [], "acceptance": {"goldens": []}}
    assert encode(manifest(bare | empty)) == encode(manifest(bare))
    assert not any(name.encode() in encode(manifest(bare)) for name in empty)


def test_what_is_not_there_is_not_found():
    with pytest.raises(KeyError):
        manifest(DATA).file("other.onnx")
    with pytest.raises(KeyError):
        manifest(DATA).variant("int8")


def test_files_and_variants_are_found_by_name():
    made = manifest(DATA)
    assert made.file("model.onnx") is made.files[1]
    assert made.variant("fp32") is made.variants[0]
