"""The newest signed time counts while the root names a key that signed it, and nothing else does."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from edged.update.issued import Issued, keep, known, recall

AT = datetime(2026, 7, 1, tzinfo=UTC)


def root(*keys: str) -> bytes:
    return json.dumps({"signed": {"roles": {"timestamp": {"keyids": keys, "threshold": 1}}}, "signatures": []}).encode()


@pytest.mark.parametrize(
    ("content", "counts"),
    [(root("a", "b"), True), (root("b"), False), (b"{}", False), (b"", False), (b"[" * 10_000, False), (None, False)],
    ids=["names it", "revoked it", "is none", "empty", "nested", "missing"],
)
def test_it_counts_while_root_names_its_key(tmp_path, content, counts):
    keep(tmp_path, Issued(AT, ("a",)))
    if content is not None:
        (tmp_path / "root.json").write_bytes(content)
    assert recall(tmp_path) == Issued(AT, ("a",))
    assert known(tmp_path) == (AT if counts else None)


@pytest.mark.parametrize("damage", [b"", b"\xff", b'{"at": "2026-07-01T00:00:00", "keys": ["a"]}'])
def test_a_damaged_one_is_none(tmp_path, damage):
    (tmp_path / "root.json").write_bytes(root("a"))
    (tmp_path / "issued").write_bytes(damage)
    assert known(tmp_path) is None
