"""Keeps engines and numpy out of the front: they belong in workers, which can crash, leak and be ended."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

FORBIDDEN = frozenset({"numpy", "onnxruntime", "openvino", "tensorrt", "ai_edge_litert", "pycoral"})


class _Guard(MetaPathFinder):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the protocol's signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{fullname} is not imported in edged's front; it belongs in a worker")
        return None


def install() -> None:
    """From here on, importing any of FORBIDDEN in this process raises ImportError."""
    sys.meta_path.insert(0, _Guard())
