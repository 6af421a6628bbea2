"""A fleet is made as a whole or not at all, wherever power goes; and what is another's stays."""

import errno
import shutil

import pytest
from support.fleets import PASSPHRASE, Fleet
from support.powercuts import moments

from edged import durable
from edged.errors import Code, EdgedError
from edged.fleet.home import MAKING_NAME, Home
from edged.fleet.keys import Ring
from edged.fleet.listing import Listing, plan_path
from edged.fleet.starting import ROOT_NAME, start
from edged.fleet.verifying import verify


def make(folder, passphrase=PASSPHRASE):
    return start(folder, "shops", Ring(folder / "keys", [passphrase], None), {}, 1)


def make_on_a_full_disk(folder):
    """Which is full when most of it is written."""
    real, writes = durable.place, 0

    def place(source, target):
        nonlocal writes
        writes += 1
        if writes > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    durable.place = place
    try:
        with pytest.raises(OSError, match="No space"):
            make(folder)
    finally:
        durable.place = real


def check_whole(folder):
    fleet = Fleet(folder)
    assert {path.name for path in folder.iterdir()} == {"fleet.toml", "keys", "pending", "repository", ROOT_NAME}
    assert len(list(fleet.home.keys.iterdir())) == 6
    assert list(fleet.home.pending.iterdir()) == []
    assert verify(fleet.url, fleet.root.read_bytes()).problems == []
    assert Listing(fleet.signing()).get(plan_path("shops"))


def tree(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.fixture
def cut(tmp_path):
    """What is left where power went with all made but the mark's removal."""
    return moments(tmp_path / "shops", tmp_path / "left", lambda: make(tmp_path / "shops"))[-1]


class TestAPowerCut:
    @pytest.mark.parametrize("how", ["new", "again", "full disk"])
    def test_at_any_moment_leaves_what_is_made_whole_by_the_next(self, tmp_path, cut, how):
        folder = cut if how == "again" else tmp_path / "fleet"
        left = moments(folder, tmp_path / "cuts", lambda: (make_on_a_full_disk if how == "full disk" else make)(folder))
        assert len(left) > 60
        assert left[-1].joinpath(ROOT_NAME).exists() is (how != "full disk")
        for each in left:
            held = set(each.iterdir())
            assert not held or each / MAKING_NAME in held
            with pytest.raises(EdgedError, match="init` did not end" if held else "has no fleet.toml") as caught:
                Home(each)
            assert caught.value.code == Code.REPOSITORY_INVALID
            make(each)
            check_whole(each)

    @pytest.mark.parametrize("name", ["notes.txt", "keys/alice.pem", "keys/root.pem", "repository/a.zst", "pending/a"])
    def test_lets_nothing_go_that_init_does_not_make(self, tmp_path, cut, name):
        (cut / name).write_bytes(b"of the operator")
        before = tree(cut)
        with pytest.raises(EdgedError, match=f"{name}: .* is none of it"):
            make(cut)
        assert tree(cut) == before
        (cut / name).rename(tmp_path / "elsewhere")
        make(cut)
        check_whole(cut)

    def test_lets_nothing_go_that_a_link_there_leads_to(self, tmp_path, cut):
        (tmp_path / "served").mkdir()
        (tmp_path / "served/index.json").touch()
        shutil.rmtree(cut / "repository")
        (cut / "repository").symlink_to(tmp_path / "served")
        make(cut)
        check_whole(cut)
        assert (tmp_path / "served/index.json").exists()

    def test_finds_each_name_on_the_disk_once_the_mark_has_gone(self, tmp_path, monkeypatch):
        synced = []
        real = durable.sync_folder
        monkeypatch.setattr(durable, "sync_folder", lambda at: synced.append((at, {*at.iterdir()})) or real(at))
        folder = tmp_path / "a/shops"
        make(folder)
        assert synced[:3] == [(tmp_path, {tmp_path / "a"}), (folder.parent, {folder}), (folder, {folder / MAKING_NAME})]
        last = dict(synced)
        for each in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            assert last[each] == {*each.iterdir()}


class TestFailing:
    def test_takes_back_the_folders_above_that_it_made(self, tmp_path):
        (tmp_path / "a").mkdir()
        with pytest.raises(EdgedError, match="shorter"):
            make(tmp_path / "a/b/c", "short")
        assert list(tmp_path.rglob("*")) == [tmp_path / "a"]

    def test_leaves_what_another_put_there_meanwhile(self, tmp_path):
        folder = tmp_path / "a/shops"

        class Interrupted(Ring):
            def make(self, _role):
                (folder / "notes.txt").write_text("of the operator")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            start(folder, "shops", Interrupted(folder / "keys", [PASSPHRASE], None), {}, 1)
        assert (folder / "notes.txt").read_text() == "of the operator"


def test_nobody_works_on_a_fleet_that_is_being_made(tmp_path):
    refused = []

    class Watched(Ring):
        def keep(self):
            for work in (make, Home):
                with pytest.raises(EdgedError) as caught:
                    work(tmp_path / "shops")
                refused.append(caught.value.code)
            super().keep()

    start(tmp_path / "shops", "shops", Watched(tmp_path / "shops/keys", [PASSPHRASE], None), {}, 1)
    assert refused == [Code.ALREADY_RUNNING, Code.REPOSITORY_INVALID] * 2
    check_whole(tmp_path / "shops")
