"""Commands: read, held against who may command what, when and whom, and turned into intents. Pure.

A command is a DSSE envelope (https://github.com/secure-systems-lab/dsse/blob/master/envelope.md) around a
`CommandMessage`. What arrives is hostile: it is read in a short-lived child, under limits.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta

from edged import schema
from edged.intents import Intent
from edged.telemetry.messages import Command
from edged.telemetry.window import SCHEMA
from edged.types import Operators

PAYLOAD_TYPE = "application/vnd.edged.command+json"
MAX_BYTES = 16 * 1024
MAX_SIGNATURES = 8

MAX_VALIDITY_MS = 24 * 3_600_000
"""A command holds for a day at most: so long its nonce is remembered."""
SKEW_MS = 10 * 60_000
"""How far the clocks of operator and device may lie apart."""

UNSIGNED = frozenset({"refresh", "report"})
"""What changes nothing and reveals nothing to who may not read it anyway; a setting allows these unsigned."""

KINDS: dict[str, type[Any]] = {kind.__struct_config__.tag: kind for kind in get_args(Intent)}
"""The intent of each command."""


class Rejection(StrEnum):
    """Why a command is not obeyed: stable words for programs."""

    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    RATE_LIMITED = "rate_limited"
    UNSIGNED = "unsigned"
    SIGNATURE_INVALID = "signature_invalid"
    WRONG_SCOPE = "wrong_scope"
    NOT_ALLOWED = "not_allowed"
    VALIDITY_TOO_LONG = "validity_too_long"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    REPLAYED = "replayed"
    BEFORE_REBUILD = "before_rebuild"
    NOT_REMEMBERED = "not_remembered"
    UNKNOWN_COMMAND = "unknown_command"
    INVALID_ARGUMENTS = "invalid_arguments"
    NOT_VERIFIED = "not_verified"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"


class RejectedError(Exception):
    """A command is not obeyed."""

    def __init__(self, code: Rejection, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


class _Signature(msgspec.Struct, frozen=True):
    keyid: Annotated[str, Meta(max_length=128)]
    sig: Annotated[str, Meta(max_length=256)]


class Envelope(msgspec.Struct, frozen=True, rename={"payload_type": "payloadType"}):
    """What comes over the wire. `keyid` is the public key itself, in hex."""

    payload: Annotated[str, Meta(max_length=MAX_BYTES)]
    payload_type: Annotated[str, Meta(max_length=128)]
    signatures: Annotated[list[_Signature], Meta(max_length=MAX_SIGNATURES)]


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a command is held against."""

    fleet: str
    device: str
    hardware_class: str
    now_ms: int
    """Trusted time: the largest that is known, in ms since 1970."""
    made_ms: int = 0
    """When the memory of nonces was made, as far as that is not in the future."""
    operators: Operators | None = None
    unsigned_allowed: bool = False


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the child found: a command, or the code and text of its rejection."""

    command: Command | None = None
    operator: str = ""
    """Who signed it, whether it is obeyed or not."""
    code: Rejection | None = None
    text: str = ""
    rejected: Command | None = None
    """Of a rejection what `operator` commanded, for the answer alone: it is not to be obeyed."""


Verify = Callable[[str, bytes, bytes], bool]
"""Whether a public key in hex has made the signature of some bytes."""


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def judge(data: bytes, context: Context, verify: Verify) -> Verdict:
    """Reads a command and decides whether it may be obeyed, its nonce apart."""
    operator, signed = "", None
    try:
        envelope, payload = _opened(data)
        operator, may, classes = _signer(envelope, payload, context, verify)
        command = _read(payload, Command)
        if may is not None:
            signed = command
        _check_scope(command, context, classes)
        _check_time(command, context)
        if may is None and not (context.unsigned_allowed and command.command in UNSIGNED):
            raise RejectedError(Rejection.UNSIGNED, f"{command.command} is obeyed only when an operator signed it")
        if may is not None and command.command in KINDS and command.command not in may:
            allowed = ", ".join(may) or "nothing"
            text = f"operator {operator} may not {command.command}; operators.json allows {allowed}"
            raise RejectedError(Rejection.NOT_ALLOWED, text)
    except RejectedError as rejected:
        return Verdict(operator=operator, code=rejected.code, text=rejected.text, rejected=signed)
    return Verdict(command, operator)


def _opened(data: bytes) -> tuple[Envelope, bytes]:
    if len(data) > MAX_BYTES:
        raise RejectedError(Rejection.TOO_LARGE, f"it has {len(data)} bytes; {MAX_BYTES} are allowed")
    envelope = _read(data, Envelope)
    if envelope.payload_type != PAYLOAD_TYPE:
        raise RejectedError(Rejection.MALFORMED, f"its payload type is {schema.show(envelope.payload_type)}")
    try:
        return envelope, base64.b64decode(envelope.payload, validate=True)
    except ValueError as error:
        raise RejectedError(Rejection.MALFORMED, "its payload is not base64") from error


def _read(data: bytes, kind: type[Any]) -> Any:
    """Raises RejectedError (malformed) for what is no JSON of `kind`."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RejectedError(Rejection.MALFORMED, f"it is no {kind.__name__.lower()}: {str(error)[:200]}") from error


