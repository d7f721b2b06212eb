"""Minds that answer from recorded calls, without an endpoint.

A question is found by candidate and prompt hash (role, messages, answer schema, ordinal). Prompts contain measurements
that differ between runs (speed, memory), so a question without an exact match takes the candidate's next unused answer
in the same role. Embedded texts need an exact match, since any other vector would be wrong.

`ExchangeFileMind` answers from a file of recorded exchanges.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
from pydantic import AliasPath, BaseModel, ConfigDict, Field, ValidationError

from services.archive.artifacts import FsspecArtifacts
from services.chassis.errors import SettingsError, Transient, sentence
from services.contracts import archive_pb2, archive_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.llm.answers import Unreadable, read
from services.llm.port import (
    EMBED,
    A,
    Answered,
    AnswerInvalid,
    AnswerTruncated,
    Call,
    Fault,
    Mind,
    MindRefused,
    NotRecorded,
    Request,
    Role,
    embedding_hash,
)

# Faults that end a question; after other faults, such as an outage, it was asked again.
_ENDS = frozenset({Fault.INVALID, Fault.TRUNCATED, Fault.TOO_LONG, Fault.REFUSED, Fault.BAD_REQUEST})


@dataclass(frozen=True, slots=True)
class Recorded:
    """The result of a recorded question: `answer`, or `error`."""

    model: str
    endpoint: str
    answer: bytes
    error: Fault | None


class CallRecord:
    """The calls of a run by candidate and prompt hash; answers are read from the artifacts on demand."""

    def __init__(self, artifacts: FsspecArtifacts) -> None:
        self._artifacts = artifacts
        self._calls: dict[tuple[str, str], pb.Call] = {}
        self._used: dict[tuple[str, str], set[str]] = {}  # used prompt hashes by candidate and role

    def add(self, candidate: str, call: pb.Call) -> None:
        """Add a call. Of the calls of one question, in order, the last one that ended it counts."""
        answered = self._calls.get((candidate, call.prompt_hash))
        if (not call.error or Fault(call.error) in _ENDS) and (answered is None or answered.error or not call.error):
            self._calls[candidate, call.prompt_hash] = call

    async def find(self, candidate: str, role: str, prompt_hash: str) -> Recorded | None:
        """The result of a question; None if it is not recorded or was not finished."""
        used = self._used.setdefault((candidate, role), set())
        call = self._calls.get((candidate, prompt_hash))
        if call is None and role != EMBED:
            calls = (call for (name, _), call in self._calls.items() if name == candidate)
            call = next((call for call in calls if call.role == role and call.prompt_hash not in used), None)
        if call is None:
            return None
        used.add(call.prompt_hash)
        answer = await self._artifacts.get(call.answer) if call.answer.sha256 else b""
        return Recorded(call.model, call.endpoint, answer, Fault(call.error) if call.error else None)


@dataclass(eq=False, slots=True)
class LoggedCalls:
    """The calls of a run up to an event of its log, read per candidate on demand."""

    archive: archive_pb2_grpc.ArchiveAsyncStub
    artifacts: FsspecArtifacts
    run: str
    until: int
    _records: dict[str, CallRecord] = field(default_factory=dict)

    async def find(self, candidate: str, role: str, prompt_hash: str) -> Recorded | None:
        """As `CallRecord.find`. Raises Transient if the archive is unreachable."""
        if candidate not in self._records:
            self._records[candidate] = await self._read(candidate)
        return await self._records[candidate].find(candidate, role, prompt_hash)

    async def _read(self, candidate: str) -> CallRecord:
        """Empty for a candidate that the run does not have."""
        record = CallRecord(self.artifacts)
        request = archive_pb2.GetCandidateRequest(run=self.run, candidate=candidate)
        try:
            links = (await self.archive.GetChain(request, timeout=60)).links
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return record
            raise Transient(f"the record of run {self.run} is unreachable: {error.details()}") from error
        for link in links:
            if link.accepted and link.sequence <= self.until and link.event.HasField("mind_answered"):
                record.add(candidate, link.event.mind_answered.call)
        return record


class RecordedMind:
    """Answers from the record; other questions go to `fallback`, if any."""

    def __init__(self, lookup: CallRecord | LoggedCalls, run: str, fallback: Mind | None = None) -> None:
        self._lookup = lookup
        self._run = run
        self._fallback = fallback

    @property
    def name(self) -> str:
        return f"recorded:{self._run}" + (f", then {self._fallback.name}" if self._fallback else "")

    @property
    def strict(self) -> bool:
        """Whether there is no fallback."""
        return self._fallback is None

    async def embedded(self, candidate: str, text: str) -> Recorded | None:
        """The recorded embedding of this text for this candidate, if any."""
        result = await self._lookup.find(candidate, EMBED, embedding_hash([text]))
        return None if result is None or result.error is not None else result

    async def ask(self, request: Request[A]) -> Answered[A]:
        """See the port. Raises NotRecorded for other questions without a fallback. Recorded answers cost nothing."""
        result = await self._lookup.find(request.candidate, request.role.value, request.prompt_hash)
        if result is None and self._fallback is not None:
            return await self._fallback.ask(request)
        if result is None:
            raise NotRecorded(
                request.role,
                f"run {self._run} has no answer to {request.role} of {request.candidate} (prompt "
                f"{request.prompt_hash[:12]}, version {request.prompt_version}); fork the run to ask an endpoint",
            )
        call = _free_call(request, result)
        try:
            answer = _answer(request, result)
        except (AnswerInvalid, MindRefused) as error:
            error.calls = (call,)
            raise
        return Answered(answer, (call,))


def _answer(request: Request[A], result: Recorded) -> A:
    """The recorded answer. Raises the recorded error."""
    if result.error is Fault.TRUNCATED:
        raise AnswerTruncated(request.role, "the recorded answer was cut off at the token limit")
    if result.error in (Fault.REFUSED, Fault.BAD_REQUEST):
        raise MindRefused(request.role, f"{result.model} gave no answer on record: {result.error}")
    try:
        return read(result.answer.decode("utf-8", "replace"), request.answer)
    except Unreadable as unreadable:
        raise AnswerInvalid(request.role, f"the recorded answer is not usable: {unreadable}") from None


def _free_call(request: Request[A], result: Recorded) -> Call:
    messages = [{"role": message.role, "content": message.text} for message in request.messages]
    return Call(
        role=request.role.value,
        model=result.model,
        endpoint=result.endpoint,
        prompt_tokens=0,
        completion_tokens=0,
        price=0.0,
        prompt=json.dumps({"messages": messages}, ensure_ascii=False).encode(),
        answer=result.answer,
        error=result.error,
        prompt_version=request.prompt_version,
        prompt_hash=request.prompt_hash,
    )


async def to_message(call: Call, artifacts: FsspecArtifacts) -> pb.Call:
    """The message of a call; prompt and answer are stored as artifacts. Unknown numbers stay unset."""
    same = ("role", "model", "endpoint", "seconds", "price", "prompt_version", "prompt_hash", "reserved_tokens",
            "reserved_price")  # fmt: skip
    return pb.Call(
        **{name: getattr(call, name) for name in same},
        prompt_tokens=call.prompt_tokens or 0,
        completion_tokens=call.completion_tokens or 0,
        prompt=await artifacts.put(call.prompt, "prompts"),
        answer=await artifacts.put(call.answer, "answers"),
        error=call.error.value if call.error else "",
    )


def rewarded_model(calls: Iterable[pb.Call], role: Role) -> str | None:
    """The model whose answer in `role` was used; None if no call of the role was answered."""
    answered = [call.model for call in calls if call.role == role.value and not call.error]
    return answered[-1] if answered else None


class ExchangedMessage(BaseModel):
    """One message of a recorded question."""

    role: str
    content: str


class Exchange(BaseModel):
    """A recorded question and its answer, a line of a file; `form` is the name of the answer's schema."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    model: str = Field(validation_alias=AliasPath("request", "model"))
    form: str = Field(validation_alias=AliasPath("request", "response_format", "json_schema", "name"), min_length=1)
    messages: list[ExchangedMessage] = Field(validation_alias=AliasPath("request", "messages"))
    answer: str


