"""Exchanges with an OpenAI-compatible endpoint: the body of a request, and its result or failure as an `Outcome`.

A `Scrubber` removes secrets from everything that is recorded, logged or raised.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal, Protocol, cast
from urllib.parse import quote

from pydantic import SecretStr, ValidationError

from services.llm.answers import JSON, Embedded, classify, completion_of, instructions, schema_of
from services.llm.budget import Price, Spend, spend
from services.llm.port import A, Fault, Message, Request
from services.llm.settings import Structured

if TYPE_CHECKING:  # the import takes a second
    import openai
    from openai.types.chat import ChatCompletionMessageParam

MARK = "[secret]"

# Patterns of credentials that the settings do not contain.
_LOOKS_SECRET = re.compile(
    r"\bsk-[A-Za-z0-9_\-]{16,}|(?<=Bearer )[A-Za-z0-9._~+/\-]{8,}=*|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)"
)
_STARTS = ("sk-", "Bearer ", "://")
_SHORTEST = 4  # shorter secrets would match ordinary text


class Scrubber:
    """Replaces known secrets (plain, URL-quoted and Base64) and text that looks like one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        spellings: set[str] = set()
        for secret in secrets:
            if len(secret) >= _SHORTEST:
                spellings |= {secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()}
        self._known = sorted(spellings, key=len, reverse=True)

    def __repr__(self) -> str:
        return f"Scrubber({len(self._known)} spellings)"

    def text(self, text: str) -> str:
        for secret in self._known:
            text = text.replace(secret, MARK)
        # The pattern is slow on long prompts, most of which contain none of its prefixes.
        return _LOOKS_SECRET.sub(MARK, text) if any(start in text for start in _STARTS) else text

    def filter(self, record: logging.LogRecord) -> bool:
        """A logging filter that removes secrets from the message."""
        record.msg, record.args = self.text(record.getMessage()), ()
        return True


LimitField = Literal["max_tokens", "max_completion_tokens"]
_NOT_KNOWN = re.compile(
    r"unsupported|not support|does not support|unrecogni[sz]ed|unknown|not allowed|not permitted|extra", re.IGNORECASE
)
_SHORTEST_LIMIT = 128  # tokens; a smaller number in a complaint is hardly a limit of answers
_SHORTEST_OF_CONTEXT = 4096  # in a complaint about the context, where a smaller number may be the length of the prompt
_WEAKER: dict[Structured, Structured] = {"json_schema": "json_object", "json_object": "text"}


@dataclass(frozen=True, slots=True)
class RequestFormat:
    """The supported features: structured output, the name and maximum of the token limit, temperature, streaming."""

    structured: Structured = "json_schema"
    adaptable: bool = True  # whether `structured` may be downgraded
    limit: LimitField = "max_tokens"
    most_tokens: int = 1 << 30
    temperature: bool = True
    stream: bool = False

    def after(self, complaint: str, max_tokens: int) -> RequestFormat | None:
        """The format to try after a 400 with this text, which had `max_tokens`; None if it is about something else."""
        lower = complaint.lower()
        if self.limit == "max_tokens" and "max_completion_tokens" in lower and _NOT_KNOWN.search(complaint):
            return replace(self, limit="max_completion_tokens")
        if self.temperature and "temperature" in lower:
            return replace(self, temperature=False)
        if not self.stream and re.search(r"\bstream", lower):
            return replace(self, stream=True)
        if "max_tokens" in lower or "max_completion_tokens" in lower:
            numbers = [int(text.replace(",", "")) for text in re.findall(r"\d[\d,]{0,9}", complaint)]
            least = _SHORTEST_OF_CONTEXT if "context" in lower else _SHORTEST_LIMIT
            if smaller := [number for number in numbers if least <= number < max_tokens]:
                return replace(self, most_tokens=max(smaller))
        terms = ("response_format", "json_schema", "json schema", "json_object", "structured output")
        if self.adaptable and self.structured in _WEAKER and any(term in lower for term in terms):
            return replace(self, structured=_WEAKER[self.structured])
        return None


def body(
    model: str,
    request: Request[A],
    turns: tuple[Message, ...],
    format_: RequestFormat,
    temperature: float,
    max_tokens: int,
) -> dict[str, JSON]:
    """The JSON body of a chat completion: the request's messages, then the repair turns."""
    messages: list[JSON] = [{"role": message.role, "content": message.text} for message in request.messages]
    if format_.structured != "json_schema":
        text = instructions(request.answer, fenced=format_.structured == "text")
        last = request.messages[-1]
        messages[-1] = {"role": last.role, "content": f"{last.text}\n\n{text}"}
    messages += [{"role": message.role, "content": message.text} for message in turns]
    content: dict[str, JSON] = {"model": model, "messages": messages}
    content[format_.limit] = min(max_tokens, format_.most_tokens)
    if format_.stream:
        content |= {"stream": True, "stream_options": {"include_usage": True}}
    if format_.temperature:
        content["temperature"] = temperature
    if format_.structured == "json_schema":
        schema, strict = schema_of(request.answer)
        named: dict[str, JSON] = {"name": request.answer.__name__[:64], "schema": schema, "strict": strict}
        content["response_format"] = {"type": "json_schema", "json_schema": named}
    elif format_.structured == "json_object":
        content["response_format"] = {"type": "json_object"}
    return content


