import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from services.contracts import candidate_pb2 as _candidate_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Event(_message.Message):
    __slots__ = ("id", "run", "candidate", "attempt", "cause", "previous", "time", "service", "so_far", "trace", "run_started", "run_paused", "run_resumed", "run_stopped", "run_forked", "candidate_requested", "candidate_proposed", "candidate_claimed", "candidate_trained", "candidate_judged", "candidate_analysed", "candidate_rejected", "candidate_archived", "candidate_promoted", "candidate_verified", "candidate_rescored", "candidate_imported", "pool_updated", "discovery_confirmed", "discovery_refuted", "mind_answered", "dead")
    class TraceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    SO_FAR_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    RUN_STARTED_FIELD_NUMBER: _ClassVar[int]
    RUN_PAUSED_FIELD_NUMBER: _ClassVar[int]
    RUN_RESUMED_FIELD_NUMBER: _ClassVar[int]
    RUN_STOPPED_FIELD_NUMBER: _ClassVar[int]
    RUN_FORKED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_PROPOSED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_CLAIMED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_TRAINED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_JUDGED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_ANALYSED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_REJECTED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_ARCHIVED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_PROMOTED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_VERIFIED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_RESCORED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_IMPORTED_FIELD_NUMBER: _ClassVar[int]
    POOL_UPDATED_FIELD_NUMBER: _ClassVar[int]
    DISCOVERY_CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    DISCOVERY_REFUTED_FIELD_NUMBER: _ClassVar[int]
    MIND_ANSWERED_FIELD_NUMBER: _ClassVar[int]
    DEAD_FIELD_NUMBER: _ClassVar[int]
    id: str
    run: str
    candidate: str
    attempt: int
    cause: str
    previous: bytes
    time: _timestamp_pb2.Timestamp
    service: str
    so_far: _candidate_pb2.Candidate
    trace: _containers.ScalarMap[str, str]
    run_started: RunStarted
    run_paused: RunPaused
    run_resumed: RunResumed
    run_stopped: RunStopped
    run_forked: RunForked
    candidate_requested: CandidateRequested
    candidate_proposed: CandidateProposed
    candidate_claimed: CandidateClaimed
    candidate_trained: CandidateTrained
    candidate_judged: CandidateJudged
    candidate_analysed: CandidateAnalysed
    candidate_rejected: CandidateRejected
    candidate_archived: CandidateArchived
    candidate_promoted: CandidatePromoted
    candidate_verified: CandidateVerified
    candidate_rescored: CandidateRescored
    candidate_imported: CandidateImported
    pool_updated: PoolUpdated
    discovery_confirmed: DiscoveryConfirmed
    discovery_refuted: DiscoveryRefuted
    mind_answered: MindAnswered
    dead: DeadLetter
    def __init__(self, id: _Optional[str] = ..., run: _Optional[str] = ..., candidate: _Optional[str] = ..., attempt: _Optional[int] = ..., cause: _Optional[str] = ..., previous: _Optional[bytes] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., service: _Optional[str] = ..., so_far: _Optional[_Union[_candidate_pb2.Candidate, _Mapping]] = ..., trace: _Optional[_Mapping[str, str]] = ..., run_started: _Optional[_Union[RunStarted, _Mapping]] = ..., run_paused: _Optional[_Union[RunPaused, _Mapping]] = ..., run_resumed: _Optional[_Union[RunResumed, _Mapping]] = ..., run_stopped: _Optional[_Union[RunStopped, _Mapping]] = ..., run_forked: _Optional[_Union[RunForked, _Mapping]] = ..., candidate_requested: _Optional[_Union[CandidateRequested, _Mapping]] = ..., candidate_proposed: _Optional[_Union[CandidateProposed, _Mapping]] = ..., candidate_claimed: _Optional[_Union[CandidateClaimed, _Mapping]] = ..., candidate_trained: _Optional[_Union[CandidateTrained, _Mapping]] = ..., candidate_judged: _Optional[_Union[CandidateJudged, _Mapping]] = ..., candidate_analysed: _Optional[_Union[CandidateAnalysed, _Mapping]] = ..., candidate_rejected: _Optional[_Union[CandidateRejected, _Mapping]] = ..., candidate_archived: _Optional[_Union[CandidateArchived, _Mapping]] = ..., candidate_promoted: _Optional[_Union[CandidatePromoted, _Mapping]] = ..., candidate_verified: _Optional[_Union[CandidateVerified, _Mapping]] = ..., candidate_rescored: _Optional[_Union[CandidateRescored, _Mapping]] = ..., candidate_imported: _Optional[_Union[CandidateImported, _Mapping]] = ..., pool_updated: _Optional[_Union[PoolUpdated, _Mapping]] = ..., discovery_confirmed: _Optional[_Union[DiscoveryConfirmed, _Mapping]] = ..., discovery_refuted: _Optional[_Union[DiscoveryRefuted, _Mapping]] = ..., mind_answered: _Optional[_Union[MindAnswered, _Mapping]] = ..., dead: _Optional[_Union[DeadLetter, _Mapping]] = ...) -> None: ...

