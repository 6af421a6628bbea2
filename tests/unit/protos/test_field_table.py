"""protos/inference is what `shared/inference-protocol.tsv` describes: all of it, and nothing else."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor

from edged._pb.inference import grpc_service_pb2, model_config_pb2

TABLE = Path(__file__).parents[4] / "shared" / "inference-protocol.tsv"
if not TABLE.is_file():
    pytest.skip(f"{TABLE} is not there", allow_module_level=True)

SERVICE: FileDescriptor = grpc_service_pb2.DESCRIPTOR
CONFIG: FileDescriptor = model_config_pb2.DESCRIPTOR
TYPES = descriptor_pb2.FieldDescriptorProto.Type.items()
SCALARS: dict[int, str] = {number: name.removeprefix("TYPE_").lower() for name, number in TYPES}
FILES = {"grpc_service.proto": SERVICE, "model_config.proto": CONFIG}


class Field(NamedTuple):
    """A field, in the table's words. `label` is empty for a singular one, `oneof` for one outside any."""

    number: int
    name: str
    type: str
    label: str
    oneof: str


class Call(NamedTuple):
    """An rpc, in the table's words."""

    request: str
    response: str
    client_streams: bool
    server_streams: bool


class Protocol(NamedTuple):
    """A whole protocol: names are without the package, nested ones dotted."""

    messages: dict[str, set[Field]]
    enums: dict[str, set[tuple[int, str]]]
    calls: dict[str, Call]


def read_table(path: Path) -> Protocol:
    """What the table says; raises ValueError on a row that it cannot place."""
    protocol = Protocol({}, {}, {})
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            kind, _, owner = row["message"].rpartition(" ")
            note = row["note"].strip()
            if kind == "rpc":
                request, _, response = row["type"].partition(" -> ")
                streams = note.split()
                if not set(streams) <= {"client-stream", "server-stream"}:
                    raise ValueError(f"{row}: an rpc with the note {note!r}")
                call = Call(request, response, "client-stream" in streams, "server-stream" in streams)
                protocol.calls[f"{owner}/{row['field']}"] = call
            elif kind == "enum":
                protocol.enums.setdefault(owner, set()).add((int(row["number"]), row["field"]))
            elif kind:
                raise ValueError(f"{row}: neither an rpc, nor an enum, nor a message")
            else:
                fields = protocol.messages.setdefault(owner, set())
                if row["number"]:
                    fields.add(Field(int(row["number"]), row["field"], row["type"], *label_and_oneof(note)))
    return protocol


def label_and_oneof(note: str) -> tuple[str, str]:
    word, _, rest = note.partition(" ")
    match word:
        case "":
            return "", ""
        case "repeated" | "map":
            return word, ""
        case "oneof":
            return "", rest
    raise ValueError(f"a field with the note {note!r}")


def read_descriptors(files: Iterable[FileDescriptor]) -> Protocol:
    """What the generated code says."""
    protocol = Protocol({}, {}, {})
    for file in files:
        for message in walk(file.message_types_by_name.values()):
            protocol.messages[local(message)] = {describe(field) for field in message.fields}
        for enum in enums_of(file):
            protocol.enums[local(enum)] = {(value.number, value.name) for value in enum.values}
        for service in file.services_by_name.values():
            for method in service.methods:
                protocol.calls[f"{service.name}/{method.name}"] = Call(
                    local(method.input_type),
                    local(method.output_type),
                    method.client_streaming,
                    method.server_streaming,
                )
    return protocol


def walk(messages: Iterable[Descriptor]) -> Iterator[Descriptor]:
    """The messages and all that nest in them, but for the entries that stand for maps."""
    for message in messages:
        if not message.GetOptions().map_entry:
            yield message
            yield from walk(message.nested_types)


def enums_of(file: FileDescriptor) -> Iterator[EnumDescriptor]:
    yield from file.enum_types_by_name.values()
    for message in walk(file.message_types_by_name.values()):
        yield from message.enum_types


def local(descriptor: Descriptor | EnumDescriptor) -> str:
    package, _, name = descriptor.full_name.partition(".")
    assert package == "inference"
    return name


def describe(field: FieldDescriptor) -> Field:
    oneof = field.containing_oneof.name if field.containing_oneof else ""
    if field.message_type and field.message_type.GetOptions().map_entry:
        key, value = (type_of(field.message_type.fields_by_name[part]) for part in ("key", "value"))
        return Field(field.number, field.name, f"map<{key},{value}>", "map", oneof)
    return Field(field.number, field.name, type_of(field), "repeated" if field.is_repeated else "", oneof)


def type_of(field: FieldDescriptor) -> str:
    if field.message_type:
        return local(field.message_type)
    if field.enum_type:
        return local(field.enum_type)
    return SCALARS[field.type]


def messages_below(message: Descriptor, seen: set[Descriptor]) -> set[Descriptor]:
    """The top-level messages that a field of `message`, or of anything in it, refers to, itself included."""
    if message not in seen:
        seen.add(message)
        for field in message.fields:
            if field.message_type:
                messages_below(field.message_type, seen)
    return {found for found in seen if found.containing_type is None}


WANTED = read_table(TABLE)
FOUND = read_descriptors(FILES.values())


def all_names(part: str) -> list[str]:
    return sorted(getattr(WANTED, part).keys() | getattr(FOUND, part).keys())


@pytest.mark.parametrize("name", all_names("messages"))
def test_a_message_has_the_fields_of_the_table(name: str) -> None:
    assert FOUND.messages.get(name) == WANTED.messages.get(name)


@pytest.mark.parametrize("name", all_names("enums"))
def test_an_enum_has_the_values_of_the_table(name: str) -> None:
    assert FOUND.enums.get(name) == WANTED.enums.get(name)


@pytest.mark.parametrize("name", all_names("calls"))
def test_a_call_takes_and_gives_what_the_table_says(name: str) -> None:
    assert FOUND.calls.get(name) == WANTED.calls.get(name)


def test_every_row_of_the_table_is_held_against_the_descriptors() -> None:
    rows = len(TABLE.read_text(encoding="utf-8").splitlines()) - 1
    # A message without fields has a row of its own.
    fields = sum(len(fields) or 1 for fields in WANTED.messages.values())
    values = sum(len(values) for values in WANTED.enums.values())
    assert fields + values + len(WANTED.calls) == rows


def test_the_table_knows_all_calls_of_the_protocol_and_of_its_superset() -> None:
    assert len(WANTED.calls) == 20
    assert {call.partition("/")[0] for call in WANTED.calls} == {"GRPCInferenceService"}


@pytest.mark.parametrize("note", ["repeating", "required", "optional repeated"])
def test_a_note_that_means_nothing_to_this_test_is_refused(note: str) -> None:
    with pytest.raises(ValueError, match=note):
        label_and_oneof(note)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_proto3_in_the_package_inference(name: str) -> None:
    file = descriptor_pb2.FileDescriptorProto()
    FILES[name].CopyToProto(file)
    assert (file.name, file.package, file.syntax) == (f"inference/{name}", "inference", "proto3")


def test_model_config_proto_holds_what_a_model_config_is_made_of_and_nothing_else() -> None:
    root = CONFIG.message_types_by_name["ModelConfig"]
    assert messages_below(root, set()) == set(CONFIG.message_types_by_name.values())


def test_grpc_service_proto_imports_model_config_proto() -> None:
    assert [file.name for file in SERVICE.dependencies] == ["inference/model_config.proto"]
