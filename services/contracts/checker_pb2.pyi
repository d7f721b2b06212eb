from services.contracts import candidate_pb2 as _candidate_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class CheckRequest(_message.Message):
    __slots__ = ("program", "stage", "scale_overrides", "exempt_from_cost")
    class ScaleOverridesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    SCALE_OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    EXEMPT_FROM_COST_FIELD_NUMBER: _ClassVar[int]
    program: str
    stage: str
    scale_overrides: _containers.ScalarMap[str, str]
    exempt_from_cost: bool
    def __init__(self, program: _Optional[str] = ..., stage: _Optional[str] = ..., scale_overrides: _Optional[_Mapping[str, str]] = ..., exempt_from_cost: _Optional[bool] = ...) -> None: ...

class GetBaselineRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetBaselineReply(_message.Message):
    __slots__ = ("name", "motivation", "program", "components", "role", "names")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MOTIVATION_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    name: str
    motivation: str
    program: str
    components: _containers.RepeatedScalarFieldContainer[str]
    role: str
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., motivation: _Optional[str] = ..., program: _Optional[str] = ..., components: _Optional[_Iterable[str]] = ..., role: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...
