"""What an endpoint understands of the chat protocol, and the request body in those terms. Pure.

A 400 that complains about an optional feature steps the dialect down; the step is remembered, and since there are only
five of them, asking again always ends.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from services.llm.answers import JSON, instructions, schema_of
from services.llm.port import A, Message, Request
from services.llm.settings import Structured

LimitField = Literal["max_tokens", "max_completion_tokens"]
_NOT_KNOWN = re.compile(
    r"unsupported|not support|does not support|unrecogni[sz]ed|unknown|not allowed|not permitted|extra", re.IGNORECASE
)
_WEAKER: dict[Structured, Structured] = {"json_schema": "json_object", "json_object": "text"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to ask: structured output, the name of the token limit, whether a temperature may be given."""

    structured: Structured = "json_schema"
    adaptable: bool = True  # whether `structured` may be stepped down
    limit: LimitField = "max_tokens"
    temperature: bool = True

    def after(self, complaint: str) -> "Dialect | None":
        """The dialect to try after a 400 with this text; None when the text is about something else."""
        lower = complaint.lower()
        if self.limit == "max_tokens" and "max_completion_tokens" in lower and _NOT_KNOWN.search(complaint):
            return replace(self, limit="max_completion_tokens")
        if self.temperature and "temperature" in lower and _NOT_KNOWN.search(complaint):
            return replace(self, temperature=False)
        about_form = any(
            word in lower for word in ("response_format", "json_schema", "json_object", "structured output")
        )
        if self.adaptable and about_form and self.structured in _WEAKER:
            return replace(self, structured=_WEAKER[self.structured])
        return None


def body(
    model: str, request: Request[A], turns: tuple[Message, ...], dialect: Dialect, temperature: float, max_tokens: int
) -> dict[str, JSON]:
    """The JSON body of one chat completion: the request's messages, then the turns of a repair."""
    messages: list[JSON] = [{"role": message.role, "content": message.text} for message in request.messages]
    if dialect.structured != "json_schema":
        text = instructions(request.answer, fenced=dialect.structured == "text")
        last = request.messages[-1]
        messages[-1] = {"role": last.role, "content": f"{last.text}\n\n{text}"}
    messages += [{"role": message.role, "content": message.text} for message in turns]
    asked: dict[str, JSON] = {"model": model, "messages": messages, dialect.limit: max_tokens}
    if dialect.temperature:
        asked["temperature"] = temperature
    if dialect.structured == "json_schema":
        schema, strict = schema_of(request.answer)
        named: dict[str, JSON] = {"name": request.answer.__name__[:64], "schema": schema, "strict": strict}
        asked["response_format"] = {"type": "json_schema", "json_schema": named}
    elif dialect.structured == "json_object":
        asked["response_format"] = {"type": "json_object"}
    return asked