def _signer(
    envelope: Envelope, payload: bytes, context: Context, verify: Verify
) -> tuple[str, tuple[str, ...] | None, tuple[str, ...]]:
    """The operator who signed, and what that one may; no name and None where nobody did."""
    if not envelope.signatures:
        return "", None, ()
    known = {operator.key: operator for operator in context.operators.operators} if context.operators else {}
    signed = pae(envelope.payload_type, payload)
    for signature in envelope.signatures:
        operator = known.get(signature.keyid)
        if operator is None:
            continue
        try:
            made = base64.b64decode(signature.sig, validate=True)
        except ValueError:
            continue
        if verify(operator.key, made, signed):
            return operator.name, operator.may, operator.hardware_classes
    text = "no key of operators.json has signed it" if known else "this device knows no operators.json yet"
    raise RejectedError(Rejection.SIGNATURE_INVALID, text)


def _check_scope(command: Command, context: Context, classes: tuple[str, ...]) -> None:
    if command.schema != SCHEMA:
        raise RejectedError(Rejection.MALFORMED, f"its schema is {command.schema}; this edged knows {SCHEMA}")
    wanted = {
        "fleet": (command.fleet, context.fleet),
        "device": (command.device or context.device, context.device),
        "hardware class": (command.hardware_class or context.hardware_class, context.hardware_class),
    }
    for what, (named, own) in wanted.items():
        if named != own:
            raise RejectedError(Rejection.WRONG_SCOPE, f"it is for {what} {schema.show(named)}; this is {own!r}")
    if classes and context.hardware_class not in classes:
        text = f"its operator may command {', '.join(classes)}; this is a {context.hardware_class}"
        raise RejectedError(Rejection.NOT_ALLOWED, text)


def _check_time(command: Command, context: Context) -> None:
    if not 0 < command.expires_ms - command.issued_ms <= MAX_VALIDITY_MS:
        hours = MAX_VALIDITY_MS // 3_600_000
        text = f"it is valid for {command.expires_ms - command.issued_ms} ms; more than 0 and at most {hours} h are"
        raise RejectedError(Rejection.VALIDITY_TOO_LONG, f"{text} allowed")
    if command.issued_ms > context.now_ms + SKEW_MS:
        ahead_s = (command.issued_ms - context.now_ms) // 1000
        text = f"it was issued {ahead_s} s after what this device's clock says; set one of the clocks right"
        raise RejectedError(Rejection.NOT_YET_VALID, text)
    if command.expires_ms <= context.now_ms:
        text = f"it expired {(context.now_ms - command.expires_ms) // 1000} s ago by this device's clock; sign it anew"
        raise RejectedError(Rejection.EXPIRED, text)
    if command.issued_ms < context.made_ms <= context.now_ms:
        text = "it was issued before this device's memory of commands was made; sign it anew"
        raise RejectedError(Rejection.BEFORE_REBUILD, text)


def intent_of(command: Command) -> Intent:
    """What a command asks for. Raises RejectedError (unknown_command, invalid_arguments)."""
    kind = KINDS.get(command.command)
    if kind is None:
        text = f"there is no command {schema.show(command.command)}; there are: {', '.join(KINDS)}"
        raise RejectedError(Rejection.UNKNOWN_COMMAND, text)
    try:
        found: Intent = msgspec.convert(command.arguments, kind, strict=False)
    except msgspec.ValidationError as error:
        text = _misfit(command.arguments, kind) or str(error)
        raise RejectedError(Rejection.INVALID_ARGUMENTS, f"{command.command}: {text}") from error
    return found


def _misfit(arguments: dict[str, str], kind: type[Any]) -> str:
    """What is wrong with arguments, in words for who gave them; empty where each by itself is right."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name, text in arguments.items():
        if name not in fields:
            return f"there is no argument {schema.dotted((name,))}; it takes {', '.join(fields) or 'none'}"
        try:
            msgspec.convert(text, fields[name].type, strict=False)
        except msgspec.ValidationError:
            return f"{name} is {schema.show(text)}; allowed: {schema.describe(fields[name].type)}"
    missing = (name for name, field in fields.items() if field.required and name not in arguments)
    return next((f"{name} is missing; give {schema.describe(fields[name].type)}" for name in missing), "")


class Rate:
    """So many commands at once, and so many more a minute: what comes faster is not even read."""

    def __init__(self, burst: int, per_minute: float, now_s: float) -> None:
        self._burst = burst
        self._per_s = per_minute / 60
        self._left = float(burst)
        self._at_s = now_s

    def take(self, now_s: float) -> bool:
        """Whether one more may be read now; `now_s` is monotonic."""
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