class ExchangeFileMind:
    """Answers from `exchanges`, using each at most once. Safe for concurrent use."""

    def __init__(self, exchanges: Sequence[Exchange], name: str) -> None:
        self._unused = list(exchanges)
        self._name = name

    @classmethod
    def read(cls, path: Path) -> ExchangeFileMind:
        """From a JSONL file. Raises SettingsError naming an invalid line."""
        return cls(read_exchanges(path), f"recorded:{path}")

    @property
    def name(self) -> str:
        return self._name

    async def ask(self, request: Request[A]) -> Answered[A]:
        """See the port. Raises NotRecorded if no unused answer of this form is left."""
        messages = [ExchangedMessage(role=message.role, content=message.text) for message in request.messages]
        same_form = [exchange for exchange in self._unused if exchange.form == request.answer.__name__]
        exchange = next((exact for exact in same_form if exact.messages == messages), next(iter(same_form), None))
        if exchange is None:
            raise NotRecorded(request.role, f"{self._name} has no further answer of the form {request.answer.__name__}")
        self._unused.remove(exchange)
        call = _free_call(request, Recorded(exchange.model, self._name, exchange.answer.encode(), None))
        try:
            return Answered(read(exchange.answer, request.answer), (call,))
        except Unreadable as unreadable:
            error = AnswerInvalid(request.role, f"the recorded answer does not validate: {unreadable}")
            error.calls = (call,)
            raise error from None


def read_exchanges(path: Path) -> list[Exchange]:
    """The exchanges of a JSONL file, in order. Raises SettingsError naming an invalid line."""
    exchanges = []
    try:
        lines = path.read_text("utf-8-sig").split("\n")  # not splitlines: prompts may contain U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read as a file of exchanges: {sentence(error)}.") from None
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            exchanges.append(Exchange.model_validate_json(text))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = ".".join(map(str, problem["loc"])) or "it"
            raise SettingsError(f"{path}, line {number} is not an exchange: {where}: {problem['msg']}.") from None
    return exchanges
