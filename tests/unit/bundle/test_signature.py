"""Which revision callers can be moved to without noticing."""

from __future__ import annotations

import pytest
from support.standins import manifest

from edged.bundle import signature

X, Y = ("x", "FP32", (-1, 4)), ("y", "FP32", (-1, 2))
OLD = manifest(inputs=[X], outputs=[Y])


@pytest.mark.parametrize(
    "new",
    [
        manifest(inputs=[X], outputs=[Y], revision=9, max_batch_size=64),
        manifest(inputs=[("x", "FP32", (-1, -1))], outputs=[Y]),
        manifest(inputs=[X], outputs=[Y, ("more", "FP32", (-1, 1))]),
    ],
    ids=["same", "a freer input", "another output"],
)
def test_a_superset_is_compatible(new):
    assert signature.objections(OLD, new) == []


@pytest.mark.parametrize(
    ("new", "word"),
    [
        (manifest(inputs=[X], outputs=[Y], max_batch_size=4), "max_batch_size is 4, below 8"),
        (manifest(inputs=[X], outputs=[Y], max_batch_size=0), "axis 0 is no batch"),
        (manifest(inputs=[("z", "FP32", (-1, 4))], outputs=[Y]), "input 'x' is gone"),
        (manifest(inputs=[X, ("z", "FP32", (-1, 4))], outputs=[Y]), "input 'z' is new"),
        (manifest(inputs=[("x", "INT8", (-1, 4))], outputs=[Y]), "input 'x' is INT8, was FP32"),
        (manifest(inputs=[("x", "FP32", (-1, 5))], outputs=[Y]), "takes [-1, 5], took [-1, 4]"),
        (manifest(inputs=[("x", "FP32", (-1, 4, 1))], outputs=[Y]), "takes [-1, 4, 1]"),
        (manifest(inputs=[X], outputs=[("z", "FP32", (-1, 2))]), "output 'y' is gone"),
        (manifest(inputs=[X], outputs=[("y", "FP64", (-1, 2))]), "output 'y' is FP64"),
        (manifest(inputs=[X], outputs=[("y", "FP32", (-1, -1))]), "has shape [-1, -1], had [-1, 2]"),
    ],
)
def test_anything_else_is_told(new, word):
    assert any(word in each for each in signature.objections(OLD, new))
