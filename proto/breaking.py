"""Refuses a contract change that an older service could not read: contracts are additive.

    python proto/breaking.py RELEASED.binpb NEW.binpb     # exits 1 and names every break
Both files are descriptor sets as protoc writes them with --include_imports.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

OURS = "asi.v1"


def elements(files: FileDescriptorSet) -> dict[str, str]:
    """Everything that another version may rely on: its full name and what it must stay."""
    found: dict[str, str] = {}
    for file in files.file:
        if file.package == OURS:
            for message in file.message_type:
                found.update(_message(f"{OURS}.{message.name}", message))
            for enum in file.enum_type:
                found.update(_enum(f"{OURS}.{enum.name}", enum))
            for service in file.service:
                found.update(_service(f"{OURS}.{service.name}", service))
    return found


def breaks(released: FileDescriptorSet, new: FileDescriptorSet) -> Iterator[str]:
    """One sentence per element that is gone or has changed."""
    now = elements(new)
    for name, was in elements(released).items():
        if name not in now:
            yield f"{name} ({was}) is gone: keep it, contracts are additive"
        elif now[name] != was:
            yield f"{name} was {was} and is now {now[name]}: add a new one instead"


def _message(name: str, message: DescriptorProto) -> Iterator[tuple[str, str]]:
    yield name, "message"
    for field in message.field:
        yield f"{name}.{field.name}", _field(field, message)
    for nested in message.nested_type:
        yield from _message(f"{name}.{nested.name}", nested)
    for enum in message.enum_type:
        yield from _enum(f"{name}.{enum.name}", enum)


def _field(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    kind = field.type_name or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    label = FieldDescriptorProto.Label.Name(field.label).removeprefix("LABEL_").lower()
    group = f" in {message.oneof_decl[field.oneof_index].name}" if field.HasField("oneof_index") else ""
    return f"field {field.number}: {label} {kind}{group}"


def _enum(name: str, enum: EnumDescriptorProto) -> Iterator[tuple[str, str]]:
    yield name, "enum"
    for value in enum.value:
        yield f"{name}.{value.name}", f"value {value.number}"


def _service(name: str, service: ServiceDescriptorProto) -> Iterator[tuple[str, str]]:
    yield name, "service"
    for method in service.method:
        stream = " streaming" if method.server_streaming else ""
        yield f"{name}.{method.name}", f"method {method.input_type} → {method.output_type}{stream}"


def main() -> int:
    """Compare the two files named on the command line."""
    released, new = (FileDescriptorSet.FromString(Path(name).read_bytes()) for name in sys.argv[1:3])
    found = list(breaks(released, new))
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
