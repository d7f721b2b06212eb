"""A scripted OpenAI-compatible endpoint on this machine: chat completions, embeddings, models.

    python -m services.llm.scripted --port 0 --script FILE      # prints its base URL

It replaces a real endpoint in tests and measurements, at no cost and with any fault on demand.
A script is a JSON or TOML file with a list `steps`, and `otherwise` for requests that match no remaining step:

    {"steps": [{"fault": "rate_limit", "retry_after": 0.5},
               {"contains": "novelty", "answer": {"repeats": false}, "times": 10},
               {"fault": "trickle", "delay": 60}],
     "otherwise": {"answer": "schema", "latency": 0.2}}

A request uses the first step that matches it (`contains`: a text in its body) and has `times` left. The answer is a
text, an object (sent as JSON), or "schema": the smallest object that the request's JSON schema allows. `embeddings`
are steps for embedding requests; after them, letter counts are returned.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from services.chassis import tasks
from services.chassis.errors import SettingsError
from services.llm.answers import JSON, smallest

FaultName = Literal[
    "rate_limit",  # 429 with Retry-After
    "server_error",  # 500, or `status`
    "bad_request",  # 400 with `message`
    "unsupported_schema",  # 400 about response_format to requests with a JSON schema; others are answered
    "unauthorised",  # 401, quoting the key that was sent
    "malformed",  # 200 whose body is not JSON
    "truncated",  # finish_reason "length", half of the answer
    "empty",  # no choices
    "refusal",
    "disconnect",  # the connection closes in the middle of the body
    "trickle",  # one byte every 50 ms
    "hang",  # nothing, for `delay` seconds
    "echo_key",  # the answer quotes the Authorization header
    "no_usage",  # an answer without token counts
]


class Step(BaseModel):
    """A behaviour; `latency` seconds pass before the first byte."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fault: FaultName | None = None
    answer: str | dict[str, JsonValue] = "schema"
    contains: str = ""
    times: int = Field(default=1, ge=1)
    latency: float = Field(default=0.0, ge=0)
    delay: float = Field(default=3600.0, ge=0)
    retry_after: str | float | None = None
    status: int = Field(default=500, ge=400, le=599)
    message: str = "scripted"
    completion_tokens: int | None = Field(default=None, ge=0)


class Script(BaseModel):
    """The behaviours of an endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[Step, ...] = ()
    otherwise: Step = Step()
    embeddings: tuple[Step, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Script":
        """Raises SettingsError if the file is not a script."""
        try:
            text = path.read_text("utf-8")
            return cls.model_validate(tomllib.loads(text) if path.suffix == ".toml" else json.loads(text))
        except (OSError, ValueError) as error:
            detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise SettingsError(f"{path} is not a script for the scripted endpoint: {detail}.") from None


class Player:
    """Selects steps and counts their uses."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._left = [step.times for step in script.steps]

    def next(self, body: str) -> Step:
        """The step for a request with this body."""
        for index, step in enumerate(self._script.steps):
            if self._left[index] and step.contains in body:
                self._left[index] -= 1
                return step
        return self._script.otherwise


