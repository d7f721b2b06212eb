"""A mind that answers from a file of recorded exchanges with an endpoint, without any endpoint.

Each line of the file is a JSON object: `request`, the body of a chat completion whose `response_format` names the form
of the answer, and `answer`, the text that came back. A question gets the answer to the same messages where the file
holds it; otherwise the next unused answer of the same form, since prompts hold what each run measures anew and change
from version to version. Each answer is given once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from services.chassis.errors import SettingsError
from services.llm.answers import Unreadable, read
from services.llm.port import A, Answered, AnswerInvalid, Call, NotRecorded, Request


class _Message(BaseModel):
    role: str
    content: str


class _Schema(BaseModel):
    name: str = Field(min_length=1)


class _ResponseFormat(BaseModel):
    json_schema: _Schema


class _Body(BaseModel):
    model: str
    messages: list[_Message]
    response_format: _ResponseFormat


class _Line(BaseModel):
    request: _Body
    answer: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """One recorded question and its answer; `form` is the name of the answer's schema."""

    model: str
    form: str
    messages: tuple[tuple[str, str], ...]
    answer: str


class ExchangeFileMind:
    """Answers each question at most once from `exchanges`. It costs nothing and is safe to use from many tasks."""

    def __init__(self, exchanges: Sequence[Exchange], name: str) -> None:
        self._unused = list(exchanges)
        self._name = name

    @classmethod
    def read(cls, path: Path) -> ExchangeFileMind:
        """The mind of a JSONL file. Raises SettingsError naming the line that is not an exchange."""
        return cls(read_exchanges(path), f"recorded:{path}")

    @property
    def name(self) -> str:
        return self._name

    async def ask(self, request: Request[A]) -> Answered[A]:
        """As the port says; NotRecorded once no answer of this form is left."""
        messages = tuple((message.role, message.text) for message in request.messages)
        same_form = [exchange for exchange in self._unused if exchange.form == request.answer.__name__]
        exchange = next((one for one in same_form if one.messages == messages), next(iter(same_form), None))
        if exchange is None:
            raise NotRecorded(
                request.role, f"{self._name} holds no further answer of the form {request.answer.__name__}"
            )
        self._unused.remove(exchange)
        call = Call(
            role=request.role.value,
            model=exchange.model,
            endpoint=self._name,
            prompt_tokens=0,
            completion_tokens=0,
            seconds=0.0,
            price=0.0,
            prompt=b"",
            answer=exchange.answer.encode(),
            error=None,
            prompt_version=request.prompt_version,
            prompt_hash=request.prompt_hash,
        )
        try:
            return Answered(read(exchange.answer, request.answer), (call,))
        except Unreadable as unreadable:
            error = AnswerInvalid(request.role, f"the recorded answer does not validate: {unreadable}", (call,))
            raise error from None


def read_exchanges(path: Path) -> list[Exchange]:
    """The exchanges of a JSONL file, in order. Raises SettingsError naming the line that is not one."""
    exchanges = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read as a file of exchanges: {error}.") from None
    for number, text in enumerate(lines, 1):
        try:
            line = _Line.model_validate(json.loads(text))
        except (ValueError, ValidationError) as error:
            raise SettingsError(f"{path}, line {number} is not an exchange: {error}.") from None
        messages = tuple((message.role, message.content) for message in line.request.messages)
        exchanges.append(
            Exchange(line.request.model, line.request.response_format.json_schema.name, messages, line.answer)
        )
    return exchanges
