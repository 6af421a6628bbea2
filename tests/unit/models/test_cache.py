"""The cache of what engines built: what it takes, what it does not trust, and what makes room."""

import hashlib
import os
from pathlib import Path

import pytest

from edged.errors import Code, EdgedError
from edged.models.cache import Cache

KEYS = [digit * 64 for digit in "abc"]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", quota_bytes=100)


def keep(cache: Cache, key: str, content: bytes, held: tuple[str, ...] = ()) -> Path:
    """Builds a file of the cache; younger than all before."""
    path, most_bytes = cache.begin(held)
    assert len(content) <= most_bytes
    path.write_bytes(content)
    built = cache.keep(path, key, held)
    made = cache.root / built.name
    os.utime(made, ns=(0, len(list(cache.root.iterdir())) * 10**9))
    return made


def test_what_is_kept_is_found_by_its_key_under_its_digest(cache):
    assert cache.look() == {}
    made = keep(cache, KEYS[0], b"built")
    built = cache.look()[KEYS[0]]
    assert (built.name, built.size, built.sha256) == (made.name, 5, hashlib.sha256(b"built").hexdigest())
    assert made.name == f"{KEYS[0]}.{built.sha256}"
    assert (made.stat().st_mode & 0o777, cache.root.stat().st_mode & 0o777) == (0o400, 0o700)
    assert not cache.damaged(built)
    cache.discard(built)
    assert cache.damaged(built)
    assert cache.look() == {}
    cache.discard(built)


def test_what_was_not_finished_or_is_called_otherwise_is_removed(cache):
    made = keep(cache, KEYS[0], b"built")
    cache.begin(())
    (cache.root / "notes.txt").write_text("no digest")
    (cache.root / f"{KEYS[1]}.{'0' * 63}").write_text("nearly one")
    (cache.root / f"{KEYS[1]}.{'0' * 64}").mkdir()
    (cache.root / f"{KEYS[2]}.{'0' * 64}").symlink_to(made)
    assert set(cache.look()) == {KEYS[0]}
    assert list(cache.root.iterdir()) == [made]


def give_away(made: Path) -> None:
    if os.getuid():
        pytest.skip("only root may give a file away")
    os.chown(made, 65534, 65534)


@pytest.mark.parametrize(
    "change",
    [
        give_away,
        lambda made: made.chmod(0o602),
        lambda made: made.chmod(0o620),
        lambda made: os.link(made, made.parents[1] / "elsewhere"),
        lambda made: made.parent.chmod(0o777),
        lambda made: made.parent.chmod(0o770),
    ],
    ids=["another's", "others write", "the group writes", "another name", "a folder for all", "a folder for the group"],
)
def test_what_others_could_have_changed_is_removed(cache, change):
    made = keep(cache, KEYS[0], b"built")
    change(made)
    assert cache.look() == {}
    assert not made.exists()
    keep(cache, KEYS[1], b"built")
    assert cache.root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("stands", ["a file", "a link"])
def test_where_the_folder_should_be_stands_something_else(cache, stands, tmp_path):
    if stands == "a file":
        cache.root.write_text("in the way")
    else:
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "precious").touch()
        cache.root.symlink_to(tmp_path / "other")
    assert cache.look() == {}
    keep(cache, KEYS[0], b"built")
    assert set(cache.look()) == {KEYS[0]}
    if stands == "a link":
        assert [path.name for path in (tmp_path / "other").iterdir()] == ["precious"]


def test_the_longest_unused_makes_room_and_what_is_held_stays(cache):
    first, second = keep(cache, KEYS[0], b"1" * 40), keep(cache, KEYS[1], b"2" * 40)
    third = keep(cache, KEYS[2], b"3" * 40, held=(KEYS[0],))
    assert [path.exists() for path in (first, second, third)] == [True, False, True]
    cache.used(cache.look()[KEYS[0]])
    second = keep(cache, KEYS[1], b"2" * 40)
    assert [path.exists() for path in (first, second, third)] == [True, True, False]


def test_what_is_held_bounds_what_may_be_built(cache):
    keep(cache, KEYS[0], b"1" * 40)
    assert cache.begin(())[1] == 100
    assert cache.begin((KEYS[0],))[1] == 60
    keep(cache, KEYS[1], b"2" * 60, held=(KEYS[0],))
    with pytest.raises(EdgedError, match=r"what is in use takes 100 bytes; free space .* workers\.derived_mib") as full:
        cache.begin(KEYS)
    assert full.value.code is Code.STORAGE_FULL


def test_what_the_disk_is_to_keep_free_is_not_built_into(tmp_path):
    disk = os.statvfs(tmp_path)
    roomy = Cache(tmp_path / "cache", quota_bytes=2**62, reserve_bytes=disk.f_bavail * disk.f_frsize // 2)
    keep(roomy, KEYS[0], b"1")
    assert roomy.begin(())[1] < disk.f_bavail * disk.f_frsize
    full = Cache(tmp_path / "cache", quota_bytes=100, reserve_bytes=disk.f_blocks * disk.f_frsize)
    with pytest.raises(EdgedError) as told:
        full.begin((KEYS[0],))
    assert told.value.code is Code.STORAGE_FULL
    assert set(full.look()) == {KEYS[0]}, "what is in use stays"
    with pytest.raises(EdgedError):
        full.begin(())
    assert full.look() == {}, "what is not makes room, though it is not enough"
