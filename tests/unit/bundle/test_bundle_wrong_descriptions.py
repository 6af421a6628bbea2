"""Wrong descriptions: each names file, line, key, what came and what to do."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edged.bundle.folder import pack, read_description
from edged.document import DocumentError
from edged.errors import Code, EdgedError


def leave_alone(folder: Path) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """`old` becomes `new` in a description in order; then `change` may spoil the folder."""

    what: str
    old: str = ""
    new: str = ""
    change: Callable[[Path], None] = leave_alone
    at: str
    """The beginning of the line that the problem must name; empty: no line."""
    key: str
    found: str
    remedy: str
    count: int = 1
    """Problems told in all."""


def replace(path: str, by: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / path).unlink()
        by(folder / path)

    return change


def link_out(path: Path) -> None:
    (path.parent.parent / "outside").write_bytes(b"elsewhere")
    path.symlink_to("../outside")


def link_folder(folder: Path) -> None:
    (folder / "int8").rename(folder.parent / "int8")
    (folder / "int8").symlink_to("../int8")


def file_for_folder(folder: Path) -> None:
    (folder / "int8" / "model.onnx").unlink()
    (folder / "int8").rmdir()
    (folder / "int8").write_bytes(b"")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def path_case(what: str, path: str, found: str) -> Wrong:
    return Wrong(
        what=what,
        old='file = "warmup.npz"',
        new=f"file = {path}",
        at=f"file = {path}",
        key="warmup[0].file",
        found=found,
        remedy="name a file inside the bundle",
    )


def file_case(what: str, change: Callable[[Path], None], found: str, remedy: str) -> Wrong:
    return Wrong(
        what=what, change=change, at='file = "int8/model.onnx"', key="variants[1].file", found=found, remedy=remedy
    )


CASES = [
    # Paths.
    path_case("absolute path", '"/etc/passwd"', '"/etc/passwd" is absolute'),
    path_case("path with ..", '"../warmup.npz"', 'has a part ".."'),
    path_case("path with .. further down", '"a/../../warmup.npz"', 'has a part ".."'),
    path_case("path with .", '"./warmup.npz"', 'has a part "."'),
    path_case("path with an empty part", '"a//warmup.npz"', "has an empty part"),
    path_case("path with a slash at its end", '"warmup/"', "has an empty part"),
    path_case("path with a backslash", r"'..\warmup.npz'", "holds a backslash"),
    path_case("path with a NUL", r'"warmup\u0000.npz"', "holds control characters"),
    path_case("path with a newline", r'"warmup\n.npz"', "holds control characters"),
    path_case("path with a turned order of letters", r'"warmup\u202Ezpn"', "or invisible ones"),
    path_case("path not in normal form", r'"u\u0308.npz"', "normal form C"),
    path_case("part with a space at its end", '"warmup .npz /x"', 'ends with " "'),
    path_case("part with a dot at its end", '"warmup."', 'ends with "."'),
    path_case("part of too many bytes", '"' + "ü" * 128 + '"', "longer than 255 bytes"),
    path_case("the description as a file", '"bundle.toml"', "is the bundle's own description"),
    path_case("the manifest as a file", '"Manifest.json"', "is the bundle's own description"),
    Wrong(
        what="empty path",
        old='file = "warmup.npz"',
        new='file = ""',
        at='file = ""',
        key="warmup[0].file",
        found='"" does not fit',
        remedy="a path inside the bundle",
    ),
    Wrong(
        what="names that differ by case",
        old='file = "warmup.npz"',
        new='file = "Goldens.npz"',
        change=lambda folder: (folder / "warmup.npz").rename(folder / "Goldens.npz") and None,
        at='file = "Goldens.npz"',
        key="warmup[0].file",
        found='"Goldens.npz" and "goldens.npz" differ only by case',
        remedy="rename",
    ),
    Wrong(
        what="a file that is also a folder",
        old='file = "warmup.npz"',
        new='file = "model.onnx/warmup.npz"',
        at='file = "model.onnx/warmup.npz"',
        key="warmup[0].file",
        found='lies inside "model.onnx", which is a file',
        remedy="rename",
        count=2,
    ),
    # Files.
    file_case("missing file", replace("int8/model.onnx", lambda _: None), "does not exist", "put it there"),
    file_case("symlinked file", replace("int8/model.onnx", link_out), "is a link", "put the file itself there"),
    file_case("symlinked folder", link_folder, "/int8: is a link", "put the folder itself there"),
    file_case("file in a folder's place", file_for_folder, "/int8: is a file", "put the folder itself there"),
    file_case("folder", replace("int8/model.onnx", Path.mkdir), "is a folder", "put the file itself there"),
    file_case("pipe", replace("int8/model.onnx", os.mkfifo), "is a named pipe (FIFO)", "put the file itself there"),
    file_case("socket", replace("int8/model.onnx", make_socket), "is a socket", "put the file itself there"),
    # Values that the schema refuses.
    Wrong(
        what="an engine that is to build and cannot",
        old='file = "int8/model.onnx"',
        new='file = "int8/model.onnx"\nderived = true',
        at="derived = true",
        key="variants[1].derived",
        found="variant \"int8\": runtime 'onnxruntime' runs the file itself and builds nothing from it",
        remedy="leave `derived` out, or use a runtime that builds: openvino, tensorrt",
    ),
    Wrong(
        what="unknown key",
        old='file = "warmup.npz"',
        new='file = "warmup.npz"\ncuont = 3',
        at="cuont = 3",
        key="warmup[0].cuont",
        found="is no key known here",
        remedy="did you mean count?",
    ),
    Wrong(
        what="wrong schema version",
        old='name = "digits"',
        new='schema = 2\nname = "digits"',
        at="schema = 2",
        key="schema",
        found="2 does not fit",
        remedy="one of 1",
    ),
    Wrong(
        what="a default priority below the lowest",
        old="[degradation.critical]",
        new="[queue]\npriority_levels = 2\ndefault_priority = 3\n[degradation.critical]",
        at="default_priority = 3",
        key="queue.default_priority",
        found="3 is below the lowest priority, 2",
        remedy="lower it, or raise priority_levels",
    ),
    Wrong(
        what="order and priorities",
        old="[degradation.critical]",
        new="[queue]\npriority_levels = 2\npreserve_ordering = true\n[degradation.critical]",
        at="preserve_ordering = true",
        key="queue.preserve_ordering",
        found="cannot hold where 2 priorities are told apart",
        remedy="leave priority_levels out, or the order",
    ),
    Wrong(
        what="a preferred batch beyond the largest",
        old="[degradation.critical]",
        new="[queue]\nmax_delay_us = 5\npreferred_batch_size = 60000\n[degradation.critical]",
        at="preferred_batch_size = 60000",
        key="queue.preferred_batch_size",
        found="60000 is above max_batch_size",
        remedy="lower it",
    ),
    Wrong(
        what="a preferred batch that nothing waits for",
        old="[degradation.critical]",
        new="[queue]\npreferred_batch_size = 1\n[degradation.critical]",
        at="preferred_batch_size = 1",
        key="queue.preferred_batch_size",
        found="has no meaning where no batch waits",
        remedy="set max_delay_us, or leave it out",
    ),
    Wrong(
        what="illegal model name",
        old='"digits"',
        new='"Digits!"',
        at='name = "Digits!"',
        key="name",
        found='"Digits!" does not fit',
        remedy="a-z, 0-9",
    ),
    Wrong(
        what="revision 0",
        old="revision = 7",
        new="revision = 0",
        at="revision = 0",
        key="revision",
        found="0 does not fit",
        remedy="an integer from 1",
    ),
    Wrong(
        what="revision as text",
        old="revision = 7",
        new='revision = "7"',
        at="revision = ",
        key="revision",
        found='"7" does not fit',
        remedy="an integer from 1",
    ),
    Wrong(
        what="revision beyond 64 bits",
        old="revision = 7",
        new=f"revision = {2**70}",
        at="revision = ",
        key="revision",
        found=f"{2**70} does not fit",
        remedy="an integer from 1",
    ),
    Wrong(
        what="budget beyond 64 bits",
        old="[degradation.critical]",
        new=f"[acceptance.budgets]\nmemory_mib = {2**64}\n[degradation.critical]",
        at=f"memory_mib = {2**64}",
        key="acceptance.budgets.memory_mib",
        found=f"{2**64} does not fit",
        remedy="to 16777216",
    ),
    Wrong(
        what="huge string",
        old="revision = 7",
        new=f'revision = 7\ndescription = "{"x" * 5000}"',
        at="description = ",
        key="description",
        found="xxx… does not fit",
        remedy="at most 4096 letters",
    ),
    Wrong(
        what="unknown datatype",
        old='datatype = "FP32"\nshape = [-1, 3]',
        new='datatype = "FLOAT"\nshape = [-1, 3]',
        at='datatype = "FLOAT"',
        key="outputs[0].datatype",
        found='"FLOAT" does not fit',
        remedy='"FP32"',
    ),
    Wrong(
        what="wrong shape",
        old="[-1, 1, 8, 8]",
        new="[-1, 1, -8, 8]",
        at="shape = [-1, 1, -8, 8]",
        key="inputs[0].shape[2]",
        found="-8 does not fit",
        remedy="an integer from -1",
    ),
    Wrong(
        what="shape of too many dimensions",
        old="[-1, 1, 8, 8]",
        new=f"[-1{', 1' * 16}]",
        at="shape = [-1, 1, 1",
        key="inputs[0].shape",
        found="does not fit",
        remedy="at most 16 items",
    ),
    Wrong(
        what="unknown level",
        old="[degradation.critical]",
        new="[degradation.hot]",
        at="[degradation.hot]",
        key="degradation.hot",
        found="is no name that fits here",
        remedy='"critical"',
    ),
    Wrong(
        what="agreement above 1",
        old="agreement = 0.98",
        new="agreement = 98",
        at="agreement = 98",
        key="acceptance.goldens[1].agreement",
        found="98 does not fit",
        remedy="from 0 to 1",
    ),
    # How parts fit together.
    Wrong(
        what="duplicate input",
        old="[[outputs]]",
        new='[[inputs]]\nname = "image"  # again\ndatatype = "INT8"\nshape = [-1]\n[[outputs]]',
        at='name = "image"  # again',
        key="inputs[1].name",
        found='"image" comes twice',
        remedy="a name of its own",
    ),
    Wrong(
        what="duplicate output",
        old="[[warmup]]",
        new='[[outputs]]\nname = "scores"  # again\ndatatype = "INT8"\nshape = [-1]\n[[warmup]]',
        at='name = "scores"  # again',
        key="outputs[1].name",
        found='"scores" comes twice',
        remedy="a name of its own",
    ),
    Wrong(
        what="duplicate variant",
        old='name = "int8"',
        new='name = "fp32" # again',
        at='name = "fp32" # again',
        key="variants[1].name",
        found='"fp32" comes twice',
        remedy="a name of its own",
        count=3,
    ),
    Wrong(
        what="floor above the revision",
        old="min_revision = 2",
        new="min_revision = 8",
        at="min_revision = 8",
        key="min_revision",
        found="8 is above the revision, 7",
        remedy="lower it",
    ),
    Wrong(
        what="batches without a batch axis",
        old="[-1, 1, 8, 8]",
        new="[1, 1, 8, 8]",
        at="shape = [1, 1, 8, 8]",
        key="inputs[0].shape",
        found="does not begin with the batch",
        remedy="begin it with -1",
    ),
    Wrong(
        what="batches of a scalar",
        old="[-1, 1, 8, 8]",
        new="[]",
        at="shape = []",
        key="inputs[0].shape",
        found="[] does not begin with the batch",
        remedy="max_batch_size = 0",
    ),
    Wrong(
        what="too few labels",
        old='["a", "b", "c"]',
        new='["a", "b"]',
        at='labels = ["a", "b"]',
        key="outputs[0].labels",
        found="has 2 entries, and the last axis of the output 3",
        remedy="one label per class",
    ),
    Wrong(
        what="labels on an input",
        old="shape = [-1, 1, 8, 8]",
        new='shape = [-1, 1, 8, 8]\nlabels = ["x"]',
        at='labels = ["x"]',
        key="inputs[0].labels",
        found="stands on an input",
        remedy="classes of an output",
    ),
    Wrong(
        what="labels along the batch",
        old="[[warmup]]",
        new='[[outputs]]\nname = "class"\ndatatype = "INT64"\nshape = [-1]\nlabels = ["x"]\n[[warmup]]',
        at='labels = ["x"]',
        key="outputs[1].labels",
        found="the shape [-1] has no axis of classes",
        remedy="leave the labels out",
    ),
    Wrong(
        what="bad specifiers",
        old=">=1.20,<2",
        new=">=1.20,two",
        at="requires = ",
        key="variants[0].requires.runtime",
        found='">=1.20,two" holds something that is no version specifier',
        remedy=">=1.20,<2",
    ),
    Wrong(
        what="cap below the need",
        old="caps = { memory_mib = 200 }",
        new="caps = { memory_mib = 20 }",
        at="caps = ",
        key="variants[0].caps.memory_mib",
        found="20 is below what the variant requires, 60",
        remedy="raise the cap",
    ),
    Wrong(
        what="golden of an unknown variant",
        old='variants = ["fp32"]',
        new='variants = ["fp32", "fp16"]',
        at='variants = ["fp32", "fp16"]',
        key="acceptance.goldens[0].variants[1]",
        found='"fp16" is no variant',
        remedy="the variants are: fp32, int8",
    ),
    Wrong(
        what="uncovered variant",
        old='variants = ["int8"]',
        new='variants = ["fp32"] # only',
        at='name = "int8"',
        key="variants[1].name",
        found='no golden covers "int8"',
        remedy="add one",
    ),
    Wrong(
        what="endless tolerance",
        old="agreement = 0.98",
        new="atol = inf",
        at="atol = inf",
        key="acceptance.goldens[1].atol",
        found="is not a finite number",
        remedy="give a finite one",
    ),
    Wrong(
        what="degradation at nominal",
        old="[degradation.critical]",
        new="[degradation.nominal]",
        at="[degradation.nominal]",
        key="degradation.nominal",
        found="costs a model nothing at level nominal",
        remedy="take it out",
    ),
    Wrong(
        what="degradation to an unknown variant",
        old='variant = "int8"',
        new='variant = "tiny"',
        at='variant = "tiny"',
        key="degradation.critical.variant",
        found='"tiny" is no variant',
        remedy="the variants are: fp32, int8",
    ),
    Wrong(
        what="drift of an unknown output",
        old='output = "scores"',
        new='output = "score"',
        at='output = "score"',
        key="drift[0].output",
        found='"score" is no output',
        remedy="the outputs are: scores",
    ),
    Wrong(
        what="drift over too few classes",
        old="[5, 6, 7]",
        new="[5, 6]",
        at="reference = [5, 6]",
        key="drift[0].reference",
        found="has 2 entries, and the last axis of the output 3",
        remedy="one count per class",
    ),
    Wrong(
        what="drift of negative counts",
        old="[5, 6, 7]",
        new="[5, 6, -7]",
        at="reference = [5, 6, -7]",
        key="drift[0].reference",
        found="-7 is no count",
        remedy="at least 0",
    ),
    Wrong(
        what="drift of falling quantiles",
        old='kind = "classes"\nreference = [5, 6, 7]',
        new='kind = "value"\nreference = [7, 6, 5]',
        at="reference = [7, 6, 5]",
        key="drift[0].reference",
        found="is not in rising order",
        remedy="the lowest first",
    ),
    Wrong(
        what="classes to review",
        old="reference = [5, 6, 7]",
        new="reference = [5, 6, 7]\nreview_below = 0.5",
        at='kind = "classes"',
        key="drift[0].kind",
        found="classes have no results to review",
        remedy='watch the "confidence" beside them',
    ),
    Wrong(
        what="a review of everything",
        old='kind = "classes"\nreference = [5, 6, 7]',
        new='kind = "value"\nreference = [5, 6, 7]\nreview_below = 7\nreview_above = 5',
        at="review_below = 7",
        key="drift[0].review_below",
        found="lies above review_above",
        remedy="exchange the two",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_a_wrong_description_is_told_at_its_place(case, author):
    assert case.old in author.good
    text = author.good.replace(case.old, case.new, 1) if case.old else author.good
    folder = author.write(text)
    case.change(folder)
    with pytest.raises(DocumentError) as raised:
        read_description(folder)
    assert raised.value.code is Code.BUNDLE_INVALID
    matching = [
        problem
        for problem in raised.value.problems
        if problem.key == case.key and case.found in problem.found and case.remedy in problem.remedy
    ]
    assert len(matching) == 1, str(raised.value)
    (line,) = [number for number, line in enumerate(text.splitlines(), 1) if line.startswith(case.at)]
    assert (matching[0].place.file, matching[0].place.line) == (str(folder / "bundle.toml"), line)
    assert len(raised.value.problems) == case.count, str(raised.value)


def test_the_same_description_without_a_mistake_is_read(bundle):
    assert read_description(bundle).name == "digits"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_batch_size = 8", ""),
        ("max_batch_size = 8", "max_batch_size = 0"),
        ('variant = "int8"\nmax_batch_size = 2', "min_priority = 1"),
        ("[5, 6, 7]", "[0, 6, 7]"),
        ('kind = "classes"\nreference = [5, 6, 7]', 'kind = "value"\nreference = [-3.5, -1, -1, 0, 7]'),
        ('kind = "classes"\nreference = [5, 6, 7]', 'kind = "confidence"\nreference = [0.5, 0.9]'),
        ("shape = [-1, 3]", "shape = [-1, -1]"),
        ('variants = ["fp32"]', ""),
        ('variants = ["int8"]\nagreement', 'variants = ["fp32", "int8"]\nagreement'),
        ("caps = { memory_mib = 200 }", "caps = { memory_mib = 60 }"),
        ("caps = { memory_mib = 200 }", "caps = { load_s = 5 }"),
        ("min_revision = 2", "min_revision = 7"),
        ('runtime = ">=1.20,<2", ', ""),
        ('name = "scores"', 'name = "image"'),
    ],
)
def test_other_descriptions_in_order_are_read(author, old, new):
    text = author.good.replace(old, new, 1)
    assert text != author.good
    # Both name the output: where it is called otherwise, the drift must be, too.
    folder = author.write(text.replace('output = "scores"', 'output = "image"') if "image" in new else text)
    assert read_description(folder).revision == 7


def test_without_batches_the_last_axis_may_be_the_only_one(author):
    text = author.good.replace("max_batch_size = 8\n", "").replace("shape = [-1, 3]", "shape = [3]")
    assert read_description(author.write(text.replace("[-1, 1, 8, 8]", "[]"))).outputs[0].shape == (3,)


@pytest.mark.parametrize("table", ["inputs", "outputs", "variants"])
def test_a_missing_part_is_named(author, table):
    blocks = [block for block in author.good.split("\n\n") if not block.startswith(f"[[{table}]]")]
    folder = author.write("\n\n".join(blocks))
    with pytest.raises(DocumentError) as raised:
        read_description(folder)
    assert [(problem.key, problem.found) for problem in raised.value.problems] == [(table, "is missing")]
    assert str(folder / "bundle.toml") in str(raised.value)


def test_a_key_that_does_not_fit_hides_nothing_beside_it(author):
    text = author.good.replace('["a", "b", "c"]', '["a"]\nlables = 1').replace(
        "agreement = 0.98", 'atol = inf\nrtol = "x"'
    )
    with pytest.raises(DocumentError) as raised:
        read_description(author.write(text))
    assert [problem.key for problem in raised.value.problems] == [
        "outputs[0].labels",
        "outputs[0].lables",
        "acceptance.goldens[1].atol",
        "acceptance.goldens[1].rtol",
    ]


def test_hundreds_of_problems_make_a_bounded_answer(author):
    text = author.good + "".join(f"key{number} = 1\n" for number in range(5000))
    with pytest.raises(DocumentError, match="more than 200 things do not fit") as raised:
        read_description(author.write(text))
    assert len(raised.value.problems) < 210


def test_every_problem_is_told_at_once_in_the_order_of_the_file(author):
    text = author.good.replace("revision = 7", "revision = 0", 1).replace('"b", ', "", 1).replace("1.20", "x", 1)
    folder = author.write(text.replace('"warmup.npz"', '"/warmup.npz"') + "nonsense = 1\n")
    (folder / "goldens.npz").unlink()
    with pytest.raises(DocumentError) as raised:
        read_description(folder)
    keys = [problem.key for problem in raised.value.problems]
    # The rules need a revision, so what they say waits; whatever can be said without it is not held back.
    assert keys == ["revision", "acceptance.goldens[1].file", "drift[0].nonsense"]
    (folder / "bundle.toml").write_text(
        (folder / "bundle.toml").read_text().replace("revision = 0", "revision = 7"), encoding="utf-8"
    )
    with pytest.raises(DocumentError) as raised:
        read_description(folder)
    assert [problem.key for problem in raised.value.problems] == [
        "outputs[0].labels",
        "warmup[0].file",
        "variants[0].requires.runtime",
        "acceptance.goldens[1].file",
        "drift[0].nonsense",
    ]
    lines = [problem.place.line for problem in raised.value.problems]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("name = \n", "bundle.toml"),
        ("description = " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ("[acceptance" + ".a" * 3000 + "]\n", "nested too deeply"),
        ("x" * 300_000, "larger than 256 KiB"),
        ("revision = " + "9" * 5000, "bundle.toml"),
    ],
    ids=["no value", "deep array", "deep table", "huge file", "endless number"],
)
def test_text_that_cannot_be_read_is_refused(author, text, found):
    folder = author.write(text)
    with pytest.raises(EdgedError) as raised:
        read_description(folder)
    assert raised.value.code is Code.BUNDLE_INVALID
    assert found in str(raised.value)
    assert str(folder / "bundle.toml") in str(raised.value)


def test_bytes_that_are_no_text_are_refused(bundle):
    (bundle / "bundle.toml").write_bytes(b'name = "digits"\nlicense = "\xff"\n')
    with pytest.raises(EdgedError, match=r"bundle\.toml:2: .*UTF-8"):
        read_description(bundle)


def test_a_folder_without_a_description_is_refused(tmp_path):
    with pytest.raises(EdgedError, match=r"has no bundle\.toml; write one there"):
        read_description(tmp_path)


@pytest.mark.parametrize(
    ("put", "what"), [(os.mkfifo, "is a named pipe"), (Path.mkdir, "is a folder"), (link_out, "is a link")]
)
def test_a_description_that_is_no_file_is_refused(bundle, put, what):
    (bundle / "bundle.toml").unlink()
    put(bundle / "bundle.toml")
    with pytest.raises(EdgedError, match=rf"bundle\.toml: {what}"):
        read_description(bundle)


def test_a_device_is_refused(bundle):
    (bundle / "model.onnx").unlink()
    try:
        os.mknod(bundle / "model.onnx", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("making a device needs a privilege that this user lacks")
    with pytest.raises(DocumentError, match=r"variants\[0\]\.file: .*model\.onnx: is a device"):
        pack(bundle)
