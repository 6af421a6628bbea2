"""What shared fixtures keep running on purpose, so that the leak check of `tests/conftest.py` passes over it."""

from __future__ import annotations

PROCESSES: set[int] = set()
"""Process ids of children of the test run."""
