"""Makes malformed and half-malformed messages out of sound ones. Everything follows from the `Random` passed in."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from edged._pb.inference import grpc_service_pb2 as pb
from support.fields import END_GROUP, I32, I64, LEN, START_GROUP, VARINT, field, split, tag, varint

Mutation = Callable[[Random, bytes, bytes], bytes]


def _span(random: Random, data: bytes) -> tuple[int, int]:
    at = random.randint(0, len(data))
    return at, min(len(data), at + random.choice((1, 2, 4, 16, 64, 1024)))


def flip_bit(random: Random, data: bytes, _: bytes) -> bytes:
    """One bit."""
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << random.randrange(8),)) + data[at + 1 :]


def set_byte(random: Random, data: bytes, _: bytes) -> bytes:
    """One byte, often one that means much: an end of range, a continued varint."""
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes((random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256))),)) + data[at + 1 :]


def truncate(random: Random, data: bytes, _: bytes) -> bytes:
    """The message ends early."""
    return data[: random.randint(0, len(data))]


def drop_span(random: Random, data: bytes, _: bytes) -> bytes:
    """Some bytes in the middle are missing."""
    at, end = _span(random, data)
    return data[:at] + data[end:]


def duplicate_span(random: Random, data: bytes, _: bytes) -> bytes:
    """Some bytes stand there twice."""
    at, end = _span(random, data)
    return data[:end] + data[at:end] + data[end:]


def insert_noise(random: Random, data: bytes, _: bytes) -> bytes:
    """Some random bytes more."""
    at = random.randint(0, len(data))
    return data[:at] + random.randbytes(random.choice((1, 3, 10, 100))) + data[at:]


def splice(random: Random, data: bytes, other: bytes) -> bytes:
    """The beginning of one message and the end of another."""
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


def _insert(random: Random, data: bytes, added: bytes) -> bytes:
    """`added` between two fields."""
    parts = split(data)
    parts.insert(random.randint(0, len(parts)), added)
    return b"".join(parts)


def _number(random: Random) -> int:
    return random.choice((*range(1, 11), 15, 16, 2**29 - 1, random.randrange(1, 2**29)))


def add_field(random: Random, data: bytes, _: bytes) -> bytes:
    """A field more, of a number and a wire type that may or may not be known."""
    kind = random.choice((VARINT, I64, LEN, I32))
    value = {
        VARINT: varint(random.getrandbits(random.choice((1, 7, 32, 63, 64)))),
        I64: random.randbytes(8),
        LEN: random.randbytes(random.choice((0, 1, 8, 100))),
        I32: random.randbytes(4),
    }[kind]
    return _insert(random, data, field(_number(random), kind, value))


def add_impossible_field(random: Random, data: bytes, _: bytes) -> bytes:
    """A field of number 0 or of a wire type that does not exist."""
    return _insert(random, data, tag(random.choice((0, _number(random))), random.choice((6, 7, VARINT))) + b"\x01")


def add_huge_length(random: Random, data: bytes, _: bytes) -> bytes:
    """A field that is said to be longer than what follows."""
    length = random.choice((len(data) + 1, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1))
    return _insert(random, data, tag(_number(random), LEN) + varint(length))


def add_overlong_varint(random: Random, data: bytes, _: bytes) -> bytes:
    """A varint, tag or length of more bytes than it needs, or may have."""
    padding = random.randint(2, 12)
    added = random.choice(
        (
            tag(_number(random), VARINT) + varint(random.getrandbits(7), length=padding),
            varint(_number(random) << 3 | LEN, length=padding) + b"\x01a",
            tag(_number(random), LEN) + varint(1, length=padding) + b"a",
            tag(_number(random), VARINT) + b"\xff" * 9 + bytes((random.randrange(128),)),
        )
    )
    return _insert(random, data, added)


def add_group(random: Random, data: bytes, _: bytes) -> bytes:
    """A group: whole, never ended, or ended without a beginning."""
    number = _number(random)
    begin, end = tag(number, START_GROUP), tag(number, END_GROUP)
    return _insert(random, data, random.choice((begin + end, begin + data + end, begin, end)))


def nest_deeply(random: Random, data: bytes, _: bytes) -> bytes:
    """Messages, or groups, within one another, hundreds deep."""
    number = random.choice((4, 5, 6, 7))
    depth = random.choice((50, 101, 400))
    if random.random() < 0.5:
        return _insert(random, data, tag(number, START_GROUP) * depth + tag(number, END_GROUP) * depth)
    inner = b""
    for _ in range(depth):
        inner = field(number, LEN, inner)
    return _insert(random, data, inner)


def shuffle_fields(random: Random, data: bytes, _: bytes) -> bytes:
    """The same fields in another order."""
    parts = split(data)
    random.shuffle(parts)
    return b"".join(parts)


def repeat_field(random: Random, data: bytes, _: bytes) -> bytes:
    """One field twice, or a few hundred times."""
    parts = split(data)
    if not parts:
        return data
    at = random.randrange(len(parts))
    parts[at] *= random.choice((2, 3, 300)) if len(parts[at]) < 200 else 2
    return b"".join(parts)


def drop_field(random: Random, data: bytes, _: bytes) -> bytes:
    """One field less."""
    parts = split(data)
    if parts:
        del parts[random.randrange(len(parts))]
    return b"".join(parts)


def take_field(random: Random, data: bytes, other: bytes) -> bytes:
    """A field of another message instead of one of its own: another's tensor, name or bytes."""
    mine, theirs = split(data), split(other)
    if mine and theirs:
        mine[random.randrange(len(mine))] = random.choice(theirs)
    return b"".join(mine)