_LARGEST_BODY = 64 << 20
_TRICKLE_SECONDS = 0.05
_STATUS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> dict[str, Any]:
        """The body as an object. Raises ValueError if it is not one."""
        value = json.loads(self.body)
        if not isinstance(value, dict):
            raise ValueError("the body is not a JSON object")
        return value


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class ScriptedEndpoint:
    """The server; an async context manager. `received` holds all requests, `most_at_once` the highest concurrency."""

    def __init__(self, script: Script, port: int = 0) -> None:
        self._player = Player(script)
        self._embedding = Player(Script(steps=script.embeddings))
        self._port = port
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._busy = 0
        self.most_at_once = 0
        self.received: list[Received] = []
        self.arrived = asyncio.Event()  # set by the first request

    @property
    def base_url(self) -> str:
        """The value for OPENAI_BASE_URL."""
        if self._server is None:
            raise RuntimeError("the scripted endpoint is not started")
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aenter__(self) -> "ScriptedEndpoint":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        await tasks.end(*self._serving)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connection(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve requests of one connection until either side closes it."""
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while (request := await _read(reader)) is not None:
                    self.received.append(request)
                    self.arrived.set()
                    self._busy += 1
                    self.most_at_once = max(self.most_at_once, self._busy)
                    try:
                        await self._serve(request, writer)
                    finally:
                        self._busy -= 1
                    if writer.is_closing():
                        return
        finally:
            writer.close()

    async def _serve(self, request: Received, writer: asyncio.StreamWriter) -> None:
        if request.path.endswith("/chat/completions"):
            step, answer = self._player.next(request.body), _completion
        elif request.path.endswith("/embeddings"):
            step, answer = self._embedding.next(request.body), _embeddings
        elif request.path.endswith("/models"):
            await _send(writer, _json(200, {"object": "list", "data": [{"id": "scripted", "object": "model"}]}))
            return
        else:
            await _send(writer, _error(404, f"nothing at {request.path}"))
            return
        await asyncio.sleep(step.latency)
        if step.fault == "hang":
            await asyncio.sleep(step.delay)
            writer.close()
            return
        reply = _refusal(request, step) or answer(request, step)
        await _send(writer, reply, cut=step.fault == "disconnect", slowly=step.fault == "trickle")


async def _read(reader: asyncio.StreamReader) -> Received | None:
    """The next request, or None at the end of the connection."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    if length > _LARGEST_BODY:
        return None
    return Received(method, path, headers, (await reader.readexactly(length)).decode("utf-8", "replace"))


async def _send(writer: asyncio.StreamWriter, reply: _Reply, cut: bool = False, slowly: bool = False) -> None:
    headers = {"content-type": "application/json", "content-length": str(len(reply.body)), **reply.headers}
    lines = [f"HTTP/1.1 {reply.status} {_STATUS.get(reply.status, 'Error')}"]
    head = "\r\n".join(lines + [f"{name}: {value}" for name, value in headers.items()]) + "\r\n\r\n"
    writer.write(head.encode("latin-1"))
    body = reply.body[: len(reply.body) // 2] if cut else reply.body
    for piece in [body[at : at + 1] for at in range(len(body))] if slowly else [body]:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(_TRICKLE_SECONDS if slowly else 0)
    if cut:
        writer.close()


def _json(status: int, content: JSON) -> _Reply:
    return _Reply(status, json.dumps(content).encode())


def _error(status: int, message: str) -> _Reply:
    return _json(status, {"error": {"message": message, "type": "scripted", "param": None, "code": None}})


def _refusal(request: Received, step: Step) -> _Reply | None:
    """The error reply of a step, if any."""
    try:
        payload = request.json
    except ValueError as error:
        return _error(400, f"not a request: {error}")
    if step.fault == "rate_limit":
        reply = _error(429, step.message)
        return reply if step.retry_after is None else replace(reply, headers={"retry-after": str(step.retry_after)})
    if step.fault in ("server_error", "bad_request"):
        return _error(step.status if step.fault == "server_error" else 400, step.message)
    if step.fault == "unauthorised":
        return _error(401, f"Incorrect API key provided: {request.headers.get('authorization', 'none')}")
    if step.fault == "unsupported_schema" and _schema(payload) is not None:
        return _error(400, "'response_format' of type 'json_schema' is not supported with this model")
    if step.fault == "malformed":
        return _Reply(200, b"<html>upstream timed out</html>")
    return None


def _completion(request: Received, step: Step) -> _Reply:
    """The reply to a chat completion."""
    payload = request.json
    text = step.answer if isinstance(step.answer, str) else json.dumps(step.answer)
    if text == "schema":
        text = json.dumps(smallest(_schema(payload) or {"type": "object"}))
    if step.fault == "echo_key":
        text = json.dumps({**json.loads(text), "echo": request.headers.get("authorization", "")})
    message: dict[str, JSON] = {"role": "assistant", "content": text, "refusal": None}
    finish = "stop"
    if step.fault == "truncated":
        finish, message["content"] = "length", text[: len(text) // 2]
    if step.fault == "refusal":
        message["content"], message["refusal"] = None, step.message
    completion = len(text.split()) if step.completion_tokens is None else step.completion_tokens
    prompt = len(request.body.split())
    usage: JSON = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    choices: list[JSON] = [{"index": 0, "message": cast("JSON", message), "finish_reason": finish}]
    body: JSON = {
        "id": "scripted",
        "object": "chat.completion",
        "created": 0,
        "model": payload.get("model"),
        "choices": [] if step.fault == "empty" else choices,
        "usage": None if step.fault == "no_usage" else usage,
    }
    return _json(200, body)


def _schema(payload: dict[str, JSON]) -> dict[str, JSON] | None:
    """The JSON schema of the request's response format, if any."""
    form = payload.get("response_format")
    named = form.get("json_schema") if isinstance(form, dict) else None
    schema = named.get("schema") if isinstance(named, dict) else None
    return schema if isinstance(schema, dict) else None


def _embeddings(request: Received, step: Step) -> _Reply:
    """Letter counts: deterministic, and similar for similar texts. A truncating step omits one vector."""
    payload = request.json
    content = payload.get("input")
    texts = [str(text).lower() for text in (content if isinstance(content, list) else [content])]
    rows: list[JSON] = [
        {"object": "embedding", "index": index, "embedding": [1.0 + text.count(c) for c in ascii_lowercase]}
        for index, text in enumerate(texts[1:] if step.fault == "truncated" else texts)
    ]
    tokens = len(request.body.split())
    usage: JSON = None if step.fault == "no_usage" else {"prompt_tokens": tokens, "total_tokens": tokens}
    return _json(200, {"object": "list", "model": payload.get("model"), "data": rows, "usage": usage})


async def _main(port: int, script: Script) -> None:
    async with ScriptedEndpoint(script, port) as endpoint:
        print(endpoint.base_url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible endpoint on this machine.")
    parser.add_argument("--port", type=int, default=0, help="0 selects a free one")
    parser.add_argument("--script", type=Path, help="JSON or TOML; without one, every request is answered by schema")
    arguments = parser.parse_args()
    try:
        script = Script.read(arguments.script) if arguments.script else Script()
    except SettingsError as error:
        sys.exit(str(error))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(arguments.port, script))


if __name__ == "__main__":
    main()
