from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SearchRequest(_message.Message):
    __slots__ = ("query", "count", "threshold")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    query: str
    count: int
    threshold: float
    def __init__(self, query: _Optional[str] = ..., count: _Optional[int] = ..., threshold: _Optional[float] = ...) -> None: ...

class SearchReply(_message.Message):
    __slots__ = ("entries", "embedder")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDER_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[CognitionEntry]
    embedder: str
    def __init__(self, entries: _Optional[_Iterable[_Union[CognitionEntry, _Mapping]]] = ..., embedder: _Optional[str] = ...) -> None: ...

class CognitionEntry(_message.Message):
    __slots__ = ("id", "title", "arxiv", "year", "design_insight", "trigger_patterns", "background", "innovation", "guidance", "components", "similarity")
    ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    ARXIV_FIELD_NUMBER: _ClassVar[int]
    YEAR_FIELD_NUMBER: _ClassVar[int]
    DESIGN_INSIGHT_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_PATTERNS_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_FIELD_NUMBER: _ClassVar[int]
    INNOVATION_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    id: str
    title: str
    arxiv: str
    year: int
    design_insight: str
    trigger_patterns: str
    background: str
    innovation: str
    guidance: str
    components: _containers.RepeatedScalarFieldContainer[str]
    similarity: float
    def __init__(self, id: _Optional[str] = ..., title: _Optional[str] = ..., arxiv: _Optional[str] = ..., year: _Optional[int] = ..., design_insight: _Optional[str] = ..., trigger_patterns: _Optional[str] = ..., background: _Optional[str] = ..., innovation: _Optional[str] = ..., guidance: _Optional[str] = ..., components: _Optional[_Iterable[str]] = ..., similarity: _Optional[float] = ...) -> None: ...
