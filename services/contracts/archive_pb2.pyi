import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from services.contracts import candidate_pb2 as _candidate_pb2
from services.contracts import events_pb2 as _events_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class GetCandidateRequest(_message.Message):
    __slots__ = ("run", "candidate")
    RUN_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    run: str
    candidate: str
    def __init__(self, run: _Optional[str] = ..., candidate: _Optional[str] = ...) -> None: ...

class ListCandidatesRequest(_message.Message):
    __slots__ = ("run", "sort", "reverse", "states", "stage", "kinds", "page_size", "page_token", "slim")
    RUN_FIELD_NUMBER: _ClassVar[int]
    SORT_FIELD_NUMBER: _ClassVar[int]
    REVERSE_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SLIM_FIELD_NUMBER: _ClassVar[int]
    run: str
    sort: str
    reverse: bool
    states: _containers.RepeatedScalarFieldContainer[_candidate_pb2.State]
    stage: str
    kinds: _containers.RepeatedScalarFieldContainer[_candidate_pb2.Kind]
    page_size: int
    page_token: str
    slim: bool
    def __init__(self, run: _Optional[str] = ..., sort: _Optional[str] = ..., reverse: _Optional[bool] = ..., states: _Optional[_Iterable[_Union[_candidate_pb2.State, str]]] = ..., stage: _Optional[str] = ..., kinds: _Optional[_Iterable[_Union[_candidate_pb2.Kind, str]]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., slim: _Optional[bool] = ...) -> None: ...

class ListCandidatesReply(_message.Message):
    __slots__ = ("candidates", "next_page_token", "total")
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    candidates: _containers.RepeatedCompositeFieldContainer[_candidate_pb2.Candidate]
    next_page_token: str
    total: int
    def __init__(self, candidates: _Optional[_Iterable[_Union[_candidate_pb2.Candidate, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total: _Optional[int] = ...) -> None: ...

class DrawSeedsRequest(_message.Message):
    __slots__ = ("run", "candidate")
    RUN_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    run: str
    candidate: str
    def __init__(self, run: _Optional[str] = ..., candidate: _Optional[str] = ...) -> None: ...

class DrawSeedsReply(_message.Message):
    __slots__ = ("parent", "references", "recent_rejections", "history")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    RECENT_REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    parent: _candidate_pb2.Candidate
    references: _containers.RepeatedCompositeFieldContainer[_candidate_pb2.Candidate]
    recent_rejections: _containers.RepeatedCompositeFieldContainer[_candidate_pb2.Candidate]
    history: _containers.RepeatedCompositeFieldContainer[MoveOutcome]
    def __init__(self, parent: _Optional[_Union[_candidate_pb2.Candidate, _Mapping]] = ..., references: _Optional[_Iterable[_Union[_candidate_pb2.Candidate, _Mapping]]] = ..., recent_rejections: _Optional[_Iterable[_Union[_candidate_pb2.Candidate, _Mapping]]] = ..., history: _Optional[_Iterable[_Union[MoveOutcome, _Mapping]]] = ...) -> None: ...

class MoveOutcome(_message.Message):
    __slots__ = ("moves", "gain", "rejected", "structure")
    MOVES_FIELD_NUMBER: _ClassVar[int]
    GAIN_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    STRUCTURE_FIELD_NUMBER: _ClassVar[int]
    moves: _containers.RepeatedScalarFieldContainer[str]
    gain: float
    rejected: bool
    structure: str
    def __init__(self, moves: _Optional[_Iterable[str]] = ..., gain: _Optional[float] = ..., rejected: _Optional[bool] = ..., structure: _Optional[str] = ...) -> None: ...

class NearestMotivationsRequest(_message.Message):
    __slots__ = ("run", "embedding", "embedder", "count")
    RUN_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    EMBEDDER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    EXCEPT_FIELD_NUMBER: _ClassVar[int]
    run: str
    embedding: _containers.RepeatedScalarFieldContainer[float]
    embedder: str
    count: int
    def __init__(self, run: _Optional[str] = ..., embedding: _Optional[_Iterable[float]] = ..., embedder: _Optional[str] = ..., count: _Optional[int] = ..., **kwargs) -> None: ...

class NearestProgramsRequest(_message.Message):
    __slots__ = ("run", "program", "count")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    EXCEPT_FIELD_NUMBER: _ClassVar[int]
    run: str
    program: str
    count: int
    def __init__(self, run: _Optional[str] = ..., program: _Optional[str] = ..., count: _Optional[int] = ..., **kwargs) -> None: ...

class NearestReply(_message.Message):
    __slots__ = ("near",)
    NEAR_FIELD_NUMBER: _ClassVar[int]
    near: _containers.RepeatedCompositeFieldContainer[NearCandidate]
    def __init__(self, near: _Optional[_Iterable[_Union[NearCandidate, _Mapping]]] = ...) -> None: ...

class NearCandidate(_message.Message):
    __slots__ = ("candidate", "similarity", "same_structure")
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    SAME_STRUCTURE_FIELD_NUMBER: _ClassVar[int]
    candidate: _candidate_pb2.Candidate
    similarity: float
    same_structure: bool
    def __init__(self, candidate: _Optional[_Union[_candidate_pb2.Candidate, _Mapping]] = ..., similarity: _Optional[float] = ..., same_structure: _Optional[bool] = ...) -> None: ...

class GetRelativesRequest(_message.Message):
    __slots__ = ("run", "candidate", "siblings", "subtree")
    RUN_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    SIBLINGS_FIELD_NUMBER: _ClassVar[int]
    SUBTREE_FIELD_NUMBER: _ClassVar[int]
    run: str
    candidate: str
    siblings: int
    subtree: bool
    def __init__(self, run: _Optional[str] = ..., candidate: _Optional[str] = ..., siblings: _Optional[int] = ..., subtree: _Optional[bool] = ...) -> None: ...

class RelativesReply(_message.Message):
    __slots__ = ("parent", "grandparent", "siblings", "children", "path", "subtree")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    GRANDPARENT_FIELD_NUMBER: _ClassVar[int]
    SIBLINGS_FIELD_NUMBER: _ClassVar[int]
    CHILDREN_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    SUBTREE_FIELD_NUMBER: _ClassVar[int]
    parent: _candidate_pb2.Candidate
    grandparent: _candidate_pb2.Candidate
    siblings: _containers.RepeatedCompositeFieldContainer[_candidate_pb2.Candidate]
    children: _containers.RepeatedCompositeFieldContainer[_candidate_pb2.Candidate]
    path: _containers.RepeatedScalarFieldContainer[str]
    subtree: _containers.RepeatedCompositeFieldContainer[TreeNode]
    def __init__(self, parent: _Optional[_Union[_candidate_pb2.Candidate, _Mapping]] = ..., grandparent: _Optional[_Union[_candidate_pb2.Candidate, _Mapping]] = ..., siblings: _Optional[_Iterable[_Union[_candidate_pb2.Candidate, _Mapping]]] = ..., children: _Optional[_Iterable[_Union[_candidate_pb2.Candidate, _Mapping]]] = ..., path: _Optional[_Iterable[str]] = ..., subtree: _Optional[_Iterable[_Union[TreeNode, _Mapping]]] = ...) -> None: ...

class TreeNode(_message.Message):
    __slots__ = ("id", "parent", "name", "fitness", "loss", "state", "stage", "kind", "number", "benchmark", "parameters")
    ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    FITNESS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BENCHMARK_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    id: str
    parent: str
    name: str
    fitness: float
    loss: float
    state: _candidate_pb2.State
    stage: str
    kind: _candidate_pb2.Kind
    number: int
    benchmark: float
    parameters: int
    def __init__(self, id: _Optional[str] = ..., parent: _Optional[str] = ..., name: _Optional[str] = ..., fitness: _Optional[float] = ..., loss: _Optional[float] = ..., state: _Optional[_Union[_candidate_pb2.State, str]] = ..., stage: _Optional[str] = ..., kind: _Optional[_Union[_candidate_pb2.Kind, str]] = ..., number: _Optional[int] = ..., benchmark: _Optional[float] = ..., parameters: _Optional[int] = ...) -> None: ...

class TreeReply(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[TreeNode]
    def __init__(self, nodes: _Optional[_Iterable[_Union[TreeNode, _Mapping]]] = ...) -> None: ...

class GetPoolRequest(_message.Message):
    __slots__ = ("run", "at_sequence")
    RUN_FIELD_NUMBER: _ClassVar[int]
    AT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    run: str
    at_sequence: int
    def __init__(self, run: _Optional[str] = ..., at_sequence: _Optional[int] = ...) -> None: ...

class GetPoolReply(_message.Message):
    __slots__ = ("members", "sequence", "entries")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[_events_pb2.PoolMember]
    sequence: int
    entries: int
    def __init__(self, members: _Optional[_Iterable[_Union[_events_pb2.PoolMember, _Mapping]]] = ..., sequence: _Optional[int] = ..., entries: _Optional[int] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListRunsReply(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[RunStatus]
    def __init__(self, runs: _Optional[_Iterable[_Union[RunStatus, _Mapping]]] = ...) -> None: ...

class GetBaselinesRequest(_message.Message):
    __slots__ = ("run", "stage")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    run: str
    stage: str
    def __init__(self, run: _Optional[str] = ..., stage: _Optional[str] = ...) -> None: ...

class GetBaselinesReply(_message.Message):
    __slots__ = ("baselines", "complete")
    BASELINES_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    baselines: _containers.RepeatedCompositeFieldContainer[_candidate_pb2.Candidate]
    complete: bool
    def __init__(self, baselines: _Optional[_Iterable[_Union[_candidate_pb2.Candidate, _Mapping]]] = ..., complete: _Optional[bool] = ...) -> None: ...

class ChainReply(_message.Message):
    __slots__ = ("links",)
    LINKS_FIELD_NUMBER: _ClassVar[int]
    links: _containers.RepeatedCompositeFieldContainer[ChainLink]
    def __init__(self, links: _Optional[_Iterable[_Union[ChainLink, _Mapping]]] = ...) -> None: ...

class ChainLink(_message.Message):
    __slots__ = ("sequence", "event", "sha256", "accepted", "refused_because")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    event: _events_pb2.Event
    sha256: str
    accepted: bool
    refused_because: str
    def __init__(self, sequence: _Optional[int] = ..., event: _Optional[_Union[_events_pb2.Event, _Mapping]] = ..., sha256: _Optional[str] = ..., accepted: _Optional[bool] = ..., refused_because: _Optional[str] = ...) -> None: ...

class DigestReply(_message.Message):
    __slots__ = ("digest", "events", "sequence")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    digest: str
    events: int
    sequence: int
    def __init__(self, digest: _Optional[str] = ..., events: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class RunStatus(_message.Message):
    __slots__ = ("run", "settings", "phase", "states", "in_flight", "proposals_ended", "best", "spent", "started", "changed", "sequence", "stop_reason", "dead_letters", "loss_of_root")
    class StatesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    RUN_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    PROPOSALS_ENDED_FIELD_NUMBER: _ClassVar[int]
    BEST_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    LOSS_OF_ROOT_FIELD_NUMBER: _ClassVar[int]
    run: str
    settings: _events_pb2.RunSettings
    phase: str
    states: _containers.ScalarMap[str, int]
    in_flight: int
    proposals_ended: int
    best: TreeNode
    spent: Spent
    started: _timestamp_pb2.Timestamp
    changed: _timestamp_pb2.Timestamp
    sequence: int
    stop_reason: str
    dead_letters: int
    loss_of_root: float
    def __init__(self, run: _Optional[str] = ..., settings: _Optional[_Union[_events_pb2.RunSettings, _Mapping]] = ..., phase: _Optional[str] = ..., states: _Optional[_Mapping[str, int]] = ..., in_flight: _Optional[int] = ..., proposals_ended: _Optional[int] = ..., best: _Optional[_Union[TreeNode, _Mapping]] = ..., spent: _Optional[_Union[Spent, _Mapping]] = ..., started: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., changed: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sequence: _Optional[int] = ..., stop_reason: _Optional[str] = ..., dead_letters: _Optional[int] = ..., loss_of_root: _Optional[float] = ...) -> None: ...

class Spent(_message.Message):
    __slots__ = ("seconds", "training_seconds", "gpu_seconds", "tokens", "money", "flops")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    TRAINING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MONEY_FIELD_NUMBER: _ClassVar[int]
    FLOPS_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    training_seconds: float
    gpu_seconds: float
    tokens: int
    money: float
    flops: float
    def __init__(self, seconds: _Optional[float] = ..., training_seconds: _Optional[float] = ..., gpu_seconds: _Optional[float] = ..., tokens: _Optional[int] = ..., money: _Optional[float] = ..., flops: _Optional[float] = ...) -> None: ...
