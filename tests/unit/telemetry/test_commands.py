"""Commands: only what an operator signed, for this device, now, and once; all else is refused under a stable word."""

from __future__ import annotations

import json
import random

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as ReferenceEnvelope
from securesystemslib.signer import CryptoSigner

from edged import intents
from edged.fleet.operators import COMMANDS
from edged.telemetry.commands import KINDS, MAX_BYTES, PAYLOAD_TYPE, Context, Rate, RejectedError, intent_of, judge
from edged.telemetry.messages import Command
from edged.telemetry.verify import verify
from edged.types import Operator, Operators

NOW_MS = 1_790_000_000_000
HOUR_MS = 3_600_000
ALICE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MALLORY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


OPERATORS = Operators(
    fleet="shops",
    operators=(Operator(name="alice", key=public(ALICE), may=("install", "refresh"), hardware_classes=("generic",)),),
)
CONTEXT = Context(
    fleet="shops",
    device="till-7",
    hardware_class="generic",
    now_ms=NOW_MS,
    made_ms=NOW_MS - HOUR_MS,
    operators=OPERATORS,
)


def command(**changes: object) -> Command:
    known = Command(
        schema=1,
        command="install",
        arguments={"model": "digits", "revision": "2"},
        fleet="shops",
        device="till-7",
        issued_ms=NOW_MS - 1000,
        expires_ms=NOW_MS + HOUR_MS,
        nonce="n" * 22,
    )
    return msgspec.structs.replace(known, **changes)


def envelope(payload: bytes, key: Ed25519PrivateKey | None = ALICE, kind: str = PAYLOAD_TYPE) -> bytes:
    """Signed as the reference library signs; its key id made ours."""
    made = ReferenceEnvelope(payload, kind, {})
    signatures = []
    if key is not None:
        made.sign(CryptoSigner(key))
        (signature,) = made.to_dict()["signatures"]
        signatures = [{"keyid": public(key), "sig": signature["sig"]}]
    return json.dumps({**made.to_dict(), "signatures": signatures}).encode()


def signed(found: Command, key: Ed25519PrivateKey | None = ALICE) -> bytes:
    return envelope(msgspec.json.encode(found), key)


def code(data: bytes, context: Context = CONTEXT) -> str | None:
    verdict = judge(data, context, verify)
    assert (verdict.command is None) is (verdict.code is not None)
    return verdict.code


def test_what_an_operator_signed_is_obeyed():
    verdict = judge(signed(command()), CONTEXT, verify)
    assert (verdict.operator, verdict.code) == ("alice", None)
    assert intent_of(verdict.command) == intents.Install(model="digits", revision=2)


@pytest.mark.parametrize(
    ("scope"), [{"device": ""}, {"device": "", "hardware_class": "generic"}, {"hardware_class": "generic"}]
)
def test_it_may_be_for_a_class_or_the_fleet(scope):
    assert code(signed(command(**scope))) is None


WRONG = {
    "not signed": (signed(command(), None), "unsigned"),
    "signed by nobody known": (signed(command(), MALLORY), "signature_invalid"),
    "another's name on it": (
        signed(command(), MALLORY).replace(public(MALLORY).encode(), public(ALICE).encode()),
        "signature_invalid",
    ),
    "another fleet": (signed(command(fleet="banks")), "wrong_scope"),
    "another device": (signed(command(device="till-8")), "wrong_scope"),
    "another class": (signed(command(device="", hardware_class="jetson")), "wrong_scope"),
    "not allowed": (signed(command(command="rollback", arguments={"model": "digits"})), "not_allowed"),
    "expired": (signed(command(expires_ms=NOW_MS)), "expired"),
    "from the future": (
        signed(command(issued_ms=NOW_MS + HOUR_MS, expires_ms=NOW_MS + 2 * HOUR_MS)),
        "not_yet_valid",
    ),
    "valid too long": (signed(command(expires_ms=NOW_MS + 25 * HOUR_MS)), "validity_too_long"),
    "over before it began": (signed(command(expires_ms=NOW_MS - 2000)), "validity_too_long"),
    "from before the rebuild": (signed(command(issued_ms=NOW_MS - 2 * HOUR_MS)), "before_rebuild"),
    "another schema": (signed(command(schema=2)), "malformed"),
    "another payload type": (
        envelope(msgspec.json.encode(command()), kind="application/vnd.in-toto+json"),
        "malformed",
    ),
    "too large": (signed(command()) + b" " * MAX_BYTES, "too_large"),
    "nothing": (b"", "malformed"),
    "no JSON": (b"\xff\xfe", "malformed"),
    "nested": (b"[" * (MAX_BYTES - 1), "malformed"),
    "nested inside": (b'{"x":' * 3000, "malformed"),
    "nested in the payload": (envelope(b'{"x":' * 2000), "malformed"),
    "no base64": (json.dumps({"payload": "é", "payloadType": PAYLOAD_TYPE, "signatures": []}).encode(), "malformed"),
    "a field nobody knows": (envelope(b'{"sudo":1,' + msgspec.json.encode(command())[1:]), "malformed"),
    "many signatures": (
        json.dumps(
            {"payload": "", "payloadType": PAYLOAD_TYPE, "signatures": [{"keyid": "", "sig": ""}] * 99}
        ).encode(),
        "malformed",
    ),
}


