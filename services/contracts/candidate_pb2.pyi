from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_REQUESTED: _ClassVar[State]
    STATE_PROPOSED: _ClassVar[State]
    STATE_TRAINING: _ClassVar[State]
    STATE_TRAINED: _ClassVar[State]
    STATE_JUDGED: _ClassVar[State]
    STATE_ANALYSED: _ClassVar[State]
    STATE_ARCHIVED: _ClassVar[State]
    STATE_REJECTED: _ClassVar[State]

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    KIND_BASELINE: _ClassVar[Kind]
    KIND_PROPOSAL: _ClassVar[Kind]
    KIND_ABLATION: _ClassVar[Kind]
    KIND_IMPORTED: _ClassVar[Kind]
STATE_UNSPECIFIED: State
STATE_REQUESTED: State
STATE_PROPOSED: State
STATE_TRAINING: State
STATE_TRAINED: State
STATE_JUDGED: State
STATE_ANALYSED: State
STATE_ARCHIVED: State
STATE_REJECTED: State
KIND_UNSPECIFIED: Kind
KIND_BASELINE: Kind
KIND_PROPOSAL: Kind
KIND_ABLATION: Kind
KIND_IMPORTED: Kind

class Candidate(_message.Message):
    __slots__ = ("id", "run", "kind", "state", "stage", "request", "proposal", "training", "verdict", "analysis", "rejection", "calls", "verifications", "discovery")
    ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    ANALYSIS_FIELD_NUMBER: _ClassVar[int]
    REJECTION_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    VERIFICATIONS_FIELD_NUMBER: _ClassVar[int]
    DISCOVERY_FIELD_NUMBER: _ClassVar[int]
    id: str
    run: str
    kind: Kind
    state: State
    stage: str
    request: Request
    proposal: Proposal
    training: Training
    verdict: Verdict
    analysis: Analysis
    rejection: Rejection
    calls: _containers.RepeatedCompositeFieldContainer[Call]
    verifications: _containers.RepeatedCompositeFieldContainer[Verification]
    discovery: Discovery
    def __init__(self, id: _Optional[str] = ..., run: _Optional[str] = ..., kind: _Optional[_Union[Kind, str]] = ..., state: _Optional[_Union[State, str]] = ..., stage: _Optional[str] = ..., request: _Optional[_Union[Request, _Mapping]] = ..., proposal: _Optional[_Union[Proposal, _Mapping]] = ..., training: _Optional[_Union[Training, _Mapping]] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ..., analysis: _Optional[_Union[Analysis, _Mapping]] = ..., rejection: _Optional[_Union[Rejection, _Mapping]] = ..., calls: _Optional[_Iterable[_Union[Call, _Mapping]]] = ..., verifications: _Optional[_Iterable[_Union[Verification, _Mapping]]] = ..., discovery: _Optional[_Union[Discovery, _Mapping]] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("number", "baseline", "seeds", "ablation_of", "without_component", "mind")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    ABLATION_OF_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_COMPONENT_FIELD_NUMBER: _ClassVar[int]
    MIND_FIELD_NUMBER: _ClassVar[int]
    number: int
    baseline: str
    seeds: _containers.RepeatedScalarFieldContainer[int]
    ablation_of: str
    without_component: str
    mind: str
    def __init__(self, number: _Optional[int] = ..., baseline: _Optional[str] = ..., seeds: _Optional[_Iterable[int]] = ..., ablation_of: _Optional[str] = ..., without_component: _Optional[str] = ..., mind: _Optional[str] = ...) -> None: ...

class Proposal(_message.Message):
    __slots__ = ("name", "motivation", "program", "parent", "references", "components", "ideas", "description", "moves", "motivation_embedding", "embedder", "structure", "nearest", "novelty_history", "check", "mind", "prompt_version", "cognition")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MOTIVATION_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    IDEAS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    MOTIVATION_EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    EMBEDDER_FIELD_NUMBER: _ClassVar[int]
    STRUCTURE_FIELD_NUMBER: _ClassVar[int]
    NEAREST_FIELD_NUMBER: _ClassVar[int]
    NOVELTY_HISTORY_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    MIND_FIELD_NUMBER: _ClassVar[int]
    PROMPT_VERSION_FIELD_NUMBER: _ClassVar[int]
    COGNITION_FIELD_NUMBER: _ClassVar[int]
    name: str
    motivation: str
    program: str
    parent: str
    references: _containers.RepeatedScalarFieldContainer[str]
    components: _containers.RepeatedScalarFieldContainer[str]
    ideas: _containers.RepeatedCompositeFieldContainer[Idea]
    description: _struct_pb2.Struct
    moves: _containers.RepeatedScalarFieldContainer[str]
    motivation_embedding: _containers.RepeatedScalarFieldContainer[float]
    embedder: str
    structure: str
    nearest: _containers.RepeatedCompositeFieldContainer[Neighbour]
    novelty_history: _containers.RepeatedScalarFieldContainer[str]
    check: CheckReport
    mind: str
    prompt_version: str
    cognition: _containers.RepeatedCompositeFieldContainer[CognitionHit]
    def __init__(self, name: _Optional[str] = ..., motivation: _Optional[str] = ..., program: _Optional[str] = ..., parent: _Optional[str] = ..., references: _Optional[_Iterable[str]] = ..., components: _Optional[_Iterable[str]] = ..., ideas: _Optional[_Iterable[_Union[Idea, _Mapping]]] = ..., description: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., moves: _Optional[_Iterable[str]] = ..., motivation_embedding: _Optional[_Iterable[float]] = ..., embedder: _Optional[str] = ..., structure: _Optional[str] = ..., nearest: _Optional[_Iterable[_Union[Neighbour, _Mapping]]] = ..., novelty_history: _Optional[_Iterable[str]] = ..., check: _Optional[_Union[CheckReport, _Mapping]] = ..., mind: _Optional[str] = ..., prompt_version: _Optional[str] = ..., cognition: _Optional[_Iterable[_Union[CognitionHit, _Mapping]]] = ...) -> None: ...

class Idea(_message.Message):
    __slots__ = ("text", "origin", "source")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    text: str
    origin: str
    source: str
    def __init__(self, text: _Optional[str] = ..., origin: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...

class Neighbour(_message.Message):
    __slots__ = ("candidate", "similarity", "of")
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    candidate: str
    similarity: float
    of: str
    def __init__(self, candidate: _Optional[str] = ..., similarity: _Optional[float] = ..., of: _Optional[str] = ...) -> None: ...

class CheckReport(_message.Message):
    __slots__ = ("passed", "verdicts", "seconds", "parameters", "isolation")
    PASSED_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    passed: bool
    verdicts: _containers.RepeatedCompositeFieldContainer[ProbeVerdict]
    seconds: float
    parameters: int
    isolation: str
    def __init__(self, passed: _Optional[bool] = ..., verdicts: _Optional[_Iterable[_Union[ProbeVerdict, _Mapping]]] = ..., seconds: _Optional[float] = ..., parameters: _Optional[int] = ..., isolation: _Optional[str] = ...) -> None: ...

class ProbeVerdict(_message.Message):
    __slots__ = ("probe", "outcome", "message", "evidence")
    PROBE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    probe: str
    outcome: str
    message: str
    evidence: _struct_pb2.Struct
    def __init__(self, probe: _Optional[str] = ..., outcome: _Optional[str] = ..., message: _Optional[str] = ..., evidence: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class Training(_message.Message):
    __slots__ = ("seeds", "loss", "loss_stderr", "benchmark", "benchmark_stderr", "attempt", "worker", "revisions", "program")
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    LOSS_STDERR_FIELD_NUMBER: _ClassVar[int]
    BENCHMARK_FIELD_NUMBER: _ClassVar[int]
    BENCHMARK_STDERR_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    seeds: _containers.RepeatedCompositeFieldContainer[SeedResult]
    loss: float
    loss_stderr: float
    benchmark: float
    benchmark_stderr: float
    attempt: int
    worker: str
    revisions: _containers.RepeatedCompositeFieldContainer[Revision]
    program: str
    def __init__(self, seeds: _Optional[_Iterable[_Union[SeedResult, _Mapping]]] = ..., loss: _Optional[float] = ..., loss_stderr: _Optional[float] = ..., benchmark: _Optional[float] = ..., benchmark_stderr: _Optional[float] = ..., attempt: _Optional[int] = ..., worker: _Optional[str] = ..., revisions: _Optional[_Iterable[_Union[Revision, _Mapping]]] = ..., program: _Optional[str] = ...) -> None: ...

class SeedResult(_message.Message):
    __slots__ = ("seed", "curve", "loss", "bits_per_byte", "loss_stderr", "scores", "block_losses", "measurements", "checkpoint", "stopped")
    SEED_FIELD_NUMBER: _ClassVar[int]
    CURVE_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    BITS_PER_BYTE_FIELD_NUMBER: _ClassVar[int]
    LOSS_STDERR_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    BLOCK_LOSSES_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENTS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    seed: int
    curve: _containers.RepeatedCompositeFieldContainer[CurvePoint]
    loss: float
    bits_per_byte: float
    loss_stderr: float
    scores: _containers.RepeatedCompositeFieldContainer[TaskScore]
    block_losses: _containers.RepeatedScalarFieldContainer[float]
    measurements: Measurements
    checkpoint: Artifact
    stopped: str
    def __init__(self, seed: _Optional[int] = ..., curve: _Optional[_Iterable[_Union[CurvePoint, _Mapping]]] = ..., loss: _Optional[float] = ..., bits_per_byte: _Optional[float] = ..., loss_stderr: _Optional[float] = ..., scores: _Optional[_Iterable[_Union[TaskScore, _Mapping]]] = ..., block_losses: _Optional[_Iterable[float]] = ..., measurements: _Optional[_Union[Measurements, _Mapping]] = ..., checkpoint: _Optional[_Union[Artifact, _Mapping]] = ..., stopped: _Optional[str] = ...) -> None: ...

class CurvePoint(_message.Message):
    __slots__ = ("step", "tokens", "train_loss", "loss")
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LOSS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    step: int
    tokens: int
    train_loss: float
    loss: float
    def __init__(self, step: _Optional[int] = ..., tokens: _Optional[int] = ..., train_loss: _Optional[float] = ..., loss: _Optional[float] = ...) -> None: ...

class TaskScore(_message.Message):
    __slots__ = ("task", "metric", "value", "stderr", "items", "correct")
    TASK_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    task: str
    metric: str
    value: float
    stderr: float
    items: int
    correct: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, task: _Optional[str] = ..., metric: _Optional[str] = ..., value: _Optional[float] = ..., stderr: _Optional[float] = ..., items: _Optional[int] = ..., correct: _Optional[_Iterable[bool]] = ...) -> None: ...

class Measurements(_message.Message):
    __slots__ = ("parameters", "flops_per_token", "tokens_per_second", "peak_memory_bytes", "energy_joules", "seconds", "gpu_seconds", "device", "device_name", "versions", "data_fingerprint", "initialisation", "precision", "isolation", "tokens", "flops")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    FLOPS_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    PEAK_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    ENERGY_JOULES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    GPU_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    DATA_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    INITIALISATION_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FLOPS_FIELD_NUMBER: _ClassVar[int]
    parameters: int
    flops_per_token: float
    tokens_per_second: float
    peak_memory_bytes: int
    energy_joules: float
    seconds: float
    gpu_seconds: float
    device: str
    device_name: str
    versions: _containers.ScalarMap[str, str]
    data_fingerprint: str
    initialisation: str
    precision: str
    isolation: str
    tokens: int
    flops: float
    def __init__(self, parameters: _Optional[int] = ..., flops_per_token: _Optional[float] = ..., tokens_per_second: _Optional[float] = ..., peak_memory_bytes: _Optional[int] = ..., energy_joules: _Optional[float] = ..., seconds: _Optional[float] = ..., gpu_seconds: _Optional[float] = ..., device: _Optional[str] = ..., device_name: _Optional[str] = ..., versions: _Optional[_Mapping[str, str]] = ..., data_fingerprint: _Optional[str] = ..., initialisation: _Optional[str] = ..., precision: _Optional[str] = ..., isolation: _Optional[str] = ..., tokens: _Optional[int] = ..., flops: _Optional[float] = ...) -> None: ...

class Revision(_message.Message):
    __slots__ = ("program", "error", "repair")
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REPAIR_FIELD_NUMBER: _ClassVar[int]
    program: str
    error: str
    repair: str
    def __init__(self, program: _Optional[str] = ..., error: _Optional[str] = ..., repair: _Optional[str] = ...) -> None: ...

class Artifact(_message.Message):
    __slots__ = ("sha256", "path", "bytes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    path: str
    bytes: int
    def __init__(self, sha256: _Optional[str] = ..., path: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("raw", "spread", "scores", "justification", "fitness", "judge", "baseline", "baseline_loss", "baseline_benchmark", "absent_because")
    RAW_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    JUSTIFICATION_FIELD_NUMBER: _ClassVar[int]
    FITNESS_FIELD_NUMBER: _ClassVar[int]
    JUDGE_FIELD_NUMBER: _ClassVar[int]
    BASELINE_FIELD_NUMBER: _ClassVar[int]
    BASELINE_LOSS_FIELD_NUMBER: _ClassVar[int]
    BASELINE_BENCHMARK_FIELD_NUMBER: _ClassVar[int]
    ABSENT_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    raw: float
    spread: float
    scores: SubScores
    justification: str
    fitness: Fitness
    judge: str
    baseline: str
    baseline_loss: float
    baseline_benchmark: float
    absent_because: str
    def __init__(self, raw: _Optional[float] = ..., spread: _Optional[float] = ..., scores: _Optional[_Union[SubScores, _Mapping]] = ..., justification: _Optional[str] = ..., fitness: _Optional[_Union[Fitness, _Mapping]] = ..., judge: _Optional[str] = ..., baseline: _Optional[str] = ..., baseline_loss: _Optional[float] = ..., baseline_benchmark: _Optional[float] = ..., absent_because: _Optional[str] = ...) -> None: ...

class SubScores(_message.Message):
    __slots__ = ("performance", "innovation", "complexity")
    PERFORMANCE_FIELD_NUMBER: _ClassVar[int]
    INNOVATION_FIELD_NUMBER: _ClassVar[int]
    COMPLEXITY_FIELD_NUMBER: _ClassVar[int]
    performance: float
    innovation: float
    complexity: float
    def __init__(self, performance: _Optional[float] = ..., innovation: _Optional[float] = ..., complexity: _Optional[float] = ...) -> None: ...

class Fitness(_message.Message):
    __slots__ = ("version", "value", "loss_term", "benchmark_term", "judge_term", "interval")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOSS_TERM_FIELD_NUMBER: _ClassVar[int]
    BENCHMARK_TERM_FIELD_NUMBER: _ClassVar[int]
    JUDGE_TERM_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    version: str
    value: float
    loss_term: float
    benchmark_term: float
    judge_term: float
    interval: Interval
    def __init__(self, version: _Optional[str] = ..., value: _Optional[float] = ..., loss_term: _Optional[float] = ..., benchmark_term: _Optional[float] = ..., judge_term: _Optional[float] = ..., interval: _Optional[_Union[Interval, _Mapping]] = ...) -> None: ...

class Interval(_message.Message):
    __slots__ = ("low", "high", "level")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    low: float
    high: float
    level: float
    def __init__(self, low: _Optional[float] = ..., high: _Optional[float] = ..., level: _Optional[float] = ...) -> None: ...

class Analysis(_message.Message):
    __slots__ = ("design_evaluation", "results", "expectation", "explanation", "synthesis", "components", "ideas", "cognition", "analyst")
    DESIGN_EVALUATION_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    EXPECTATION_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    SYNTHESIS_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    IDEAS_FIELD_NUMBER: _ClassVar[int]
    COGNITION_FIELD_NUMBER: _ClassVar[int]
    ANALYST_FIELD_NUMBER: _ClassVar[int]
    design_evaluation: str
    results: str
    expectation: str
    explanation: str
    synthesis: str
    components: _containers.RepeatedScalarFieldContainer[str]
    ideas: _containers.RepeatedCompositeFieldContainer[Idea]
    cognition: _containers.RepeatedCompositeFieldContainer[CognitionHit]
    analyst: str
    def __init__(self, design_evaluation: _Optional[str] = ..., results: _Optional[str] = ..., expectation: _Optional[str] = ..., explanation: _Optional[str] = ..., synthesis: _Optional[str] = ..., components: _Optional[_Iterable[str]] = ..., ideas: _Optional[_Iterable[_Union[Idea, _Mapping]]] = ..., cognition: _Optional[_Iterable[_Union[CognitionHit, _Mapping]]] = ..., analyst: _Optional[str] = ...) -> None: ...

class CognitionHit(_message.Message):
    __slots__ = ("entry", "similarity", "title")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    entry: str
    similarity: float
    title: str
    def __init__(self, entry: _Optional[str] = ..., similarity: _Optional[float] = ..., title: _Optional[str] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("stage", "reason", "evidence")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    stage: str
    reason: str
    evidence: _struct_pb2.Struct
    def __init__(self, stage: _Optional[str] = ..., reason: _Optional[str] = ..., evidence: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("role", "model", "endpoint", "prompt_tokens", "completion_tokens", "seconds", "price", "prompt", "answer", "error", "prompt_version", "prompt_hash")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    PROMPT_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROMPT_HASH_FIELD_NUMBER: _ClassVar[int]
    role: str
    model: str
    endpoint: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    price: float
    prompt: Artifact
    answer: Artifact
    error: str
    prompt_version: str
    prompt_hash: str
    def __init__(self, role: _Optional[str] = ..., model: _Optional[str] = ..., endpoint: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., seconds: _Optional[float] = ..., price: _Optional[float] = ..., prompt: _Optional[_Union[Artifact, _Mapping]] = ..., answer: _Optional[_Union[Artifact, _Mapping]] = ..., error: _Optional[str] = ..., prompt_version: _Optional[str] = ..., prompt_hash: _Optional[str] = ...) -> None: ...

class Verification(_message.Message):
    __slots__ = ("stage", "training")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    TRAINING_FIELD_NUMBER: _ClassVar[int]
    stage: str
    training: Training
    def __init__(self, stage: _Optional[str] = ..., training: _Optional[_Union[Training, _Mapping]] = ...) -> None: ...

class Discovery(_message.Message):
    __slots__ = ("confirmed", "stage", "control", "effect", "interval", "p_value", "adjusted_p_value", "tried", "method")
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    EFFECT_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    ADJUSTED_P_VALUE_FIELD_NUMBER: _ClassVar[int]
    TRIED_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    confirmed: bool
    stage: str
    control: str
    effect: float
    interval: Interval
    p_value: float
    adjusted_p_value: float
    tried: int
    method: str
    def __init__(self, confirmed: _Optional[bool] = ..., stage: _Optional[str] = ..., control: _Optional[str] = ..., effect: _Optional[float] = ..., interval: _Optional[_Union[Interval, _Mapping]] = ..., p_value: _Optional[float] = ..., adjusted_p_value: _Optional[float] = ..., tried: _Optional[int] = ..., method: _Optional[str] = ...) -> None: ...
