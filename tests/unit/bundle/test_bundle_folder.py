"""Packing, reading what was packed, and what an author is warned of."""

from __future__ import annotations

import errno
import hashlib
import json
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged import durable
from edged.bundle import folder as bundle_folder
from edged.bundle import rules
from edged.bundle.folder import check, pack, read_description, read_manifest, stray_files
from edged.bundle.manifest import MAX_MANIFEST_BYTES, Chunk, Description, digest, encode
from edged.document import DocumentError
from edged.errors import Code, EdgedError


def test_what_was_packed_is_read_again(author, bundle):
    packed = pack(bundle)
    assert read_manifest(bundle) == packed
    assert (bundle / "manifest.json").read_bytes() == encode(packed)
    assert {file.path: (file.size, file.sha256) for file in packed.files} == {
        path: (len(content), hashlib.sha256(content).hexdigest()) for path, content in author.files.items()
    }
    assert [file.path for file in packed.files] == sorted(author.files)


def test_the_manifest_says_all_that_the_description_says(bundle):
    described, packed = read_description(bundle), pack(bundle)
    for field in msgspec.structs.fields(Description):
        assert getattr(packed, field.name) == getattr(described, field.name)


def test_the_manifest_may_be_read_by_the_daemon_and_nothing_else_is_left(bundle):
    before = {path.name for path in bundle.iterdir()}
    pack(bundle)
    assert stat.S_IMODE((bundle / "manifest.json").stat().st_mode) & 0o444 == 0o444
    assert {path.name for path in bundle.iterdir()} == before | {"manifest.json"}


def test_packing_twice_gives_the_same_bytes(bundle):
    first = pack(bundle)
    content = (bundle / "manifest.json").read_bytes()
    assert pack(bundle) == first
    assert (bundle / "manifest.json").read_bytes() == content


def test_another_byte_in_a_file_gives_another_digest(bundle):
    first = digest(pack(bundle))
    (bundle / "model.onnx").write_bytes(b"the float modem")
    assert digest(pack(bundle)) != first


def test_what_the_bundle_does_not_name_is_no_part_of_it(bundle):
    first = digest(pack(bundle))
    (bundle / "notes.txt").write_text("to do", encoding="utf-8")
    assert digest(pack(bundle)) == first


def test_a_large_file_is_hashed_whole(bundle):
    content = bytes(range(256)) * 10_000
    (bundle / "model.onnx").write_bytes(content)
    file = pack(bundle).file("model.onnx")
    assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(bundle, monkeypatch):
    pack(bundle)
    content = (bundle / "manifest.json").read_bytes()
    (bundle / "model.onnx").write_bytes(b"another")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "write", full)
    with pytest.raises(EdgedError, match=r"manifest\.json: cannot be written: No space left") as raised:
        pack(bundle)
    assert raised.value.hint
    assert (bundle / "manifest.json").read_bytes() == content


def test_a_bundle_that_is_too_large_is_not_packed(bundle, monkeypatch):
    monkeypatch.setattr(rules, "MAX_BUNDLE_BYTES", 10)
    with pytest.raises(DocumentError, match="bytes in all are more than a bundle may hold, 10"):
        pack(bundle)
    monkeypatch.undo()
    monkeypatch.setattr(bundle_folder, "MAX_MANIFEST_BYTES", 10)
    with pytest.raises(EdgedError, match=r"manifest\.json: would have \d+ bytes, too many"):
        pack(bundle)
    assert not (bundle / "manifest.json").exists()


def test_a_folder_that_was_not_packed_says_how(bundle):
    with pytest.raises(EdgedError, match=r"has no manifest\.json; run `edgectl bundle pack"):
        read_manifest(bundle)


def test_a_folder_that_is_no_bundle_says_so(tmp_path):
    with pytest.raises(EdgedError, match=r"has no manifest\.json; name the folder of a bundle"):
        read_manifest(tmp_path)
    with pytest.raises(EdgedError, match=r"has no manifest\.json"):
        read_manifest(tmp_path / "absent")


def test_the_daemon_needs_no_description(bundle):
    packed = pack(bundle)
    (bundle / "bundle.toml").unlink()
    assert read_manifest(bundle) == packed
    assert check(bundle) == []


def test_the_daemon_does_not_care_for_a_newer_description(author, bundle):
    packed = pack(bundle)
    (bundle / "bundle.toml").write_text(author.good.replace("revision = 7", "revision = 8"), encoding="utf-8")
    assert read_manifest(bundle) == packed