@pytest.mark.parametrize(("data", "expected"), WRONG.values(), ids=WRONG)
def test_everything_else_is_refused_under_its_word(data, expected):
    assert code(data) == expected


@pytest.mark.parametrize(("data", "expected"), WRONG.values(), ids=WRONG)
def test_of_a_rejection_it_is_known_what_an_operator_commanded_and_nothing_else(data, expected):
    verdict = judge(data, CONTEXT, verify)
    by_alice = expected in ("wrong_scope", "not_allowed", "expired", "not_yet_valid", "validity_too_long")
    if by_alice or expected == "before_rebuild" or data == WRONG["another schema"][0]:
        assert (verdict.operator, verdict.rejected.nonce) == ("alice", command().nonce)
    else:
        assert verdict.rejected is None


def test_an_operator_of_other_classes_is_refused():
    other = msgspec.structs.replace(OPERATORS.operators[0], hardware_classes=("jetson",))
    context = msgspec.structs.replace(CONTEXT, operators=Operators(fleet="shops", operators=(other,)))
    assert code(signed(command()), context) == "not_allowed"


def test_a_device_that_knows_no_operators_obeys_nobody():
    context = msgspec.structs.replace(CONTEXT, operators=None)
    assert code(signed(command()), context) == "signature_invalid"


@pytest.mark.parametrize("name", sorted(KINDS))
def test_only_two_commands_may_go_unsigned_and_only_where_the_setting_allows_it(name):
    allowed = msgspec.structs.replace(CONTEXT, unsigned_allowed=True)
    found = signed(command(command=name, arguments={}), None)
    assert code(found) == "unsigned"
    assert code(found, allowed) == (None if name in ("refresh", "report") else "unsigned")


def test_a_clock_that_was_ahead_when_the_memory_was_made_blocks_nothing():
    context = msgspec.structs.replace(CONTEXT, made_ms=4_102_444_800_000)
    assert code(signed(command()), context) is None


@pytest.mark.parametrize("change", range(40))
def test_a_changed_byte_is_never_obeyed(change):
    chance = random.Random(change)
    data = bytearray(signed(command()))
    place = chance.randrange(len(data))
    data[place] ^= 1 << chance.randrange(7)
    verdict = judge(bytes(data), CONTEXT, verify)
    assert verdict.code is not None or verdict.command == command()


@given(st.binary(max_size=2000))
def test_noise_is_malformed(data):
    assert code(data) == "malformed"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_signed_json_is_judged_without_an_accident(value):
    assert code(envelope(json.dumps(value).encode())) == "malformed"


def test_every_command_of_an_operator_has_its_intent():
    assert set(KINDS) == set(COMMANDS)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("reboot", {}, "unknown_command"),
        ("install", {"model": "digits"}, "invalid_arguments"),
        ("install", {}, "invalid_arguments"),
        ("install", {"model": "digits", "revision": "0"}, "invalid_arguments"),
        ("install", {"model": "digits", "revision": "1", "force": "yes"}, "invalid_arguments"),
        ("set_log_level", {"level": "loud"}, "invalid_arguments"),
        ("hold", {"model": "digits", "seconds": "1000000"}, "invalid_arguments"),
    ],
)
def test_what_cannot_be_meant_is_refused(name, arguments, expected):
    with pytest.raises(RejectedError) as caught:
        intent_of(command(command=name, arguments=arguments))
    assert caught.value.code == expected


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("install", {"model": "digits"}, "install: revision is missing; give an integer from 1 to"),
        (
            "install",
            {"model": "digits", "revision": "abc"},
            'install: revision is "abc"; allowed: an integer from 1 to',
        ),
        ("install", {"model": "Digits", "revision": "1"}, 'install: model is "Digits"; allowed: 1 to 64 of a-z'),
        ("refresh", {"now": "yes"}, "refresh: there is no argument now; it takes none"),
        ("pin", {"sudo": "yes"}, "pin: there is no argument sudo; it takes model, revision"),
        ("pin", {"x" * 999: ""}, "pin: there is no argument " + '"' + "x" * 58 + "…; it takes model, revision"),
        ("set_log_level", {"level": "loud"}, 'set_log_level: level is "loud"; allowed: one of "debug", '),
    ],
)
def test_what_is_wrong_with_arguments_is_said_in_words_for_an_operator(name, arguments, said):
    with pytest.raises(RejectedError) as caught:
        intent_of(command(command=name, arguments=arguments))
    assert caught.value.text.startswith(said)


def test_so_many_at_once_and_so_many_a_minute():
    rate = Rate(3, 6, now_s=0)
    assert [rate.take(0) for _ in range(5)] == [True, True, True, False, False]
    assert [rate.take(10), rate.take(10)] == [True, False]
    assert [rate.take(10_000) for _ in range(4)] == [True, True, True, False]
