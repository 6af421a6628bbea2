"""What an operator does with a fleet: keys, edits that wait, rotations, exports; and nothing is lost on the way."""

import contextlib
import errno
import json
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from support.fleets import DIGITS, DIGITS_2, PASSPHRASE, REPO, Device, Fleet, copy_fleet, make_fleet, overwrite
from support.permissions import plain_user

from edged import clock, durable
from edged.errors import Code, EdgedError
from edged.fleet import operators, planning, roles, rotating
from edged.fleet.collecting import collect
from edged.fleet.exporting import export
from edged.fleet.home import Home
from edged.fleet.keys import Ring, unlock
from edged.fleet.listing import Listing
from edged.fleet.publishing import publish
from edged.fleet.signing import Signing, sign
from edged.fleet.starting import start
from edged.fleet.verifying import verify
from edged.types import Operators
from edged.update.plan import Wave

KEY = "ab" * 32
DIGITS_3 = REPO / "tests/data/bundles/digits-3-wrong"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return make_fleet(tmp_path_factory.mktemp("fleet") / "shops", {"root": (2, 3)})


@pytest.fixture
def fleet(made, tmp_path):
    return copy_fleet(made, tmp_path / "shops")


def problems(fleet):
    return verify(fleet.url, fleet.root.read_bytes()).problems


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def without(fleet, *names):
    """A ring that lacks the keys of some roles, as where they are offline."""
    for role in names:
        for path in fleet.home.keys.glob(f"{role}-*.pem"):
            away = fleet.folder.parent / "offline"
            away.mkdir(exist_ok=True)
            shutil.move(path, away)
    return fleet.folder.parent / "offline"


class TestKeys:
    def test_are_ed25519_under_a_passphrase_and_readable_by_their_owner_alone(self, fleet):
        files = list(fleet.home.keys.glob("*.pem"))
        assert len(files) == 8
        for path in files:
            assert path.stat().st_mode & 0o777 == 0o600
            assert b"ENCRYPTED PRIVATE KEY" in path.read_bytes()

    def test_lie_nowhere_in_what_is_served(self, fleet):
        for content in tree(fleet.home.repository).values():
            assert b"PRIVATE" not in content

    def test_do_not_open_with_another_passphrase(self, fleet):
        ring = Ring(fleet.home.keys, ["another one"], None)
        with pytest.raises(EdgedError, match="none of the passphrases given opens it") as caught:
            ring.of_role("plans")
        assert caught.value.code == Code.KEY_UNUSABLE
        with pytest.raises(EdgedError, match="its passphrase is not known, and nobody is there to ask"):
            Ring(fleet.home.keys, [], None).of_role("plans")
        with pytest.raises(EdgedError, match="is wrong"):
            Ring(fleet.home.keys, [], lambda _: "wrong as well").of_role("plans")
        asked = []
        ring = Ring(fleet.home.keys, [], lambda what: asked.append(what) or PASSPHRASE)
        assert ring.of_role("plans")
        assert ring.of_role("models")
        assert len(asked) == 1, "what opened one is tried on the next"

    def test_of_other_kinds_are_refused(self, fleet):
        ring = fleet.signing().ring
        path = fleet.home.keys / f"plans-{'0' * 16}.pem"
        for content, said in ((b"rubbish", "no private key"), (self.open_key(), "not encrypted")):
            path.write_bytes(content)
            with pytest.raises(EdgedError, match=said) as caught:
                Ring(ring.folder, [PASSPHRASE], None).of_role("plans")
            assert caught.value.code == Code.KEY_UNUSABLE

    def open_key(self):
        made = subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519"], capture_output=True, check=True)
        return made.stdout

    def test_that_may_not_be_read_are_no_keys_that_are_elsewhere(self, fleet, monkeypatch):
        monkeypatch.chdir(fleet.folder)  # the folders above are closed to a plain user as well
        fleet.folder.chmod(0o755)
        (keyid,) = fleet.signing().targets("targets").signed.delegations.roles["plans"].keyids
        own = fleet.folder / "own.pem"
        own.touch(0)
        fleet.home.keys.chmod(0)
        with plain_user():
            for asking in (lambda ring: ring.of_role("plans"), lambda ring: ring.has("plans", keyid)):
                with pytest.raises(EdgedError, match="keys may not be read by you") as caught:
                    asking(Ring(Path("keys"), [PASSPHRASE], None))
                assert caught.value.code == Code.NOT_PERMITTED
            with pytest.raises(EdgedError, match=r"own\.pem may not be read by you") as caught:
                unlock(Path(own.name), [PASSPHRASE], None)
            assert caught.value.code == Code.NOT_PERMITTED

    def test_need_a_passphrase_worth_the_name(self, tmp_path):
        with pytest.raises(EdgedError, match="shorter"):
            Ring(tmp_path, ["short"], None).make("root")


