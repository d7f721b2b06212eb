"""Building events: each names its cause, carries the cause's hash, and has a deterministic id."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import Struct

from services.chassis.errors import Rejected
from services.contracts import candidate_pb2, events_pb2

MIN_CUT = 400  # characters; shorter texts are not truncated
MARK_CHARACTERS = 64
_MARK = re.compile(r" … \(cut here: \d+ of (\d+) characters\)$")
WHOLE = frozenset({"program", "id", "cause", "head", "parent"})  # fields that are never truncated


@dataclass(frozen=True)
class Cause:
    """The event that a new one follows from."""

    event: events_pb2.Event
    sha256: bytes

    @classmethod
    def of(cls, body: bytes) -> "Cause":
        """From a published body; the hash covers exactly these bytes. Raises ValueError if it is not an event."""
        try:
            return cls(events_pb2.Event.FromString(body), hashlib.sha256(body).digest())
        except DecodeError as error:
            raise ValueError(f"the body is not an event: {error}") from None

    @classmethod
    def published(cls, event: events_pb2.Event) -> "Cause":
        """From an event that this process published itself."""
        return cls(event, hashlib.sha256(body_of(event)).digest())


def body_of(event: events_pb2.Event) -> bytes:
    """The serialised event; serialisation is deterministic."""
    return event.SerializeToString(deterministic=True)


def first(run: str, fact: str, service: str, attempt: int = 1) -> events_pb2.Event:
    """An event without a cause, such as the start of a run. `fact` is part of the id."""
    event = events_pb2.Event(id=f"{run}.{fact}.{attempt}", run=run, attempt=attempt, service=service)
    event.time.GetCurrentTime()
    return event


def follow(
    cause: Cause, fact: str, service: str, attempt: int, candidate: str = "", suffix: str = "",
    retries: int | None = None,
) -> events_pb2.Event:  # fmt: skip
    """The next event of a chain, its fact ("trained", "judged", …) still to be set. Without `candidate`: about the run.

    The id is deterministic. `attempt` is the fencing token of a training, `suffix` distinguishes several facts of one
    cause, and `retries` is how often the candidate was retried, since attempts start again at 1 then; by default as in
    the cause.
    """
    source = cause.event
    same = candidate in ("", source.candidate)
    if retries is None:
        retries = source.retries if same else 0
    name = candidate or source.candidate or "run"
    parts = (source.run, name, fact, suffix, f"again-{retries}" if retries else "", str(attempt))
    event = events_pb2.Event(
        id=".".join(filter(None, parts)),
        run=source.run,
        candidate=candidate,
        attempt=attempt,
        cause=source.id,
        previous=cause.sha256,
        service=service,
        trace=source.trace if same else {},  # each candidate has its own trace
        retries=retries if candidate else 0,
    )
    event.time.GetCurrentTime()
    return event


def rejection(cause: Cause, rejected: Rejected, service: str, attempt: int) -> events_pb2.Event:
    """The fact that a candidate was rejected."""
    event = follow(cause, "rejected", service, attempt, cause.event.candidate, suffix=rejected.stage)
    event.candidate_rejected.rejection.CopyFrom(
        candidate_pb2.Rejection(
            stage=rejected.stage, reason=rejected.reason, evidence=struct(rejected.evidence), overhead=rejected.overhead
        )
    )
    return event


def fit(event: events_pb2.Event, max_bytes: int) -> None:
    """Truncate prose in place until the serialised event has at most `max_bytes` bytes.

    The longest text is halved first and marked as cut; programs and measurements are never changed.
    """
    while (excess := event.ByteSize() - max_bytes) > 0:
        longest = max(_texts(event), key=lambda text: len(text[2]), default=None)
        if longest is None or len(longest[2]) <= MIN_CUT:
            return
        message, name, text, index = longest
        mark = _MARK.search(text)
        full_length = int(mark[1]) if mark else len(text)
        text = text[: mark.start()] if mark else text
        spare = math.ceil(excess * len(text) / len(text.encode())) + MARK_CHARACTERS
        length = max(len(text) // 2, len(text) - spare)
        cut = f"{text[:length]} … (cut here: {length} of {full_length} characters)"
        if index is None:
            setattr(message, name, cut)
        else:
            getattr(message, name)[index] = cut


def _texts(message: Message) -> Iterator[tuple[Message, str, str, int | None]]:
    """Every text field of a message except programs: its message, field name, text, and index in a repeated field."""
    for field, value in message.ListFields():
        if isinstance(value, Message):
            yield from _texts(value)
        elif field.message_type is not None:  # repeated, or a map
            for nested in value.values() if isinstance(value, Mapping) else value:
                if isinstance(nested, Message):  # the values of a map may be strings, which are names
                    yield from _texts(nested)
        elif field.type == field.TYPE_STRING and field.name not in WHOLE:
            if isinstance(value, str):
                yield message, field.name, value, None
            else:
                yield from ((message, field.name, text, index) for index, text in enumerate(value))


def struct(values: Mapping[str, object]) -> Struct:
    """A protobuf Struct of JSON-like values; others, NaN and infinities are converted to text."""
    text = json.dumps(dict(values), default=lambda item: [*item] if isinstance(item, set | frozenset) else str(item))
    return ParseDict(json.loads(text, parse_constant=lambda name: str(float(name))), Struct())
