"""The Mind port: typed questions in, validated typed answers out, every call accounted for.

    class Idea(BaseModel):
        name: str = Field(min_length=1)
        program: Annotated[str, Block("python")]     # long text: in a fence of its own where JSON is not enforced

    prompt = (Message("system", …), Message("user", …))
    answered = await mind.ask(Request(Role.PROPOSE, run, candidate, prompt, Idea, "propose-1"))
    answered.answer        # an Idea
    answered.calls         # what it took, failures included: goes into the candidate's record

Errors tell the caller what to do, and are those the worker loop knows:

    MindError
    ├── MindUnavailable   Transient   no model answers now: the question comes again after `delay`
    ├── BudgetExhausted   Rejected    stage "policy": the run's tokens or money do not cover another call
    │   └── PriceUnknown              a budget in money, but the model has no price in the settings
    ├── AnswerInvalid     Rejected    the answer does not validate, also after the repair turn
    │   └── AnswerTruncated           the answer was cut off at the token limit, twice
    ├── MindRefused       Rejected    the model declines, or the endpoint refuses the request itself
    └── NotRecorded       Rejected    a replay was asked something that is not on record
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

UNPAID = "unpaid"
"""In the evidence of a rejection: what is left of the budget does not cover a question that the candidate needs."""


class Role(StrEnum):
    """What a mind is asked to do; each role has its own models, temperature and limits."""

    SUMMARISE = "summarise"
    PROPOSE = "propose"
    JUDGE_NOVELTY = "judge_novelty"
    REVISE = "revise"
    SCORE = "score"
    ANALYSE = "analyse"
    EXTRACT = "extract"


EMBED = "embed"
"""What calls that embed a text are recorded as; an embedder is asked, no mind."""


def embedding_hash(texts: Sequence[str]) -> str:
    """SHA-256 of what is embedded, as `Request.prompt_hash`: the model has no part in it."""
    return hashlib.sha256(json.dumps({"role": EMBED, "texts": list(texts)}).encode()).hexdigest()


# The stage at which a candidate ends when the question of a role has no usable answer.
STAGES = {
    Role.SUMMARISE: "propose",
    Role.PROPOSE: "propose",
    Role.JUDGE_NOVELTY: "propose",
    Role.REVISE: "train",
    Role.SCORE: "judge",
    Role.ANALYSE: "analyse",
    Role.EXTRACT: "analyse",
}


class Fault(StrEnum):
    """How one call can fail."""

    RATE_LIMITED = "rate_limited"  # 429
    SERVER_ERROR = "server_error"  # 5xx, 408, 409
    TIMEOUT = "timeout"  # no whole answer in time, however slowly it trickled
    DISCONNECTED = "disconnected"  # refused, reset, or closed in the middle of the body
    MALFORMED = "malformed"  # 200, but the body is not the protocol
    EMPTY = "empty"  # no choice, or one without text
    TRUNCATED = "truncated"  # the answer hit the token limit
    REFUSED = "refused"  # the model declines
    INVALID = "invalid"  # an answer that does not validate
    UNSUPPORTED = "unsupported"  # 400 about an optional feature: asked again without it
    BAD_REQUEST = "bad_request"  # any other 4xx: asking again would not help
    UNAUTHORISED = "unauthorised"  # 401, 403, or 404 for the model: the settings are wrong
    CANCELLED = "cancelled"  # the asker went away


@dataclass(frozen=True, slots=True)
class Block:
    """Marks a long text field of an answer: `Annotated[str, Block("python")]`.

    Where an endpoint does not enforce JSON, the model writes the field in a fence of this language, unescaped.
    """

    language: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class Request(Generic[A]):
    """A question.

    `answer` is the model the reply must validate against. `ordinal` tells apart questions that are the same to the
    letter and yet asked several times on purpose (a judge that is asked three times uses 0, 1, 2); a question that is
    repeated because its event came again keeps its ordinal. `temperature` overrides the role's setting.
    """

    role: Role
    run: str
    candidate: str
    messages: tuple[Message, ...]
    answer: type[A]
    prompt_version: str
    temperature: float | None = None
    ordinal: int = 0

    def __post_init__(self) -> None:
        if not self.messages or not all(message.text.strip() for message in self.messages):
            raise ValueError(f"request.messages of {self.role} must be at least one message, and none of them empty")

    @property
    def prompt_hash(self) -> str:
        """SHA-256 of role, messages, answer schema and ordinal; the model has no part in it."""
        parts = {
            "role": self.role.value,
            "messages": [[message.role, message.text] for message in self.messages],
            "schema": plain_schema(self.answer),
            "ordinal": self.ordinal,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=256)
def plain_schema(answer: type[BaseModel]) -> dict[str, JsonValue]:
    """The JSON schema of an answer, made once; not to be changed."""
    return answer.model_json_schema()


@dataclass(frozen=True, slots=True)
class Call:
    """One exchange with an endpoint, whatever came of it.

    Tokens are None where the endpoint did not report them, `price` (US dollars) where the settings hold none. The
    reserve of the call is set where its usage is not known: it is booked instead. `prompt` is the JSON that was sent,
    `answer` the text that came back (empty if none did); neither holds a secret.
    """

    role: str  # a Role, or EMBED
    model: str
    endpoint: str
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float
    price: float | None
    prompt: bytes
    answer: bytes
    error: Fault | None
    prompt_version: str
    prompt_hash: str
    reserved_tokens: int | None = None
    reserved_price: float | None = None


@dataclass(frozen=True)
class Answered(Generic[A]):
    """A validated answer and the calls it took, in order; the last one gave the answer."""

    answer: A
    calls: tuple[Call, ...]

    @property
    def model(self) -> str:
        """The model that gave the answer."""
        return self.calls[-1].model


class MindError(Exception):
    """A question without a usable answer; `calls` are those that were made, for the record."""

    calls: tuple[Call, ...] = ()


class MindUnavailable(MindError, Transient):  # noqa: N818 - an outcome
    """No model of the role answers now. Ask again after `delay` seconds (None: the caller's own back-off)."""

    def __init__(self, reason: str, calls: tuple[Call, ...] = (), delay: float | None = None) -> None:
        Transient.__init__(self, reason, delay)
        self.calls = calls


class BudgetExhausted(MindError, Rejected):  # noqa: N818 - an outcome
    """Another call could exceed the run's budget, so it was not made. Stop asking for this run."""

    def __init__(self, reason: str, calls: tuple[Call, ...] = ()) -> None:
        Rejected.__init__(self, "policy", reason, {UNPAID: True})
        self.calls = calls


class PriceUnknown(BudgetExhausted):
    """The run has a budget in money, and the settings do not say what this model costs."""


class _Unusable(MindError, Rejected):  # noqa: N818 - an outcome
    """The question has no usable answer, and asking again would not help: the candidate ends at the role's stage."""

    def __init__(self, role: Role, reason: str, calls: tuple[Call, ...] = ()) -> None:
        Rejected.__init__(self, STAGES[role], reason, {"role": role.value})
        self.calls = calls


class AnswerInvalid(_Unusable):
    """The answer does not validate, also after the repair turn; the reason holds the validation error."""


class AnswerTruncated(AnswerInvalid):
    """The answer was cut off at the token limit, also on the second try: raise the role's max_tokens."""


class MindRefused(_Unusable):
    """The model declines to answer, or the endpoint refuses the request as such."""


class NotRecorded(_Unusable):
    """A recorded run was asked a question that it did not ask when it was recorded."""


class Mind(Protocol):
    """Whoever answers.

    `ask` returns an answer that validates against `request.answer`, or raises a MindError. It is safe to call many
    times at once, ends within the time limit of the role, and spends nothing that the run's budget does not cover.
    Cancelling it gives up the call in flight; what that may have cost is booked.
    """

    @property
    def name(self) -> str:
        """Which mind, with its version or model, for the record."""
        ...

    async def ask(self, request: Request[A]) -> Answered[A]: ...


class Learner(Protocol):
    """A mind that learns which of its models yields more per unit of cost."""

    async def reward(self, role: Role, model: str, candidate: str, gain: float) -> None:
        """Tell what `model`'s answer brought: the fitness gained over the parent, at least 0.

        The same candidate is counted once per role, however often it is told.
        """
        ...


class Journal(Protocol):
    """Where every call is written as soon as it has ended, failed and cancelled ones too."""

    async def record(self, run: str, candidate: str, call: Call) -> int | None:
        """Keep `call`; the sequence of the event that books it, where there is one.

        What this raises ends the question, since an unrecorded answer must not be used.
        """
        ...


OFFLINE = "offline"
OPENAI = "openai"
MIXED = "openai+offline"
"""The endpoint and the offline search, each for the seats where it pays."""
RECORDED = "recorded:"


def recorded(run: str, until: int | None = None) -> str:
    """The mind that answers from a run's record; up to a sequence of its log, and asks an endpoint from there on."""
    return f"{RECORDED}{run}" if until is None else f"{RECORDED}{run}@{until}"


def record_of(mind: str) -> tuple[str, int | None]:
    """The run whose record a recorded mind answers from, and the last sequence of it that counts; None: all of it.

    Raises ValueError for another name.
    """
    run, at, until = mind.removeprefix(RECORDED).partition("@")
    if not mind.startswith(RECORDED) or not run or (at and not until.isdecimal()):
        choices = f"{OFFLINE}, {OPENAI}, {MIXED}, recorded:RUN[@SEQUENCE] or recorded:FILE.jsonl"
        raise ValueError(f"mind is {mind!r}; choose {choices}")
    return run, int(until) if at else None


def exchange_file(mind: str) -> Path | None:
    """The file of recorded exchanges that the mind answers from: "recorded:FILE.jsonl"; None for any other mind."""
    name = mind.removeprefix(RECORDED)
    return Path(name) if mind.startswith(RECORDED) and name.endswith(".jsonl") else None


def validate_mind(mind: str) -> str:
    """The mind's name as services are told it: the path of a file of exchanges becomes absolute.

    Raises ValueError naming the choices, or the file that cannot be read.
    """
    if mind in (OFFLINE, OPENAI, MIXED):
        return mind
    if (path := exchange_file(mind)) is None:
        record_of(mind)
        return mind
    if not path.is_file():
        raise ValueError(f"mind is {mind!r}, but {path} is not a file")
    return f"{RECORDED}{path.absolute()}"


def asks_endpoint(mind: str) -> bool:
    """Whether the mind of this name may put a question to an endpoint."""
    return mind in (OPENAI, MIXED) or (mind.startswith(RECORDED) and "@" in mind and exchange_file(mind) is None)