# Manifests that are wrong as data: a change, the key, what came, the remedy.
SHA = "0" * 64


def listed(path: str, **more: object) -> dict[str, object]:
    return {"path": path, "size": 1, "sha256": SHA, **more}


WRONG_DATA = {
    "lying size": (lambda data: data["files"][3].update(size=5), "files[3].path", "has 6 bytes", "pack the bundle"),
    "file listed twice": (
        lambda data: data["files"].insert(1, data["files"][0]),
        "files[1].path",
        '"goldens.npz" is listed twice',
        "once",
    ),
    "files out of order": (
        lambda data: data["files"].reverse(),
        "files[1].path",
        '"model.onnx" is out of order',
        "sorted by path",
    ),
    "named file not listed": (
        lambda data: data["files"].pop(2),
        "variants[0].file",
        '"model.onnx" is not among the files',
        "pack the bundle again",
    ),
    "absolute path": (
        lambda data: data["files"].insert(0, listed("/etc/passwd")),
        "files[0].path",
        "is absolute",
        "inside the bundle",
    ),
    "path with ..": (
        lambda data: data["files"].insert(0, listed("../model.onnx")),
        "files[0].path",
        'has a part ".."',
        "inside the bundle",
    ),
    "paths that differ by case": (
        lambda data: data["files"].insert(0, listed("MODEL.onnx")),
        "files[3].path",
        '"model.onnx" and "MODEL.onnx" differ only by case',
        "rename",
    ),
    "listed and absent": (lambda data: data["files"].append(listed("z")), "files[4].path", "does not exist", "put it"),
    "unknown key": (lambda data: data.update(extra=1), "extra", "is no key known here", "allowed:"),
    "another schema": (lambda data: data.update(schema=2), "schema", "2 does not fit", "one of 1"),
    "no files": (lambda data: data.update(files=[]), "files", "[] does not fit", "1 to 100000 items"),
    "files missing": (lambda data: data.pop("files"), "files", "is missing", "give"),
    "revision as text": (lambda data: data.update(revision="7"), "revision", '"7" does not fit', "an integer"),
    "size beyond 64 bits": (
        lambda data: data["files"][0].update(size=2**70),
        "files[0].size",
        f"{2**70} does not fit",
        "an integer from 0",
    ),
    "negative size": (lambda data: data["files"][0].update(size=-1), "files[0].size", "-1 does not fit", "from 0"),
    "digest in capitals": (
        lambda data: data["files"][0].update(sha256="A" * 64),
        "files[0].sha256",
        "does not fit",
        "a SHA-256",
    ),
    "more than a bundle may hold": (
        lambda data: data["files"].append(listed("z", size=2**50)),
        "files",
        "more than a bundle may hold",
        "smaller files",
    ),
    "gap between chunks": (
        lambda data: data["files"][3].update(
            chunks=[{"offset": 0, "length": 2, "sha256": SHA}, {"offset": 3, "length": 3, "sha256": SHA}]
        ),
        "files[3].chunks[1].offset",
        "3 is not where the chunk before it ends, 2",
        "without gap or overlap",
    ),
    "chunks over a part of the file": (
        lambda data: data["files"][3].update(chunks=[{"offset": 0, "length": 2, "sha256": SHA}]),
        "files[3].chunks",
        "the chunks end at 2, and the file at 6",
        "cover the whole file",
    ),
    "floor above the revision": (lambda data: data.update(min_revision=8), "min_revision", "above", "lower it"),
    "golden of an unknown variant": (
        lambda data: data["acceptance"]["goldens"][0].update(variants=["fp32", "fp16"]),
        "acceptance.goldens[0].variants[1]",
        '"fp16" is no variant',
        "fp32, int8",
    ),
}


