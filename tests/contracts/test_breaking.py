"""The guard of the contracts refuses what an older service could not read, and lets additions pass."""

import importlib.util
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet

PROTO = Path(__file__).parents[2] / "proto"
specification = importlib.util.spec_from_file_location("breaking", PROTO / "breaking.py")
assert specification is not None
assert specification.loader is not None
breaking = importlib.util.module_from_spec(specification)
specification.loader.exec_module(breaking)


@pytest.fixture
def released() -> FileDescriptorSet:
    return FileDescriptorSet.FromString((PROTO / "released.binpb").read_bytes())


def changed(released: FileDescriptorSet) -> FileDescriptorSet:
    copy = FileDescriptorSet()
    copy.CopyFrom(released)
    return copy


def candidate(files: FileDescriptorSet) -> "object":
    return next(message for file in files.file for message in file.message_type if message.name == "Candidate")


def test_an_unchanged_contract_passes(released: FileDescriptorSet) -> None:
    """Nothing is reported without a reason."""
    assert list(breaking.breaks(released, released)) == []
    assert len(breaking.elements(released)) > 300


def test_an_added_field_passes(released: FileDescriptorSet) -> None:
    """Growth is what contracts are for."""
    new = changed(released)
    candidate(new).field.add(name="mood", number=99, type=FieldDescriptorProto.TYPE_STRING, label=1)  # type: ignore[attr-defined]

    assert list(breaking.breaks(released, new)) == []


def test_a_removed_a_renumbered_and_a_retyped_field_are_named(released: FileDescriptorSet) -> None:
    """Each would make an old service read something else."""
    new = changed(released)
    fields = candidate(new).field  # type: ignore[attr-defined]
    fields[0].number = 77
    fields[1].type = FieldDescriptorProto.TYPE_INT64
    del fields[4]

    breaks = list(breaking.breaks(released, new))
    assert [line.split()[0] for line in breaks] == [
        "asi.v1.Candidate.id", "asi.v1.Candidate.run", "asi.v1.Candidate.stage",
    ]  # fmt: skip
