"""The Mind port: typed questions, validated typed answers, and an account of every call.

    class Idea(BaseModel):
        name: str = Field(min_length=1)
        program: Annotated[str, Block("python")]     # long text: in a fence of its own where JSON is not enforced

    prompt = (Message("system", …), Message("user", …))
    answered = await mind.ask(Request(Role.PROPOSE, run, candidate, prompt, Idea, "propose-1"))
    answered.answer        # an Idea
    answered.calls         # all calls, including failed ones, for the candidate's record

Errors are those of the worker loop (`services.chassis.errors`):

    MindError
    ├── MindUnavailable   Transient   no model answers now: retry after `delay`
    ├── BudgetExhausted   Rejected    stage "policy": the run's tokens or money do not cover another call
    │   └── PriceUnknown              a budget in money, but the model has no price in the settings
    ├── AnswerInvalid     Rejected    the answer does not validate, also after the repair turn
    │   └── AnswerTruncated           the answer was cut off at the token limit, twice
    ├── MindRefused       Rejected    the model declines, or the endpoint refuses the request itself
    └── NotRecorded       Rejected    the question is not on record
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, JsonValue

from services.chassis.errors import Rejected, Transient

A = TypeVar("A", bound=BaseModel)
A_co = TypeVar("A_co", bound=BaseModel, covariant=True)

UNPAID = "unpaid"
"""Key in the evidence of a rejection: the budget does not cover a question that the candidate needs."""


class Role(StrEnum):
    """The purpose of a question; each role has its own models, temperature and limits."""

    PROPOSE = "propose"
    JUDGE_NOVELTY = "judge_novelty"
    REVISE = "revise"
    SCORE = "score"
    ANALYSE = "analyse"
    EXTRACT = "extract"


EMBED = "embed"
"""The `role` of calls that embed texts."""


def embedding_hash(texts: Sequence[str]) -> str:
    """SHA-256 of the embedded texts, the counterpart of `Request.prompt_hash`; independent of the model."""
    return hashlib.sha256(json.dumps({"role": EMBED, "texts": list(texts)}).encode()).hexdigest()


# The stage of the rejection if the question of a role has no usable answer.
STAGES = {
    Role.PROPOSE: "propose",
    Role.JUDGE_NOVELTY: "propose",
    Role.REVISE: "train",
    Role.SCORE: "judge",
    Role.ANALYSE: "analyse",
    Role.EXTRACT: "analyse",
}


class Fault(StrEnum):
    """The ways in which a call can fail."""

    RATE_LIMITED = "rate_limited"  # 429
    SERVER_ERROR = "server_error"  # 5xx, 408, 409
    TIMEOUT = "timeout"  # no complete answer in time
    DISCONNECTED = "disconnected"  # refused, reset, or closed in the middle of the body
    MALFORMED = "malformed"  # 200, but the body is not the protocol
    EMPTY = "empty"  # a choice without text
    TRUNCATED = "truncated"  # the answer hit the token limit
    TOO_LONG = "too_long"  # the answer is larger than any that is read
    REFUSED = "refused"  # the model declines
    INVALID = "invalid"  # an answer that does not validate
    UNSUPPORTED = "unsupported"  # 400 about an optional feature: retried without it
    BAD_REQUEST = "bad_request"  # any other 4xx: no retry
    UNAUTHORISED = "unauthorised"  # 401, 403, 402 without credit, or 404 for the model: the settings are wrong
    CANCELLED = "cancelled"  # the caller was cancelled


@dataclass(frozen=True, slots=True)
class Block:
    """Marks a long text field of an answer: `Annotated[str, Block("python")]`.

    If the endpoint does not enforce JSON, the model writes the field unescaped in a fence of this language.
    """

    language: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class Request(Generic[A_co]):
    """A question.

    `answer` is the pydantic model of the reply. `ordinal` distinguishes intended repetitions of a question (a judge's
    three samples are 0, 1, 2); after a redelivery a question keeps its ordinal. `temperature` overrides the role's
    setting.
    """

    role: Role
    run: str
    candidate: str
    messages: tuple[Message, ...]
    answer: type[A_co]
    prompt_version: str
    temperature: float | None = None
    ordinal: int = 0

    def __post_init__(self) -> None:
        if not self.messages or not all(message.text.strip() for message in self.messages):
            raise ValueError(f"request.messages of {self.role} must be at least one message, and none of them empty")

    @property
    def prompt_hash(self) -> str:
        """SHA-256 of role, messages, answer schema and ordinal; independent of the model."""
        parts = {
            "role": self.role.value,
            "messages": [[message.role, message.text] for message in self.messages],
            "schema": plain_schema(self.answer),
            "ordinal": self.ordinal,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=256)
def plain_schema(answer: type[BaseModel]) -> dict[str, JsonValue]:
    """The JSON schema of an answer. Cached: it must not be modified."""
    return answer.model_json_schema()


@dataclass(frozen=True, slots=True)
class Call:
    """One exchange with an endpoint, successful or not.

    Tokens are None if the endpoint did not report them, `price` (US dollars) if the settings have none. The reservation
    is set if the usage is unknown: it is booked instead. `prompt` is the JSON that was sent, `answer` the text of the
    reply, possibly empty; neither contains a secret.
    """

    role: str  # a Role, or EMBED
    model: str
    endpoint: str
    prompt: bytes
    prompt_version: str
    prompt_hash: str
    answer: bytes = b""
    error: Fault | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    price: float | None = None
    reserved_tokens: int | None = None
    reserved_price: float | None = None


@dataclass(frozen=True)
class Answered(Generic[A]):
    """A validated answer and its calls, in order; the last one gave the answer."""

    answer: A
    calls: tuple[Call, ...]


class MindError(Exception):
    """A question without a usable answer; `calls` are those that were made."""

    calls: tuple[Call, ...] = ()


class MindUnavailable(MindError, Transient):  # noqa: N818 - an outcome
    """No model of the role answers now. Retry after `delay` seconds (None: the caller's own back-off)."""


class BudgetExhausted(MindError, Rejected):  # noqa: N818 - an outcome
    """Another call could exceed the run's budget, so it was not made."""

    def __init__(self, reason: str) -> None:
        super().__init__("policy", reason, {UNPAID: True})


class PriceUnknown(BudgetExhausted):
    """The run has a budget in money, and the settings do not say what this model costs."""


class _Unusable(MindError, Rejected):  # noqa: N818 - an outcome
    """The question has no usable answer, and a retry does not help: the candidate is rejected at the role's stage."""

    def __init__(self, role: Role, reason: str) -> None:
        super().__init__(STAGES[role], reason, {"role": role.value})


class AnswerInvalid(_Unusable):
    """The answer is invalid, also after the repair turn, or all were empty; the reason contains the error."""


class AnswerTruncated(AnswerInvalid):
    """The answer was truncated at the token limit twice: raise the role's max_tokens."""


class MindRefused(_Unusable):
    """The model declines to answer, or the endpoint refuses the request."""


class NotRecorded(_Unusable):
    """The question is not on record."""


class Mind(Protocol):
    """Answers questions.

    `ask` returns an answer that validates against `request.answer`, or raises a MindError. It is safe for concurrent
    use, ends within the time limit of the role, and does not exceed the run's budget. A cancelled call is booked at its
    possible cost.
    """

    @property
    def name(self) -> str:
        """The mind with its version or models, for the record."""

    async def ask(self, request: Request[A]) -> Answered[A]: ...


class Learner(Protocol):
    """A mind that learns which of its models yields more per unit of cost."""

    async def reward(self, role: Role, model: str, candidate: str, gain: float) -> None:
        """Report the fitness gained over the parent, at least 0, by `model`'s answer. Idempotent per role and
        candidate."""


class Journal(Protocol):
    """Records every call when it ends, including failed and cancelled ones."""

    async def record(self, run: str, candidate: str, call: Call) -> int | None:
        """Record `call`; returns the sequence of the event that books it, if there is one.

        Its errors end the question, since an unrecorded answer must not be used.
        """


OFFLINE = "offline"
OPENAI = "openai"
MIXED = "openai+offline"
"""The endpoint and the offline search, by seat."""
RECORDED = "recorded:"


def recorded(run: str, until: int | None = None) -> str:
    """The mind that answers from a run's record, or from its log up to `until` and otherwise by an endpoint."""
    return f"{RECORDED}{run}" if until is None else f"{RECORDED}{run}@{until}"


def record_of(mind: str) -> tuple[str, int | None]:
    """The run of a recorded mind and the last sequence that applies, None for all. Raises ValueError."""
    run, at, until = mind.removeprefix(RECORDED).partition("@")
    if not mind.startswith(RECORDED) or not run or (at and not until.isdecimal()):
        choices = f"{OFFLINE}, {OPENAI}, {MIXED}, recorded:RUN[@SEQUENCE] or recorded:FILE.jsonl"
        raise ValueError(f"mind is {mind!r}; choose {choices}")
    return run, int(until) if at else None


def exchange_file(mind: str) -> Path | None:
    """The file of the mind "recorded:FILE.jsonl"; None for any other mind."""
    name = mind.removeprefix(RECORDED)
    return Path(name) if mind.startswith(RECORDED) and name.endswith(".jsonl") else None


def validate_mind(mind: str) -> str:
    """The name with an absolute path of exchanges. Raises ValueError naming the choices or the missing file."""
    if mind in (OFFLINE, OPENAI, MIXED):
        return mind
    if (path := exchange_file(mind)) is None:
        record_of(mind)
        return mind
    if not path.is_file():
        raise ValueError(f"mind is {mind!r}, but {path} is not a file")
    return f"{RECORDED}{path.absolute()}"


def asks_endpoint(mind: str) -> bool:
    """Whether the mind of this name may use an endpoint."""
    return mind in (OPENAI, MIXED) or (mind.startswith(RECORDED) and "@" in mind and exchange_file(mind) is None)