def mutate_within(random: Random, data: bytes, other: bytes) -> bytes:
    """One of these mutations inside a field, with the field's length set right: an input that is odd in itself."""
    parts = split(data)
    inner = [at for at, part in enumerate(parts) if part and part[0] & 7 == LEN and part[0] < 0x80 and len(part) > 2]
    if not inner:
        return data
    at = random.choice(inner)
    part = parts[at]
    start = next((place + 1 for place in range(1, len(part)) if part[place] < 0x80), len(part))
    value = mutate_bytes(random, part[start:], other)
    parts[at] = field(part[0] >> 3, LEN, value)
    return b"".join(parts)


BYTE_MUTATIONS: tuple[Mutation, ...] = (
    flip_bit,
    set_byte,
    truncate,
    drop_span,
    duplicate_span,
    insert_noise,
    splice,
    add_field,
    add_impossible_field,
    add_huge_length,
    add_overlong_varint,
    add_group,
    nest_deeply,
    shuffle_fields,
    repeat_field,
    drop_field,
    take_field,
    mutate_within,
    mutate_within,
    mutate_within,
)


def mutate_bytes(random: Random, data: bytes, other: bytes) -> bytes:
    """One mutation of `data`; some of them take parts of `other`."""
    return random.choice(BYTE_MUTATIONS)(random, data, other)


# The same for messages that stay messages: sound bytes that say something odd.

MessageMutation = Callable[[Random, pb.ModelInferRequest, pb.ModelInferRequest], None]

_NAMES = ("timeout", "priority", "sequence_id", "sequence_start", "shared_memory_region", "classification", "", "own")
_WORDS = ("", "0", "1", "x", "sum", "FP32", "BYTES", "identity-fp32", "digits", "\0", "🌍" * 50, "a" * 5000)
_SIZES = (-(2**63), -1, 0, 1, 2, 3, 8, 9, 2**31, 2**32, 2**62, 2**63 - 1)


def _parameter(random: Random) -> pb.InferParameter:
    return random.choice(
        (
            pb.InferParameter(),
            pb.InferParameter(bool_param=random.random() < 0.5),
            pb.InferParameter(int64_param=random.choice((*_SIZES, 1_000_000))),
            pb.InferParameter(string_param=random.choice((*_WORDS, "1000000"))),
            pb.InferParameter(double_param=random.choice((0.0, -1.5, 1e300, float("inf"), float("nan")))),
            pb.InferParameter(uint64_param=random.choice((0, 1, 2**63, 2**64 - 1))),
        )
    )


def odd_parameter(random: Random, message: pb.ModelInferRequest, _: pb.ModelInferRequest) -> None:
    """A parameter of the request, an input or an output."""
    holder = random.choice((message, *message.inputs, *message.outputs))
    holder.parameters[random.choice(_NAMES)].CopyFrom(_parameter(random))


def odd_shape(random: Random, message: pb.ModelInferRequest, _: pb.ModelInferRequest) -> None:
    """A size that does not fit, or more or fewer axes."""
    for each in message.inputs[:1]:
        if each.shape and random.random() < 0.7:
            each.shape[random.randrange(len(each.shape))] = random.choice(_SIZES)
        elif random.random() < 0.5:
            each.shape.append(random.choice(_SIZES))
        else:
            del each.shape[random.randint(0, len(each.shape)) :]


def odd_name(random: Random, message: pb.ModelInferRequest, _: pb.ModelInferRequest) -> None:
    """Another word where a name, a version, a datatype or an id stands."""
    word = random.choice(_WORDS)
    place = random.choice(("model_name", "model_version", "id", "input", "datatype", "output"))
    if place in ("input", "datatype"):
        for each in message.inputs[:1]:
            setattr(each, "name" if place == "input" else place, word)
    elif place == "output":
        message.outputs.add(name=word)
    else:
        setattr(message, place, word)


def odd_version(random: Random, message: pb.ModelInferRequest, _: pb.ModelInferRequest) -> None:
    """A version that is there, is not there, or is none."""
    message.model_version = random.choice(("1", "2", "3", "7", "0", "-1", "9" * 16, "latest"))


def swap_tensors(random: Random, message: pb.ModelInferRequest, other: pb.ModelInferRequest) -> None:
    """Another request's inputs, contents or model."""
    field_name = random.choice(("inputs", "raw_input_contents", "model_name"))
    if field_name == "model_name":
        message.model_name = other.model_name
    else:
        message.ClearField(field_name)
        getattr(message, field_name).extend(getattr(other, field_name))


def more_tensors(random: Random, message: pb.ModelInferRequest, other: pb.ModelInferRequest) -> None:
    """Another request's inputs, contents and outputs on top."""
    message.MergeFrom(other)
    if random.random() < 0.5:
        message.model_name = random.choice((message.model_name, other.model_name))


def odd_contents(random: Random, message: pb.ModelInferRequest, other: pb.ModelInferRequest) -> None:
    """Raw contents that are longer, shorter or other; typed contents of another."""
    if message.raw_input_contents:
        at = random.randrange(len(message.raw_input_contents))
        data = message.raw_input_contents[at]
        message.raw_input_contents[at] = mutate_bytes(random, data, other.SerializeToString())
    for mine, theirs in zip(message.inputs, other.inputs, strict=False):
        if mine.HasField("contents"):
            mine.contents.MergeFrom(theirs.contents)


MESSAGE_MUTATIONS: tuple[MessageMutation, ...] = (
    odd_parameter,
    odd_shape,
    odd_name,
    odd_version,
    swap_tensors,
    more_tensors,
    odd_contents,
)


def mutate_message(random: Random, message: pb.ModelInferRequest, other: pb.ModelInferRequest) -> None:
    """One mutation of `message`, in place; some of them take parts of `other`."""
    random.choice(MESSAGE_MUTATIONS)(random, message, other)
