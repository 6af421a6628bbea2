"""Adds engines to edged that only tests have; imported by a `.pth` file at the start of an interpreter of theirs."""

from edged.runtimes.base import ENGINES, Engine

for name in ("hostile", "threaded", "reaching", "threaded_reaching", "absent", "building"):
    ENGINES[name] = Engine(
        name=name,
        module=f"support.{name}_engine",
        distributions=("msgspec",),
        extra="none",
        environment={},
        derives=name == "building",
    )
