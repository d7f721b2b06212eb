"""Answers of endpoints: the schema to enforce, instructions for those that do not, replies, and the text in them.

Endpoints without structured output get a fallback form: the object in a ```json fence, and each field marked
`Block("python")` unescaped in a ```python fence of its own. One parser reads all forms.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Mapping
from functools import lru_cache
from typing import cast

from pydantic import (
    AliasChoices,
    BaseModel,
    Field,
    FiniteFloat,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from services.llm.port import A, Block, Fault

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]
_OPENING = re.compile(r"[ \t]*(?P<ticks>`{3,}|~{3,})(?P<language>[ \t]*[\w+-]*)")
_LONGEST_REASON = 2000


class Unreadable(ValueError):  # noqa: N818
    """The text is not a valid answer; the message is addressed to the model that repairs it."""


def blocks_of(answer: type[BaseModel]) -> dict[str, str]:
    """The fields marked with `Block`, and their languages."""
    return {
        name: mark.language
        for name, field in answer.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, Block)
    }


@lru_cache(maxsize=256)
def schema_of(answer: type[BaseModel]) -> tuple[dict[str, JSON], bool]:
    """The JSON schema to send, and whether it can be enforced strictly, which free-form mappings prevent."""
    schema = cast("dict[str, JSON]", answer.model_json_schema())
    strict = not _has_mapping(schema)
    return (cast("dict[str, JSON]", _closed(schema)) if strict else schema), strict


def _has_mapping(node: JSON) -> bool:
    """Whether any object in the schema allows arbitrary keys."""
    if isinstance(node, list):
        return any(_has_mapping(inner) for inner in node)
    if not isinstance(node, dict):
        return False
    free = node.get("type") == "object" and "properties" not in node
    return free or any(_has_mapping(inner) for inner in node.values())


def _closed(node: JSON) -> JSON:
    """The schema with all properties required and no others allowed, as strict structured output needs."""
    if isinstance(node, list):
        return [_closed(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    properties = node.get("properties")
    closed = {key: _closed(inner) for key, inner in node.items() if key != "default"}
    if isinstance(properties, dict):
        # A property may itself be called "default", so the names are taken from the original.
        closed["properties"] = {name: _closed(inner) for name, inner in properties.items()}
        closed["required"] = list(properties)
        closed["additionalProperties"] = False
    return closed


def instructions(answer: type[BaseModel], fenced: bool) -> str:
    """Instructions for models whose endpoint does not enforce the schema."""
    schema = answer.model_json_schema()
    blocks = blocks_of(answer) if fenced else {}
    for name in blocks:
        schema["properties"].pop(name)
        schema["required"] = [field for field in schema.get("required", []) if field != name]
    text = f"Answer with one JSON object that follows this JSON schema:\n{json.dumps(schema)}\n"
    if not fenced:
        return text + "Write nothing besides the object."
    text += "Put the object into a fence that opens with ```json and closes with ```."
    for name, language in blocks.items():
        unless = "" if answer.model_fields[name].is_required() else ", unless it is left out,"
        text += f"\nThen give `{name}`{unless} whole and unescaped in a fence of its own that opens with ```{language}."
    return text


def read(text: str, answer: type[A]) -> A:
    """The validated answer in `text`. Raises Unreadable with the problems."""
    reply = text.rsplit("</think>", 1)[-1]  # without the reasoning
    values = _without_nulls(_values(reply, blocks_of(answer)))
    try:
        return answer.model_validate_json(json.dumps(values, allow_nan=False))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc'])) or 'answer'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        ]
        raise Unreadable("; ".join(problems)[:_LONGEST_REASON]) from None
    except ValueError:  # of json: 1e999 is read as infinite
        raise Unreadable("a number in the answer is not finite") from None


def _without_nulls(value: JSON) -> JSON:
    """Models write null for what they leave out, whatever the schema says."""
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _without_nulls(item) for name, item in value.items() if item is not None}


def _values(text: str, blocks: Mapping[str, str]) -> dict[str, JSON]:
    single = _object(text.strip())
    if single is not None:
        return single
    fences = _fences(text)
    parsed = [_object(body) for language, body in fences if language in ("json", "")]
    objects = [value for value in parsed if value is not None]
    if not objects:  # an object between the first and the last brace
        objects = [_object(text[text.find("{") : text.rfind("}") + 1]) or {}]
    values = dict(objects[-1])
    if not values:
        raise Unreadable("no JSON object was found in the answer")
    for name, language in blocks.items():
        bodies = [body for of, body in fences if of == language]
        if bodies and name not in values:
            # Explanations may quote parts; the whole text is the longest.
            values[name] = max(bodies, key=len)
    return values


def _fences(text: str) -> list[tuple[str, str]]:
    """Language and body of each fence, in linear time: a model may repeat the opening of a fence thousands of times."""
    lines = text.split("\n")
    closings: dict[tuple[str, int], list[int]] = {}  # the lines of only ticks or tildes, by the sign and its number
    for index, line in enumerate(lines):
        signs = line.strip(" \t")
        if set(signs) in ({"`"}, {"~"}):
            closings.setdefault((signs[0], len(signs)), []).append(index)
    fences, index = [], 0
    while index < len(lines):
        if opening := _OPENING.match(lines[index]):
            ticks, language = opening["ticks"], opening["language"].strip().lower()
            for length in range(len(ticks), 2, -1):  # as a last resort fewer ticks close a fence
                later = closings.get((ticks[0], length), [])
                if (at := bisect_right(later, index)) < len(later):
                    body = "".join(f"{line}\n" for line in lines[index + 1 : later[at]])
                    fences.append((language if length == len(ticks) else "", body))
                    index = later[at]
                    break
        index += 1
    return fences


def _object(text: str) -> dict[str, JSON] | None:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse_constant(name: str) -> JSON:
    raise ValueError(f"{name} is not JSON")


# The replies of an OpenAI-compatible endpoint, whole or streamed, with the deviations that are in use.
_MOST_TOKENS = 1_000_000_000  # of one exchange


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0, lt=_MOST_TOKENS)
    completion_tokens: int | None = Field(default=None, ge=0, lt=_MOST_TOKENS)


class _Reply(BaseModel):
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = Field(default=None, validation_alias=AliasChoices("reasoning_content", "reasoning"))

    @field_validator("reasoning", mode="before")
    @classmethod
    def _text_only(cls, value: object) -> object:
        return value if isinstance(value, str) else None

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, value: object) -> object:
        """Some models that reason send a list: their thoughts, then the text."""
        if not isinstance(value, list):
            return value
        texts = [part.get("text") for part in value if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(text for text in texts if isinstance(text, str))


class _Choice(BaseModel):
    message: _Reply = Field(validation_alias=AliasChoices("message", "delta"))
    finish_reason: str | None = None


class Completion(BaseModel):
    """A reply, or a chunk of a streamed one."""

    choices: list[_Choice]
    usage: _Usage | None = None

    @field_validator("usage", mode="wrap")
    @classmethod
    def _none_if_unusable(cls, value: object, read: ValidatorFunctionWrapHandler) -> _Usage | None:
        """Impossible counts do not make the answer unusable."""
        try:
            return cast("_Usage | None", read(value))
        except ValidationError:
            return None


class _Row(BaseModel):
    index: int
    embedding: list[FiniteFloat]


class Embedded(BaseModel):
    """The reply to a request for embeddings."""

    data: list[_Row]
    usage: _Usage | None = None


def completion_of(text: str) -> Completion:
    """The reply in `text`, an object or a stream of chunks. Raises ValidationError."""
    lines = [line[5:].strip() for line in text.split("\n") if line.startswith("data:")]
    if not lines:
        return Completion.model_validate_json(text)
    chunks = [Completion.model_validate_json(line) for line in lines if line != "[DONE]"]
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    replies = [choice.message for choice in choices]
    whole = {
        "content": "".join(reply.content or "" for reply in replies),
        "refusal": "".join(reply.refusal or "" for reply in replies),
        "reasoning": "".join(reply.reasoning or "" for reply in replies),
    }
    finish = next((choice.finish_reason for choice in reversed(choices) if choice.finish_reason), None)
    usage = next((chunk.usage for chunk in reversed(chunks) if chunk.usage), None)
    choice = {"message": whole, "finish_reason": finish}
    return Completion.model_validate({"choices": [choice] if choices else [], "usage": usage})


def classify(completion: Completion) -> tuple[Fault | None, str, str]:
    """Fault, text and message of a well-formed reply."""
    if not completion.choices:
        return Fault.MALFORMED, "", "the reply has no choice"
    choice = completion.choices[0]
    text = choice.message.content or ""
    if choice.message.refusal or choice.finish_reason == "content_filter":
        return Fault.REFUSED, text, f"the model declines: {choice.message.refusal or 'content filter'}"
    if choice.finish_reason == "length":
        return Fault.TRUNCATED, text, "the answer was cut off at the token limit"
    if not text.strip():  # some servers take the answer for thoughts
        text = choice.message.reasoning or ""
    if not text.strip():
        return Fault.EMPTY, text, f"the answer is empty (finish_reason {choice.finish_reason!r})"
    return None, text, ""