_LONGEST_MESSAGE = 1000
LONGEST_ANSWER = 2 << 20  # characters; a program may have 256 KiB, and escapes in JSON
_SHOWN = 200  # characters of a reply that is not used
# The request never reached the endpoint, so it costs nothing.
_NOT_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout"}
# Statuses of a gateway that stopped waiting; the model may have answered and charged.
_GAVE_UP_WAITING = {408, 502, 504}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one request. Without a fault, `text` is a complete answer.

    `billed` is False if the endpoint certainly did not charge. Tokens are None if they were not reported.
    """

    fault: Fault | None
    text: str = ""
    message: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    retry_after: float | None = None
    billed: bool = True

    def spent(self, price: Price | None) -> Spend | None:
        """The cost of the exchange; None if the endpoint may have charged an unknown amount."""
        if not self.billed:
            return Spend()
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return spend(price, self.prompt_tokens, self.completion_tokens)


class _Raw(Protocol):
    @property
    def text(self) -> str: ...


CONNECT_SECONDS = 8.0
"""Shorter than the limit of a whole exchange, since models may take long, but connections do not."""


def connect(url: str, key: SecretStr) -> openai.AsyncOpenAI:
    """A client without retries and with a time limit for connecting only."""
    import openai

    limits = openai.Timeout(None, connect=CONNECT_SECONDS)
    return openai.AsyncOpenAI(base_url=url, api_key=key.get_secret_value() or "none", max_retries=0, timeout=limits)


@dataclass(eq=False, slots=True)
class EndpointClient:
    """Sends requests to one endpoint, with a time limit, and removes secrets from replies."""

    client: openai.AsyncOpenAI
    timeout: float
    scrubber: Scrubber

    async def exchange(self, body: Mapping[str, JSON]) -> Outcome:
        """Send one chat completion. Failures of the endpoint are outcomes, not exceptions."""
        create = self.client.chat.completions.with_raw_response.create
        messages = cast("list[ChatCompletionMessageParam]", body["messages"])
        sent = create(model=str(body["model"]), messages=messages, extra_body=dict(body))
        return await self._outcome(sent, self._read)

    async def embed(self, model: str, texts: Sequence[str]) -> Outcome:
        """Embed texts; the outcome's text is a JSON list of lists of numbers."""
        create = self.client.embeddings.with_raw_response.create
        sent = create(model=model, input=list(texts), encoding_format="float")
        return await self._outcome(sent, lambda text: self._vectors(text, len(texts)))

    async def _outcome(self, sent: Awaitable[_Raw], read: Callable[[str], Outcome]) -> Outcome:
        import openai

        try:
            # The client's own limit restarts with every byte; this one applies to the whole exchange.
            async with asyncio.timeout(self.timeout):
                raw = await sent
            return read(raw.text)
        except (TimeoutError, openai.APITimeoutError):
            return Outcome(Fault.TIMEOUT, message=f"no complete answer within {self.timeout:g} s")
        except openai.APIStatusError as error:
            status = error.status_code
            # The client's message lacks what is not in its own form, such as {"detail": …} or {"error": "…"}.
            reason = error.message.removeprefix(f"Error code: {status}").lstrip(" -") or error.response.text.strip()
            message = self.scrubber.text(f"HTTP {status}: {reason}")[:_LONGEST_MESSAGE]
            wait = retry_after(error.response.headers, datetime.now(UTC))
            return Outcome(_fault_of(status), message=message, retry_after=wait, billed=status in _GAVE_UP_WAITING)
        except openai.APIConnectionError as error:
            cause = type(error.__cause__).__name__
            message = self.scrubber.text(f"the connection failed ({cause}: {error.__cause__})")
            return Outcome(Fault.DISCONNECTED, message=message[:_LONGEST_MESSAGE], billed=cause not in _NOT_SENT)
        except openai.APIError as error:
            return Outcome(Fault.MALFORMED, message=self.scrubber.text(str(error))[:_LONGEST_MESSAGE])

    async def close(self) -> None:
        await self.client.close()

    def _read(self, text: str) -> Outcome:
        try:
            completion = completion_of(text)
        except ValidationError:
            return self._malformed(text, "is not a chat completion")
        fault, answer, message = classify(completion)
        if len(answer) > LONGEST_ANSWER:
            message = f"the answer has {len(answer):,} characters; at most {LONGEST_ANSWER:,} are read"
            fault, answer = Fault.TOO_LONG, answer[:_SHOWN]
        usage = completion.usage
        return Outcome(
            fault,
            text=self.scrubber.text(answer),
            message=self.scrubber.text(message),
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
        )

    def _malformed(self, text: str, problem: str) -> Outcome:
        start = self.scrubber.text(text[:LONGEST_ANSWER])[:_SHOWN]
        return Outcome(Fault.MALFORMED, text=start, message=f"the reply {problem}: {start!r}")

    def _vectors(self, text: str, count: int) -> Outcome:
        try:
            reply = Embedded.model_validate_json(text)
        except ValidationError:
            return self._malformed(text, "has no embeddings")
        rows = [row.embedding for row in sorted(reply.data, key=lambda row: row.index)]
        tokens = reply.usage.prompt_tokens if reply.usage else None
        outcome = Outcome(None, json.dumps(rows), prompt_tokens=tokens, completion_tokens=None if tokens is None else 0)
        if len(rows) != count:
            message = f"{count} texts were sent, but {len(rows)} vectors returned"
            return replace(outcome, fault=Fault.MALFORMED, message=message)
        return outcome


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """The wait in seconds that a response requests by retry-after-ms or Retry-After (RFC 9110, 10.2.3).

    A date is compared with that of the response, if it has one, since our clock may differ from the server's.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    date = _date(text)
    return None if date is None else max((date - (_date(headers.get("date")) or now)).total_seconds(), 0.0)


def _date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except ValueError:
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0.0 else None


def _fault_of(status: int) -> Fault:
    if status == 429:
        return Fault.RATE_LIMITED
    if status in (401, 402, 403, 404):
        return Fault.UNAUTHORISED
    if status >= 500 or status in (408, 409):
        return Fault.SERVER_ERROR
    return Fault.BAD_REQUEST
