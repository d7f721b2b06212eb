"""The replies of an OpenAI-compatible endpoint: whole or streamed, with the deviations that are in use."""

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

from services.llm.port import Fault

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