@pytest.mark.parametrize("what", WRONG_DATA)
def test_a_wrong_manifest_is_told_by_its_key(bundle, what):
    change, key, found, remedy = WRONG_DATA[what]
    pack(bundle)
    path = bundle / "manifest.json"
    data = json.loads(path.read_bytes())
    change(data)
    path.write_bytes(msgspec.json.encode(data, order="sorted"))
    with pytest.raises(DocumentError) as raised:
        read_manifest(bundle)
    assert raised.value.code is Code.BUNDLE_INVALID
    assert [
        problem
        for problem in raised.value.problems
        if problem.key == key and found in problem.found and remedy in problem.remedy
    ], str(raised.value)
    assert all(problem.place.file == str(path) for problem in raised.value.problems)
    assert "canonical" not in str(raised.value), "the test itself misspelled the manifest"


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda raw: raw[:-10], "is not JSON"),
        (lambda raw: raw.replace(b"digits", b"digi\xff\xfe"), "manifest.json"),
        (lambda _: b"", "is not JSON"),
        (lambda _: b"[" * 100_000, "is nested too deeply"),
        (lambda _: b'{"name":' + b"[" * 100_000, "is nested too deeply"),
        (lambda _: b"[1]", "does not fit"),
        (lambda raw: raw + b"\n", "not in canonical form"),
        (lambda raw: raw.replace(b'"revision":7', b'"revision": 7'), "not in canonical form"),
        (lambda raw: raw.replace(b'"revision":7', b'"revision":7,"revision":7'), "not in canonical form"),
        (lambda raw: raw.replace(b"[5,6,7]", b"[5.0,6,7]"), "not in canonical form"),
        (lambda raw: raw.replace(b'"revision":7', b'"revision":7,"schema":1'), "not in canonical form"),
        (lambda raw: raw.replace(b'"agreement":0.98', b'"agreement":0.98,"atol":1e-5'), "not in canonical form"),
        (lambda raw: raw.replace(b"fp32", b"\\u0066p32", 1), "not in canonical form"),
        (lambda raw: json.dumps(json.loads(raw)).encode(), "not in canonical form"),
    ],
    ids=[
        "truncated",
        "not UTF-8",
        "empty",
        "deep",
        "deep inside",
        "no table",
        "newline",
        "white space",
        "key twice",
        "fraction",
        "default spelled out",
        "nested default spelled out",
        "escape",
        "another writer",
    ],
)
def test_a_manifest_spelled_otherwise_is_refused(bundle, spoil, found):
    pack(bundle)
    path = bundle / "manifest.json"
    raw = path.read_bytes()
    path.write_bytes(spoil(raw))
    assert path.read_bytes() != raw
    with pytest.raises(EdgedError) as raised:
        read_manifest(bundle)
    assert raised.value.code is Code.BUNDLE_INVALID
    assert found in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_manifest_that_is_a_link_is_not_followed(bundle):
    pack(bundle)
    (bundle / "manifest.json").rename(bundle.parent / "manifest.json")
    (bundle / "manifest.json").symlink_to("../manifest.json")
    with pytest.raises(EdgedError, match=r"manifest\.json: is a link"):
        read_manifest(bundle)


def test_a_folder_that_may_not_be_looked_into_says_so(monkeypatch, bundle):
    pack(bundle)

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(bundle_folder.os, "lstat", refuse)
    for step in (read_description, pack, read_manifest, check):
        with pytest.raises(EdgedError, match="digits: cannot be read: Permission denied; check who may read it"):
            step(bundle)


def test_a_huge_manifest_is_not_read(bundle):
    pack(bundle)
    with (bundle / "manifest.json").open("r+b") as file:
        file.truncate(MAX_MANIFEST_BYTES + 1)
    with pytest.raises(EdgedError, match="is larger than"):
        read_manifest(bundle)


def test_thousands_of_wrong_files_make_a_bounded_answer(bundle):
    pack(bundle)
    path = bundle / "manifest.json"
    data = json.loads(path.read_bytes())
    data["files"] += [listed(f"z{number:05}") for number in range(5000)]
    path.write_bytes(msgspec.json.encode(data, order="sorted"))
    with pytest.raises(DocumentError) as raised:
        read_manifest(bundle)
    assert 100 < len(raised.value.problems) < 1000


def test_check_has_nothing_to_say_of_a_bundle_in_order(bundle):
    assert check(bundle) == []
    pack(bundle)
    assert check(bundle) == []


def test_check_warns_where_there_is_no_golden(author):
    folder = author.write("\n\n".join(block for block in author.good.split("\n\n") if "goldens" not in block))
    (folder / "goldens.npz").unlink()
    (problem,) = check(folder)
    assert problem.key == "acceptance.goldens"
    assert "at least one golden" in problem.remedy


def test_check_warns_of_a_degradation_that_is_none(author):
    folder = author.write(author.good.replace("max_batch_size = 2", "max_batch_size = 8"))
    (problem,) = check(folder)
    assert (problem.key, problem.place.line) == ("degradation.critical.max_batch_size", 43)
    assert "no less than the model's own, 8" in problem.found


