from services.contracts import candidate_pb2 as _candidate_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class JudgeRequest(_message.Message):
    __slots__ = ("run", "candidate")
    RUN_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    run: str
    candidate: str
    def __init__(self, run: _Optional[str] = ..., candidate: _Optional[str] = ...) -> None: ...
