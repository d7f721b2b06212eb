"""A scripted OpenAI-compatible endpoint on this machine: chat completions, embeddings, models.

    python -m services.llm.scripted --port 0 --script FILE      # prints its base URL

It replaces a real endpoint in tests and measurements, at no cost and with any fault on demand. It needs aiohttp, which
the extra `console` installs.
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
import json
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Literal, cast

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from services.chassis.errors import SettingsError
from services.llm.answers import JSON

FaultName = Literal[
    "rate_limit",  # 429 with Retry-After
    "server_error",  # 500, or `status`
    "bad_request",  # 400 with `message`
    "unsupported_schema",  # 400 about response_format to requests with a JSON schema; others are answered
    "unauthorised",  # 401, quoting the key that was sent
    "malformed",  # 200 whose body is not JSON
    "truncated",  # finish_reason "length", half of the answer
    "empty",  # an answer without text
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
        for index, step in enumerate(self._script.steps):
            if self._left[index] and step.contains in body:
                self._left[index] -= 1
                return step
        return self._script.otherwise


_LARGEST_BODY = 64 << 20
_TRICKLE_SECONDS = 0.05
_END_SECONDS = 0.1  # for the requests that are being answered when the endpoint ends


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: str

    @property
    def json(self) -> dict[str, Any]:
        """The body as an object. Raises ValueError if it is not one."""
        value = json.loads(self.body)
        if not isinstance(value, dict):
            raise ValueError("the body is not a JSON object")
        return value


class ScriptedEndpoint:
    """The server; an async context manager. `received` holds all requests, `most_at_once` the highest concurrency."""

    def __init__(self, script: Script, port: int = 0) -> None:
        self._player = Player(script)
        self._embedding = Player(Script(steps=script.embeddings))
        self._port = port
        app = web.Application(client_max_size=_LARGEST_BODY)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_END_SECONDS)
        self._busy = 0
        self.most_at_once = 0
        self.received: list[Received] = []
        self.arrived = asyncio.Event()  # set by the first request

    @property
    def base_url(self) -> str:
        """The value for OPENAI_BASE_URL."""
        if not self._runner.addresses:
            raise RuntimeError("the scripted endpoint is not started")
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def __aenter__(self) -> "ScriptedEndpoint":
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        received = Received(request.path, request.headers, (await request.read()).decode("utf-8", "replace"))
        self.received.append(received)
        self.arrived.set()
        self._busy += 1
        self.most_at_once = max(self.most_at_once, self._busy)
        try:
            return await self._reply(request, received)
        finally:
            self._busy -= 1

    async def _reply(self, request: web.Request, received: Received) -> web.StreamResponse:
        if request.path.endswith("/chat/completions"):
            step, answer = self._player.next(received.body), _completion
        elif request.path.endswith("/embeddings"):
            step, answer = self._embedding.next(received.body), _embeddings
        elif request.path.endswith("/models"):
            return web.json_response({"object": "list", "data": [{"id": "scripted", "object": "model"}]})
        else:
            return _error(404, f"nothing at {request.path}")
        await asyncio.sleep(step.latency)
        if step.fault == "hang":
            await asyncio.sleep(step.delay)
            _disconnect(request)
        reply = _refusal(received, step) or answer(received, step)
        return await _send_in_part(request, reply, step.fault) if step.fault in ("disconnect", "trickle") else reply


async def _send_in_part(request: web.Request, reply: web.Response, fault: FaultName) -> web.StreamResponse:
    """Half of the reply, then the end of the connection; or all of it, byte by byte."""
    assert isinstance(reply.body, bytes)  # noqa: S101 - as all replies here are made
    sent = web.StreamResponse(status=reply.status, headers=reply.headers)
    sent.content_length = len(reply.body)
    await sent.prepare(request)
    if fault == "disconnect":
        await sent.write(reply.body[: len(reply.body) // 2])
        _disconnect(request)
        return sent
    for at in range(len(reply.body)):
        await sent.write(reply.body[at : at + 1])
        await asyncio.sleep(_TRICKLE_SECONDS)
    return sent


def _disconnect(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


def _error(status: int, message: str) -> web.Response:
    error = {"message": message, "type": "scripted", "param": None, "code": None}
    return web.json_response({"error": error}, status=status)


def _refusal(request: Received, step: Step) -> web.Response | None:
    """The error reply of a step, if any."""
    try:
        payload = request.json
    except ValueError as error:
        return _error(400, f"not a request: {error}")
    if step.fault == "rate_limit":
        reply = _error(429, step.message)
        if step.retry_after is not None:
            reply.headers["retry-after"] = str(step.retry_after)
        return reply
    if step.fault in ("server_error", "bad_request"):
        return _error(step.status if step.fault == "server_error" else 400, step.message)
    if step.fault == "unauthorised":
        return _error(401, f"Incorrect API key provided: {request.headers.get('authorization', 'none')}")
    if step.fault == "unsupported_schema" and _schema(payload) is not None:
        return _error(400, "'response_format' of type 'json_schema' is not supported with this model")
    if step.fault == "malformed":
        return web.Response(body=b"<html>upstream timed out</html>", content_type="application/json")
    return None


def _completion(request: Received, step: Step) -> web.Response:
    payload = request.json
    text = step.answer if isinstance(step.answer, str) else json.dumps(step.answer)
    if text == "schema":
        text = json.dumps(smallest(_schema(payload) or {"type": "object"}))
    if step.fault == "echo_key":
        text = json.dumps({**json.loads(text), "echo": request.headers.get("authorization", "")})
    if step.fault == "empty":
        text = ""
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
        "choices": choices,
        "usage": None if step.fault == "no_usage" else usage,
    }
    return web.json_response(body)


def _schema(payload: dict[str, JSON]) -> dict[str, JSON] | None:
    """The JSON schema of the request's response format, if any."""
    form = payload.get("response_format")
    named = form.get("json_schema") if isinstance(form, dict) else None
    schema = named.get("schema") if isinstance(named, dict) else None
    return schema if isinstance(schema, dict) else None


