"""Which variants cannot be loaded beside each other."""

from __future__ import annotations

import pytest

from edged.bundle.exclusion import excludes
from edged.bundle.manifest import Options, Variant


def variant(device: str, runtime: str = "edgetpu") -> Variant:
    return Variant(name="v", runtime=runtime, file="f", options=Options(device=device))


@pytest.mark.parametrize(
    ("one", "other", "excluded"),
    [
        ("", "", True),
        ("", "usb", True),
        ("", "pci:1", True),
        ("usb", "usb", True),
        ("usb", "usb:1", True),
        ("usb:0", "usb:0", True),
        (":0", "usb:1", True),
        (":0", "", True),
        (":0", ":0", True),
        (":0", ":1", False),
        ("usb:0", "usb:1", False),
        ("usb", "pci", False),
        ("usb:0", "pci:0", False),
        ("CPU", "", False),
        ("CPU", "CPU", False),
        ("CPU", "usb:0", False),
    ],
)
def test_an_edge_tpu_is_one_processs(one: str, other: str, *, excluded: bool):
    assert excludes(variant(one), variant(other)) is excludes(variant(other), variant(one)) is excluded


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "abacus"])
def test_other_engines_share_what_they_run_on(runtime: str):
    assert not excludes(variant("", runtime), variant("", runtime))
    assert not excludes(variant(""), variant("", runtime))
    assert not excludes(variant("", runtime), variant(""))