def test_check_warns_of_two_variants_that_cannot_be_loaded_beside_each_other(author):
    described = author.good.replace('runtime = "onnxruntime"', 'runtime = "edgetpu"')
    folder = author.write(described)
    (problem,) = check(folder)
    assert problem.key == "variants[1].options.device"
    assert problem.found == 'may be that of "fp32", which one process at a time can have'
    on_cpu = described.replace('runtime = "edgetpu"\n', 'runtime = "edgetpu"\noptions = { device = "CPU" }\n', 1)
    (folder / "bundle.toml").write_text(on_cpu, encoding="utf-8")
    assert check(folder) == []


def test_check_warns_of_a_stale_manifest(author, bundle):
    pack(bundle)
    (bundle / "model.onnx").write_bytes(b"THE FLOAT MODEL")
    (problem,) = check(bundle)
    assert problem.place.file == str(bundle / "manifest.json")
    assert "edgectl bundle pack" in problem.remedy
    pack(bundle)
    assert check(bundle) == []
    (bundle / "bundle.toml").write_text(author.good.replace("min_revision = 2", ""), encoding="utf-8")
    assert [problem.place.file for problem in check(bundle)] == [str(bundle / "manifest.json")]
    (bundle / "manifest.json").write_bytes(b"{}")
    assert [problem.place.file for problem in check(bundle)] == [str(bundle / "manifest.json")]


def test_chunks_do_not_make_a_manifest_stale(bundle):
    packed = pack(bundle)
    *others, warmup = packed.files
    halves = (Chunk(offset=0, length=2, sha256=SHA), Chunk(offset=2, length=4, sha256=SHA))
    files = (*others, msgspec.structs.replace(warmup, chunks=halves))
    manifest = msgspec.structs.replace(packed, files=files)
    (bundle / "manifest.json").write_bytes(encode(manifest))
    assert check(bundle) == []
    assert read_manifest(bundle) == manifest


def test_check_tells_stray_files_and_follows_no_link(bundle):
    (bundle / "notes.txt").write_bytes(b"")
    (bundle / "int8" / "old.onnx").write_bytes(b"")
    (bundle / "elsewhere").symlink_to("/")
    assert stray_files(bundle, read_description(bundle)) == ["elsewhere", "int8/old.onnx", "notes.txt"]
    assert [problem.place.file for problem in check(bundle)] == [
        str(bundle / "elsewhere"),
        str(bundle / "int8/old.onnx"),
        str(bundle / "notes.txt"),
    ]


def test_check_raises_for_a_bundle_that_cannot_be_used(bundle):
    (bundle / "model.onnx").unlink()
    with pytest.raises(DocumentError, match=r"model\.onnx: does not exist"):
        check(bundle)


def attempt(step, folder):
    try:
        return step(folder), None
    except EdgedError as error:
        return None, error


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "revision", "files", "variants", "inputs", "path", "size", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=st.dictionaries(st.sampled_from([*Description.__struct_fields__, "files"]), json_values, min_size=1))
def test_any_manifest_is_read_or_refused(bundle, change):
    pack(bundle)
    path = bundle / "manifest.json"
    data = json.loads(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**data, **change}, order="sorted"))
    manifest, error = attempt(read_manifest, bundle)
    if manifest is None:
        assert error.code is Code.BUNDLE_INVALID
        assert str(path) in str(error)
    else:
        assert encode(manifest) == path.read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_description_is_packed_as_it_reads_or_refused(author, tmp_path_factory, data):
    author.root = tmp_path_factory.mktemp("any")
    lines = author.good.splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(lines) - 1))
        lines[index] = data.draw(
            st.sampled_from([*lines, "", "x = 1", 'file = ".."', "revision = 9", "shape = [-1, -1]", "agreement = 1"])
        )
    folder = author.write("\n".join(lines))
    packed, error = attempt(pack, folder)
    if packed is None:
        assert error.code is Code.BUNDLE_INVALID
        assert str(folder) in str(error)
    else:
        assert read_manifest(folder) == packed


def test_nothing_heavy_is_imported():
    code = (
        "import sys, edged.bundle.acceptance, edged.bundle.factory, edged.bundle.folder, edged.bundle.triton\n"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'openvino', 'google', 'grpc'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("[]\n", "")