class RunSettings(_message.Message):
    __slots__ = ("scale", "scale_overrides", "mind", "seats", "budget", "seed", "candidate_seeds", "baseline_seeds", "baselines", "fitness", "pool", "parent_policy", "ablations", "promotion", "judge_times", "policies")
    class ScaleOverridesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SCALE_FIELD_NUMBER: _ClassVar[int]
    SCALE_OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    MIND_FIELD_NUMBER: _ClassVar[int]
    SEATS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_SEEDS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_SEEDS_FIELD_NUMBER: _ClassVar[int]
    BASELINES_FIELD_NUMBER: _ClassVar[int]
    FITNESS_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    PARENT_POLICY_FIELD_NUMBER: _ClassVar[int]
    ABLATIONS_FIELD_NUMBER: _ClassVar[int]
    PROMOTION_FIELD_NUMBER: _ClassVar[int]
    JUDGE_TIMES_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    scale: str
    scale_overrides: _containers.ScalarMap[str, str]
    mind: str
    seats: int
    budget: Budget
    seed: int
    candidate_seeds: int
    baseline_seeds: int
    baselines: _containers.RepeatedScalarFieldContainer[str]
    fitness: str
    pool: PoolSettings
    parent_policy: str
    ablations: Ablations
    promotion: str
    judge_times: int
    policies: _struct_pb2.Struct
    def __init__(self, scale: _Optional[str] = ..., scale_overrides: _Optional[_Mapping[str, str]] = ..., mind: _Optional[str] = ..., seats: _Optional[int] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ..., seed: _Optional[int] = ..., candidate_seeds: _Optional[int] = ..., baseline_seeds: _Optional[int] = ..., baselines: _Optional[_Iterable[str]] = ..., fitness: _Optional[str] = ..., pool: _Optional[_Union[PoolSettings, _Mapping]] = ..., parent_policy: _Optional[str] = ..., ablations: _Optional[_Union[Ablations, _Mapping]] = ..., promotion: _Optional[str] = ..., judge_times: _Optional[int] = ..., policies: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("candidates", "seconds", "gpu_seconds", "tokens", "money")
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    MONEY_FIELD_NUMBER: _ClassVar[int]
    candidates: int
    seconds: float
    gpu_seconds: float
    tokens: int
    money: float
    def __init__(self, candidates: _Optional[int] = ..., seconds: _Optional[float] = ..., gpu_seconds: _Optional[float] = ..., tokens: _Optional[int] = ..., money: _Optional[float] = ...) -> None: ...

class PoolSettings(_message.Message):
    __slots__ = ("size", "parents", "references", "cold_start", "batch")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    PARENTS_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    COLD_START_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    size: int
    parents: int
    references: int
    cold_start: int
    batch: int
    def __init__(self, size: _Optional[int] = ..., parents: _Optional[int] = ..., references: _Optional[int] = ..., cold_start: _Optional[int] = ..., batch: _Optional[int] = ...) -> None: ...

class Ablations(_message.Message):
    __slots__ = ("without_cognition", "without_analysis", "without_judge", "random_parent", "best_of")
    WITHOUT_COGNITION_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_ANALYSIS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_JUDGE_FIELD_NUMBER: _ClassVar[int]
    RANDOM_PARENT_FIELD_NUMBER: _ClassVar[int]
    BEST_OF_FIELD_NUMBER: _ClassVar[int]
    without_cognition: bool
    without_analysis: bool
    without_judge: bool
    random_parent: bool
    best_of: int
    def __init__(self, without_cognition: _Optional[bool] = ..., without_analysis: _Optional[bool] = ..., without_judge: _Optional[bool] = ..., random_parent: _Optional[bool] = ..., best_of: _Optional[int] = ...) -> None: ...

class RunStarted(_message.Message):
    __slots__ = ("settings", "note")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    settings: RunSettings
    note: str
    def __init__(self, settings: _Optional[_Union[RunSettings, _Mapping]] = ..., note: _Optional[str] = ...) -> None: ...

class RunPaused(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class RunResumed(_message.Message):
    __slots__ = ("reason", "budget")
    REASON_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    reason: str
    budget: Budget
    def __init__(self, reason: _Optional[str] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ...) -> None: ...

class RunStopped(_message.Message):
    __slots__ = ("reason", "finished")
    REASON_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    reason: str
    finished: bool
    def __init__(self, reason: _Optional[str] = ..., finished: _Optional[bool] = ...) -> None: ...

class RunForked(_message.Message):
    __slots__ = ("of_run", "at_sequence", "settings")
    OF_RUN_FIELD_NUMBER: _ClassVar[int]
    AT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    of_run: str
    at_sequence: int
    settings: RunSettings
    def __init__(self, of_run: _Optional[str] = ..., at_sequence: _Optional[int] = ..., settings: _Optional[_Union[RunSettings, _Mapping]] = ...) -> None: ...

class CandidateRequested(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CandidateProposed(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CandidateClaimed(_message.Message):
    __slots__ = ("worker", "resumed")
    WORKER_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    worker: str
    resumed: bool
    def __init__(self, worker: _Optional[str] = ..., resumed: _Optional[bool] = ...) -> None: ...

class CandidateTrained(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CandidateJudged(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CandidateAnalysed(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CandidateRejected(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CandidateArchived(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CandidatePromoted(_message.Message):
    __slots__ = ("stage", "seeds", "reason")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    stage: str
    seeds: _containers.RepeatedScalarFieldContainer[int]
    reason: str
    def __init__(self, stage: _Optional[str] = ..., seeds: _Optional[_Iterable[int]] = ..., reason: _Optional[str] = ...) -> None: ...

class CandidateVerified(_message.Message):
    __slots__ = ("stage",)
    STAGE_FIELD_NUMBER: _ClassVar[int]
    stage: str
    def __init__(self, stage: _Optional[str] = ...) -> None: ...

class CandidateRescored(_message.Message):
    __slots__ = ("fitness", "reason")
    FITNESS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    fitness: _candidate_pb2.Fitness
    reason: str
    def __init__(self, fitness: _Optional[_Union[_candidate_pb2.Fitness, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class CandidateImported(_message.Message):
    __slots__ = ("source", "index")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    source: str
    index: int
    def __init__(self, source: _Optional[str] = ..., index: _Optional[int] = ...) -> None: ...

class PoolUpdated(_message.Message):
    __slots__ = ("members", "entries")
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[PoolMember]
    entries: int
    def __init__(self, members: _Optional[_Iterable[_Union[PoolMember, _Mapping]]] = ..., entries: _Optional[int] = ...) -> None: ...

class PoolMember(_message.Message):
    __slots__ = ("candidate", "fitness")
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    FITNESS_FIELD_NUMBER: _ClassVar[int]
    candidate: str
    fitness: float
    def __init__(self, candidate: _Optional[str] = ..., fitness: _Optional[float] = ...) -> None: ...

class DiscoveryConfirmed(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DiscoveryRefuted(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MindAnswered(_message.Message):
    __slots__ = ("call",)
    CALL_FIELD_NUMBER: _ClassVar[int]
    call: _candidate_pb2.Call
    def __init__(self, call: _Optional[_Union[_candidate_pb2.Call, _Mapping]] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("consumer", "subject", "sequence", "deliveries", "reason", "traceback")
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    consumer: str
    subject: str
    sequence: int
    deliveries: int
    reason: str
    traceback: str
    def __init__(self, consumer: _Optional[str] = ..., subject: _Optional[str] = ..., sequence: _Optional[int] = ..., deliveries: _Optional[int] = ..., reason: _Optional[str] = ..., traceback: _Optional[str] = ...) -> None: ...