def smallest(schema: JSON, definitions: dict[str, JSON] | None = None) -> JSON:
    """The smallest value that `schema` (as pydantic writes it) allows."""
    if not isinstance(schema, dict):
        return None
    own = schema.get("$defs")
    definitions = own if isinstance(own, dict) else definitions or {}
    if isinstance(reference := schema.get("$ref"), str):
        return smallest(definitions[reference.rsplit("/", 1)[-1]], definitions)
    for union in ("anyOf", "oneOf", "allOf"):
        if isinstance(options := schema.get(union), list) and options:
            return smallest(options[0], definitions)
    if "const" in schema:
        return schema["const"]
    if isinstance(values := schema.get("enum"), list):
        return values[0]
    return _of_kind(schema, definitions)


def _of_kind(schema: dict[str, JSON], definitions: dict[str, JSON]) -> JSON:
    kind = schema.get("type")
    if kind == "object":
        properties = schema.get("properties")
        return {name: smallest(inner, definitions) for name, inner in (properties or {}).items()}  # type: ignore[union-attr]
    if kind == "array":
        length = schema.get("minItems")
        return [smallest(schema.get("items"), definitions)] * (length if isinstance(length, int) else 0)
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    if kind == "boolean":
        return False
    if kind != "string":
        return None
    length = schema.get("minLength")
    return "scripted".ljust(length if isinstance(length, int) else 0, ".")


def _embeddings(request: Received, step: Step) -> web.Response:
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
    return web.json_response({"object": "list", "model": payload.get("model"), "data": rows, "usage": usage})


async def _main(port: int, script: Script) -> None:
    async with ScriptedEndpoint(script, port) as endpoint:
        print(endpoint.base_url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible endpoint on this machine.")
    parser.add_argument("--port", type=int, default=0, help="0 selects a free one")
    parser.add_argument("--script", type=Path, help="JSON or TOML; without one, every request is answered by schema")
    arguments = parser.parse_args()
    try:
        script = Script.read(arguments.script) if arguments.script else Script()
    except SettingsError as error:
        sys.exit(str(error))
    try:
        asyncio.run(_main(arguments.port, script))
    except (OSError, OverflowError) as error:
        sys.exit(f"--port {arguments.port} cannot be used: {error}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