class TestPublishing:
    def test_again_changes_nothing(self, fleet):
        before = tree(fleet.folder)
        published = fleet.publish(DIGITS)
        assert not published.changed
        assert published.new_chunks == 0
        assert tree(fleet.folder) == before

    def test_again_mends_what_is_missing(self, fleet):
        victim = fleet.chunks()[0]
        victim.unlink()
        assert any(victim.name in problem for problem in problems(fleet))
        assert fleet.publish(DIGITS).new_chunks + fleet.publish(DIGITS_2).new_chunks == 1
        assert problems(fleet) == []

    def test_again_mends_what_is_damaged(self, fleet):
        victim = fleet.chunks()[0]
        raw = bytearray(victim.read_bytes())
        raw[len(raw) // 2] ^= 1
        overwrite(victim, bytes(raw))
        assert any(victim.name in problem for problem in problems(fleet))
        assert fleet.publish(DIGITS).new_chunks + fleet.publish(DIGITS_2).new_chunks == 1
        assert problems(fleet) == []

    def test_a_revision_never_changes(self, fleet, tmp_path):
        shutil.copytree(DIGITS, tmp_path / "digits")
        text = (tmp_path / "digits/bundle.toml").read_text()
        (tmp_path / "digits/bundle.toml").write_text(text.replace("Handwritten", "Other"))
        with pytest.raises(EdgedError, match="published with another content"):
            fleet.publish(tmp_path / "digits")

    def test_raises_the_floor_and_refuses_what_lies_below(self, fleet, tmp_path):
        shutil.copytree(DIGITS, tmp_path / "digits")
        text = (tmp_path / "digits/bundle.toml").read_text()
        (tmp_path / "digits/bundle.toml").write_text(text.replace("revision = 1", "revision = 5\nmin_revision = 3"))
        fleet.publish(tmp_path / "digits")
        assert Listing(fleet.signing()).floor("digits") == 3
        with pytest.raises(EdgedError, match="below the floor"):
            fleet.publish(DIGITS_2)
        with pytest.raises(EdgedError, match="below the floor"):
            planning.check(Listing(fleet.signing()), "digits", "generic", 2)

    def test_cut_off_at_each_durable_step_is_seen_as_before_or_after(self, fleet, tmp_path, monkeypatch):
        shutil.copytree(DIGITS, tmp_path / "digits")
        text = (tmp_path / "digits/bundle.toml").read_text()
        (tmp_path / "digits/bundle.toml").write_text(text.replace("revision = 1", "revision = 3"))
        original = durable.place

        class PowerCutError(Exception):
            pass

        step = 0
        while True:
            left = step
            trial = copy_fleet(fleet, tmp_path / f"trial-{step}")

            def place(source, target):
                nonlocal left
                if left == 0:
                    raise PowerCutError
                left -= 1
                original(source, target)

            with monkeypatch.context() as patch:
                patch.setattr(durable, "place", place)
                try:
                    trial.publish(tmp_path / "digits")
                    break
                except PowerCutError:
                    pass
            assert problems(trial) == []
            Fleet(trial.folder).publish(tmp_path / "digits")
            assert Listing(trial.signing()).manifest("digits", 3) is not None
            assert problems(trial) == []
            step += 1
        assert step >= 6

    def test_what_was_changed_since_it_was_packed_is_refused(self, fleet, tmp_path):
        shutil.copytree(DIGITS, tmp_path / "digits")
        (tmp_path / "digits/bundle.toml").unlink()
        content = bytearray((tmp_path / "digits/model.onnx").read_bytes())
        content[100] ^= 1
        (tmp_path / "digits/model.onnx").write_bytes(content)
        manifest = (tmp_path / "digits/manifest.json").read_bytes()
        (tmp_path / "digits/manifest.json").write_bytes(manifest.replace(b'"revision":1', b'"revision":7'))
        with pytest.raises(EdgedError) as caught:
            fleet.publish(tmp_path / "digits")
        assert caught.value.code == Code.DIGEST_MISMATCH

    def test_two_at_a_time_do_not_meet(self, fleet):
        with fleet.home.locked(), pytest.raises(EdgedError) as caught, Home(fleet.folder).locked():
            pass
        assert caught.value.code == Code.ALREADY_RUNNING

    def test_a_model_of_many_revisions_stays_small_for_devices(self, fleet):
        """Each bin has its part; a device reads the bins of the revisions that it wants."""
        listing = Listing(fleet.signing())
        bins = {listing.role_of(f"models/digits/{revision}.json") for revision in range(64)}
        assert bins == {f"models-{number}" for number in range(4)}


class TestVerifying:
    def test_finds_nothing_in_what_is_whole(self, fleet):
        found = verify(fleet.url, fleet.root.read_bytes())
        assert found.problems == []
        assert found.revisions == [("digits", 1), ("digits", 2)]
        assert set(found.expires) == {"root", "targets", "models", "plans", "snapshot", "timestamp"}

    def test_finds_a_flipped_bit_in_any_file(self, fleet):
        kept = {}
        for path in [*fleet.home.metadata.glob("*"), *fleet.home.targets.rglob("*.json"), *fleet.chunks()]:
            if path.name != "1.root.json" and self.is_named(fleet, path):  # that one comes with the image
                kept[path] = path.read_bytes()
        assert len(kept) > 15
        for path, content in kept.items():
            middle = len(content) // 2
            overwrite(path, content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
            with contextlib.suppress(EdgedError):
                assert problems(fleet), path
            overwrite(path, content)
        assert problems(fleet) == []

    def is_named(self, fleet, path):
        """Whether what is published now refers to it: older versions lie there too."""
        if path.parent != fleet.home.metadata:
            plans = path.parent.name == "plans"
            return not plans or path.name.startswith(Listing(fleet.signing()).digest("plans/shops.json"))
        version, _, role = path.name.removesuffix(".json").rpartition(".")
        return not version.isdecimal() or int(version) == fleet.signing().version(role)

    def test_finds_a_plan_that_names_what_is_not_there(self, fleet):
        signing = fleet.signing()
        listing = Listing(signing)
        planning.put(signing, listing, planning.settled(listing.plan(), "digits", "generic", 9))
        assert any("revision 9" in problem for problem in problems(fleet))


class TestPlanning:
    def test_refuses_what_is_not_published_or_not_for_the_class(self, fleet, tmp_path):
        listing = Listing(fleet.signing())
        with pytest.raises(EdgedError) as caught:
            planning.check(listing, "digits", "generic", 7)
        assert caught.value.code == Code.REVISION_NOT_FOUND
        shutil.copytree(DIGITS, tmp_path / "digits")
        text = (tmp_path / "digits/bundle.toml").read_text().replace("revision = 1", "revision = 3")
        text = text.replace('runtime = "onnxruntime",', 'runtime = "onnxruntime", hardware_classes = ["jetson"],')
        (tmp_path / "digits/bundle.toml").write_text(text)
        fleet.publish(tmp_path / "digits")
        planning.check(Listing(fleet.signing()), "digits", "jetson", 3)
        with pytest.raises(EdgedError, match="made for jetson") as caught:
            planning.check(Listing(fleet.signing()), "digits", "generic", 3)
        assert caught.value.code == Code.INCOMPATIBLE_HARDWARE

    def test_takes_a_rollout_from_wave_to_wave(self, fleet):
        waves = (Wave(percent=1), Wave(percent=50), Wave(percent=100))
        fleet.plan(lambda plan: planning.rolled(plan, "digits", "generic", 2, waves, 0, ""))
        said = []
        for step in ("next", "pause", "resume", "next"):
            fleet.plan(lambda plan, step=step: planning.moved(plan, "digits", "generic", step))
            terms = planning.terms_of(Listing(fleet.signing()).plan(), "digits", "generic")
            said.append((terms.revision, terms.rollout.open_wave, terms.rollout.status))
        assert said == [(1, 1, "active"), (1, 1, "paused"), (1, 1, "active"), (1, 2, "active")]
        with pytest.raises(EdgedError, match="is open"):
            fleet.plan(lambda plan: planning.moved(plan, "digits", "generic", "next"))
        fleet.plan(lambda plan: planning.moved(plan, "digits", "generic", "finish"))
        terms = planning.terms_of(Listing(fleet.signing()).plan(), "digits", "generic")
        assert (terms.revision, terms.rollout) == (2, None)

    def test_does_not_sign_what_does_not_hold_together(self, fleet):
        before = fleet.signing().version("plans")
        waves = (Wave(percent=50), Wave(percent=1))
        with pytest.raises(EdgedError) as caught:
            fleet.plan(lambda plan: planning.rolled(plan, "digits", "generic", 2, waves, 0, ""))
        assert caught.value.code == Code.PLAN_INVALID
        assert fleet.signing().version("plans") == before

    @pytest.mark.parametrize("step", ["next", "finish"])
    def test_goes_on_with_nothing_that_was_aborted_before_it_is_resumed(self, fleet, step):
        fleet.plan(
            lambda plan: planning.rolled(plan, "digits", "generic", 2, (Wave(percent=1), Wave(percent=9)), 0, "")
        )
        fleet.plan(lambda plan: planning.moved(plan, "digits", "generic", "abort"))
        with pytest.raises(EdgedError, match="plan wave digits --class generic resume") as caught:
            fleet.plan(lambda plan: planning.moved(plan, "digits", "generic", step))
        assert caught.value.code == Code.PLAN_INVALID
        fleet.plan(lambda plan: planning.moved(plan, "digits", "generic", "resume"))
        fleet.plan(lambda plan: planning.moved(plan, "digits", "generic", step))

    def test_names_what_does_not_fit_and_not_the_whole_rollout(self, fleet):
        waves = (Wave(percent=1), Wave(percent=200))
        with pytest.raises(EdgedError, match=r"rollout\.waves\[1\]\.percent 200 does not fit; .* above 0 to 100"):
            fleet.plan(lambda plan: planning.rolled(plan, "digits", "generic", 2, waves, 0, ""))


def locked_out(fleet, *named):
    """As it is read with a passphrase that opens no key; where roles are named, none of theirs alone."""
    for role in named:
        for path in fleet.home.keys.glob(f"{role}-*.pem"):
            key, _ = unlock(path, [PASSPHRASE], None)
            under = BestAvailableEncryption(b"of somebody else")
            overwrite(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, under))
    return Signing(fleet.home, Ring(fleet.home.keys, [PASSPHRASE if named else "another one"], None))


CHANGES = {
    "a plan": lambda signing: planning.put(
        signing, listing := Listing(signing), planning.settled(listing.plan(), "digits", "generic", 2)
    ),
    "a bundle": lambda signing: publish(signing.home, signing, DIGITS_3),
    "an operator": lambda signing: operators.add(signing, "alice", KEY, ["refresh"], []),
    "a key": lambda signing: rotating.rotate(signing, "plans", ""),
    "an online key": lambda signing: rotating.rotate(signing, "timestamp", ""),
    "a period": lambda signing: rotating.expire(signing, "plans", 7),
    "an online period": lambda signing: rotating.expire(signing, "timestamp", 7),
}


class TestChangesThatFail:
    @pytest.mark.parametrize("roles_closed", [(), roles.ONLINE], ids=["every key", "the online keys"])
    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_leave_nothing_that_is_published_later(self, fleet, change, roles_closed):
        signing = locked_out(fleet, *roles_closed)
        before = {name: read for name, read in tree(fleet.folder).items() if not name.startswith("repository")}
        served = roles_served(fleet)
        with pytest.raises(EdgedError, match="none of the passphrases given"):
            change(signing)
        after = {name: read for name, read in tree(fleet.folder).items() if not name.startswith("repository")}
        assert after == before, "no edit that waits, no new key, no other period"
        assert roles_served(fleet) == served
        if not roles_closed:
            assert fleet.signing().install(renew=True) == []
            assert {role: at for role, at in roles_served(fleet).items() if role not in roles.ONLINE} == {
                role: at for role, at in served.items() if role not in roles.ONLINE
            }
            assert problems(fleet) == []
            change(fleet.signing())
            assert roles_served(fleet) != served

    def test_are_told_as_new_once_they_are_published(self, fleet):
        with pytest.raises(EdgedError):
            publish(fleet.home, locked_out(fleet), DIGITS_3)
        assert publish(fleet.home, fleet.signing(), DIGITS_3).changed

    def test_need_no_key_that_is_only_for_publishing_where_they_wait(self, fleet):
        without(fleet, "targets")
        waiting = operators.add(locked_out(fleet, "snapshot"), "alice", KEY, ["refresh"], [])
        assert [each.role for each in waiting] == ["targets"]


def roles_served(fleet):
    """The version of each role that a device reads."""
    signing = Signing(fleet.home, Ring(fleet.home.keys, [], None))
    named = (*roles.KEYED, *(f"models-{number}" for number in range(4)))
    return {role: signing.version(role) for role in named}


class TestEditsThatWait:
    def test_are_signed_elsewhere_and_come_back(self, fleet, tmp_path):
        offline = without(fleet, "targets", "root")
        waiting = operators.add(fleet.signing(), "alice", KEY, ["refresh"], [])
        assert [(each.role, each.has, each.needs) for each in waiting] == [("targets", 0, 1)]
        assert Listing(fleet.signing()).operators().operators == ()
        carried = tmp_path / "carried"
        shutil.copytree(fleet.home.pending, carried)
        signed = sign(carried, Ring(offline, [PASSPHRASE], None))
        assert len(signed) == 1
        shutil.rmtree(fleet.home.pending)
        shutil.copytree(carried, fleet.home.pending)
        assert fleet.signing().install(renew=True) == []
        (alice,) = Listing(fleet.signing()).operators().operators
        assert (alice.name, alice.may) == ("alice", ("refresh",))
        assert problems(fleet) == []
        assert not list(fleet.home.pending.iterdir())

    def test_are_read_when_the_repository_is_verified(self, fleet):
        operators.add(fleet.signing(), "alice", KEY, ["refresh"], [])
        assert problems(fleet) == []
        (kept,) = fleet.home.repository.rglob("*operators.json")
        kept.write_bytes(kept.read_bytes().replace(b"alice", b"malon"))
        (problem,) = problems(fleet)
        assert "operators.json" in problem

    def test_do_not_hold_up_others(self, fleet):
        without(fleet, "targets")
        operators.add(fleet.signing(), "alice", KEY, ["refresh"], [])
        fleet.run_revision(2)
        assert planning.terms_of(Listing(fleet.signing()).plan(), "digits", "generic").revision == 2
        with pytest.raises(EdgedError, match="waits for signatures"):
            operators.add(fleet.signing(), "bob", KEY, ["refresh"], [])

    def test_wait_for_the_online_keys_too(self, fleet):
        offline = without(fleet, "snapshot", "timestamp")
        waiting = fleet.plan(lambda plan: planning.settled(plan, "digits", "generic", 2))
        assert waiting is None
        assert planning.terms_of(Listing(fleet.signing()).plan(), "digits", "generic").revision == 1
        for path in offline.iterdir():
            shutil.move(path, fleet.home.keys)
        assert fleet.signing().install(renew=True) == []
        assert planning.terms_of(Listing(fleet.signing()).plan(), "digits", "generic").revision == 2

    def test_one_root_of_two_is_not_enough(self, fleet):
        away = sorted(fleet.home.keys.glob("root-*.pem"))[:2]
        for path in away:
            shutil.move(path, fleet.folder.parent)
        _, waiting = rotating.rotate(fleet.signing(), "timestamp", "")
        assert [(each.role, each.has, each.needs) for each in waiting] == [("root", 1, 2)]
        assert fleet.signing().version("root") == 1
        shutil.move(fleet.folder.parent / away[0].name, fleet.home.keys)
        sign(fleet.home.pending, fleet.signing().ring)
        assert fleet.signing().install() == []
        assert fleet.signing().version("root") == 2
        assert problems(fleet) == []

    def test_with_a_signature_by_another_key_still_wait(self, fleet, tmp_path):
        without(fleet, "targets")
        operators.add(fleet.signing(), "mallory", KEY, ["install"], [])
        (tmp_path / "evil").mkdir()
        evil = Ring(tmp_path / "evil", [PASSPHRASE], None)
        evil.make("targets")
        assert sign(fleet.home.pending, evil)
        assert [each.role for each in fleet.signing().install(renew=True)] == ["targets"]
        assert Listing(fleet.signing()).operators().operators == ()


class TestRotation:
    @pytest.mark.parametrize("role", ["targets", "models", "plans", "snapshot", "timestamp"])
    def test_of_a_key_leaves_all_whole_and_the_old_key_worthless(self, fleet, role, tmp_path):
        (old,) = fleet.home.keys.glob(f"{role}-*.pem")
        key, waiting = rotating.rotate(fleet.signing(), role, "")
        assert waiting == []
        old.unlink()
        assert key.keyid[:16] in next(fleet.home.keys.glob(f"{role}-*.pem")).name
        assert problems(fleet) == []
        fleet.publish(DIGITS)
        fleet.run_revision(2)
        fleet.signing().install(renew=True)
        assert problems(fleet) == []
        device = Device(tmp_path / "device", fleet.root, fleet.url)
        assert device.plan().status == 0

    def test_of_a_root_needs_the_one_that_goes_to_be_named(self, fleet):
        with pytest.raises(EdgedError, match="has 3 keys"):
            rotating.rotate(fleet.signing(), "root", "")
        first = fleet.signing().root().signed.roles["root"].keyids[0]
        _, waiting = rotating.rotate(fleet.signing(), "root", first)
        assert waiting == []
        assert first not in fleet.signing().root().signed.roles["root"].keyids
        assert problems(fleet) == []


class TestRenewal:
    def test_touches_the_snapshot_at_half_its_time_only(self, fleet):
        before = fleet.signing().version("snapshot"), fleet.signing().version("timestamp")
        fleet.signing(clock.wall() + timedelta(days=5)).install(renew=True)
        assert (fleet.signing().version("snapshot"), fleet.signing().version("timestamp")) == (before[0], before[1] + 1)
        fleet.signing(clock.wall() + timedelta(days=16)).install(renew=True)
        assert fleet.signing().version("snapshot") == before[0] + 1

    def test_needs_the_online_keys_only(self, fleet):
        without(fleet, "root", "targets", "models", "plans")
        assert fleet.signing().install(renew=True) == []

    @pytest.mark.parametrize("role", roles.KEYED)
    def test_expire_changes_how_long_signatures_last(self, fleet, role):
        assert rotating.expire(fleet.signing(), role, 7) == []
        assert getattr(Home(fleet.folder).settings.expiry_days, role) == 7
        found = verify(fleet.url, fleet.root.read_bytes()).expires[role] - clock.wall()
        assert timedelta(days=6) < found <= timedelta(days=7)
        with pytest.raises(EdgedError, match="from 1 to 3650"):
            rotating.expire(fleet.signing(), role, 0)

    @pytest.mark.parametrize("away", roles.ONLINE)
    @pytest.mark.parametrize("role", roles.ONLINE)
    def test_expire_changes_nothing_where_an_online_key_is_elsewhere(self, fleet, role, away):
        without(fleet, away)
        before = tree(fleet.folder)
        with pytest.raises(EdgedError, match=f"nothing is changed: {away} must be signed") as caught:
            rotating.expire(fleet.signing(), role, 7)
        assert caught.value.code == Code.KEY_UNUSABLE
        assert tree(fleet.folder) == before

    @pytest.mark.parametrize("away", roles.ONLINE)
    def test_renew_says_that_nothing_is_renewed_where_an_online_key_is_elsewhere(self, fleet, away):
        """A timer runs it: whoever looks after that must hear that the repository expires."""
        without(fleet, away)
        before = tree(fleet.folder)
        with pytest.raises(EdgedError, match=f"nothing is changed: {away} must be signed by keys elsewhere") as caught:
            rotating.renew(fleet.signing())
        assert caught.value.code == Code.KEY_UNUSABLE
        assert tree(fleet.folder) == before

    def test_a_timestamp_tells_when_it_was_issued(self, fleet):
        now = datetime(2026, 12, 1, 12, 0, 0, 5, tzinfo=UTC)
        fleet.signing(now).install(renew=True)
        signed = json.loads(fleet.metadata("timestamp").read_bytes())["signed"]
        assert signed["x-edged-issued"] == "2026-12-01T12:00:00Z"


class TestOperators:
    def test_are_added_replaced_and_removed(self, fleet):
        operators.add(fleet.signing(), "alice", KEY, ["refresh"], [])
        operators.add(fleet.signing(), "bob", KEY, ["install", "rollback"], ["generic"])
        operators.add(fleet.signing(), "alice", KEY, ["report"], [])
        found = Listing(fleet.signing()).operators()
        assert [(each.name, each.may) for each in found.operators] == [
            ("alice", ("report",)),
            ("bob", ("install", "rollback")),
        ]
        operators.remove(fleet.signing(), "alice")
        assert [each.name for each in Listing(fleet.signing()).operators().operators] == ["bob"]
        with pytest.raises(EdgedError, match="there are: bob"):
            operators.remove(fleet.signing(), "alice")

    def test_reach_devices_with_the_plan(self, fleet, tmp_path):
        device = Device(tmp_path / "device", fleet.root, fleet.url)
        device.plan()
        assert not (device.into / "operators.json").exists()
        operators.add(fleet.signing(), "alice", KEY, ["refresh"], [])
        device.plan()
        found = msgspec.json.decode((device.into / "operators.json").read_bytes(), type=Operators)
        assert [each.name for each in found.operators] == ["alice"]

    @pytest.mark.parametrize(("name", "key"), [("A", KEY), ("../x", KEY), ("a", "xyz"), ("a", KEY[:-1])])
    def test_must_be_named_and_keyed_as_such(self, fleet, name, key):
        with pytest.raises(EdgedError) as caught:
            operators.add(fleet.signing(), name, key, ["refresh"], [])
        assert caught.value.code == Code.INVALID_ARGUMENT


class TestExport:
    def test_is_whole_and_verifiable_and_keeps_in_a_drawer(self, fleet, tmp_path, monkeypatch):
        stick = tmp_path / "stick"
        signing = fleet.signing()
        exported = export(fleet.home, signing, stick, ["digits"], timedelta(days=180))
        assert exported.revisions == [("digits", 1)]
        verified = verify(stick.as_uri(), fleet.root.read_bytes(), in_part=True)
        assert verified.problems == []
        assert verified.revisions == [("digits", 1)]
        device = Device(tmp_path / "device", fleet.root, stick.as_uri())
        monkeypatch.setattr(clock, "wall", lambda: datetime.now(UTC) + timedelta(days=179))
        assert device.plan().status == 0
        folder = device.install(1)
        assert (folder / "model.onnx").read_bytes() == (DIGITS / "model.onnx").read_bytes()
        assert device.fetch(2).code == "download_failed"
        monkeypatch.setattr(clock, "wall", lambda: datetime.now(UTC) + timedelta(days=181))
        assert device.plan().code == "metadata_expired"

    def test_of_one_model_leaves_the_plan_of_all_readable(self, fleet, tmp_path):
        shutil.copytree(DIGITS, tmp_path / "letters")
        text = (tmp_path / "letters/bundle.toml").read_text()
        (tmp_path / "letters/bundle.toml").write_text(text.replace('name = "digits"', 'name = "letters"', 1))
        fleet.publish(tmp_path / "letters")
        fleet.run_revision(1, "letters")
        stick = tmp_path / "stick"
        assert export(fleet.home, fleet.signing(), stick, ["digits"], timedelta(days=9)).revisions == [("digits", 1)]
        device = Device(tmp_path / "device", fleet.root, stick.as_uri())
        assert device.plan().event("plan")["floors"] == {"digits": 1, "letters": 1}
        device.install(1)
        assert device.fetch(1, "letters").code == "download_failed"

    def test_a_device_that_saw_the_stick_takes_what_is_online_and_not_the_other_way_round(self, fleet, tmp_path):
        stick = tmp_path / "stick"
        export(fleet.home, fleet.signing(), stick, [], timedelta(days=180))
        device = Device(tmp_path / "device", fleet.root, stick.as_uri())
        assert device.plan().status == 0
        device.url = fleet.url
        assert device.plan().status == 0
        device.url = stick.as_uri()
        assert device.plan().code == "rollback_attack"

    def test_refuses_a_folder_with_something_in_it_and_a_model_that_is_not_planned(self, fleet, tmp_path):
        with pytest.raises(EdgedError, match="not empty"):
            export(fleet.home, fleet.signing(), fleet.folder, [], timedelta(days=1))
        with pytest.raises(EdgedError, match="says nothing of letters"):
            export(fleet.home, fleet.signing(), tmp_path / "stick", ["letters"], timedelta(days=1))


class TestCollecting:
    def test_removes_what_nothing_names_and_nothing_else(self, fleet):
        for revision in (2, 1, 2, 1):
            fleet.run_revision(revision)
        orphan = fleet.home.repository / "chunks/ab" / f"{'ab' * 32}.zst"
        orphan.parent.mkdir(exist_ok=True)
        orphan.write_bytes(b"x")
        (fleet.home.metadata / "99.plans.json").write_bytes(b"left by a power cut")
        before = len(list(fleet.home.metadata.iterdir()))
        dry = collect(fleet.home, fleet.signing(), dry=True)
        assert orphan.exists()
        removed = collect(fleet.home, fleet.signing())
        assert removed == dry
        assert removed.files >= 8
        assert not orphan.exists()
        assert len(list(fleet.home.metadata.iterdir())) < before
        assert problems(fleet) == []
        assert collect(fleet.home, fleet.signing()).files == 0

    def test_keeps_what_a_pending_edit_names(self, fleet):
        without(fleet, "targets")
        operators.add(fleet.signing(), "alice", KEY, ["refresh"], [])
        collect(fleet.home, fleet.signing())
        assert list(fleet.home.targets.glob("*.operators.json"))

    def test_touches_nothing_when_something_is_damaged(self, fleet):
        for path in (fleet.home.targets / "models/digits").glob("*"):
            overwrite(path, b"")
        before = tree(fleet.home.repository)
        with pytest.raises(EdgedError):
            collect(fleet.home, fleet.signing())
        assert tree(fleet.home.repository) == before


class TestStarting:
    @pytest.mark.parametrize("existed", [True, False], ids=["in an empty folder", "in a new one"])
    @pytest.mark.parametrize(("name", "passphrases"), [("Bad Name", [PASSPHRASE]), ("shops", []), ("shops", ["short"])])
    def test_that_fails_leaves_nothing_in_the_way_of_the_next(self, tmp_path, name, passphrases, existed):
        folder = tmp_path / "shops"
        if existed:
            folder.mkdir()
        with pytest.raises(EdgedError):
            start(folder, name, Ring(folder / "keys", passphrases, None), {})
        assert folder.exists() is existed
        assert list(tmp_path.rglob("*")) == [folder] * existed
        start(folder, "shops", Ring(folder / "keys", [PASSPHRASE], None), {}, 2)

    def test_that_a_full_disk_ends_leaves_nothing(self, tmp_path, monkeypatch):
        steps = 0

        def place(source, target, real=durable.place):
            nonlocal steps
            steps += 1
            if steps == 20:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(source, target)

        monkeypatch.setattr(durable, "place", place)
        with pytest.raises(OSError, match="No space"):
            start(tmp_path / "shops", "shops", Ring(tmp_path / "shops/keys", [PASSPHRASE], None), {}, 2)
        assert list(tmp_path.iterdir()) == []

    def test_takes_no_folder_that_holds_something(self, fleet):
        before = tree(fleet.folder)
        with pytest.raises(EdgedError, match="is not empty"):
            start(fleet.folder, "shops", Ring(fleet.home.keys, [PASSPHRASE], None), {})
        assert tree(fleet.folder) == before


class TestHome:
    def test_is_told_where_there_is_none(self, tmp_path):
        with pytest.raises(EdgedError, match="edgectl fleet init"):
            Home(tmp_path)

    def test_with_wrong_settings_names_the_line(self, fleet):
        overwrite(fleet.folder / "fleet.toml", b'name = "shops"\n[expiry_days]\nroot = 0\n')
        with pytest.raises(EdgedError, match=r"fleet\.toml:3: expiry_days\.root"):
            Home(fleet.folder)
