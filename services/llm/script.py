"""What a scripted endpoint does: steps in order, each for some requests.

A script is a JSON or TOML file with a list `steps`, and `otherwise` for requests that no step is left for:

    {"steps": [{"fault": "rate_limit", "retry_after": 0.5},
               {"contains": "novelty", "answer": {"repeats": false}, "times": 10},
               {"fault": "trickle", "delay": 60}],
     "otherwise": {"answer": "schema", "latency": 0.2}}

Each request takes the first step that matches it (`contains`: a text in the request's body) and has `times` left. The
answer is a text, an object (given as JSON), or "schema": the smallest object that the request's JSON schema allows.
`embeddings` are steps for requests of embeddings, which are answered when none is left.
"""

import json
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from services.chassis.errors import SettingsError
from services.llm.answers import JSON

Fate = Literal[
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
    """One behaviour; `latency` seconds pass before the first byte."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fault: Fate | None = None
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
    """All behaviours of one endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[Step, ...] = ()
    otherwise: Step = Step()
    embeddings: tuple[Step, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "Script":
        """Raises SettingsError when the file is not a script."""
        try:
            text = path.read_text("utf-8")
            given = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
            return cls.model_validate(given)
        except (OSError, ValueError) as error:
            detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise SettingsError(f"{path} is not a script for the scripted endpoint: {detail}.") from None


class Player:
    """Hands out steps; remembers how often each was used."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._left = [step.times for step in script.steps]

    def next(self, body: str) -> Step:
        """The step for a request with this body."""
        for place, step in enumerate(self._script.steps):
            if self._left[place] and step.contains in body:
                self._left[place] -= 1
                return step
        return self._script.otherwise


def smallest(schema: JSON, definitions: dict[str, JSON] | None = None) -> JSON:
    """The smallest value that `schema` (as pydantic writes it) allows; used for answer "schema"."""
    if not isinstance(schema, dict):
        return None
    found = schema.get("$defs")
    definitions = found if isinstance(found, dict) else definitions or {}
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
        least = schema.get("minItems")
        return [smallest(schema.get("items"), definitions)] * (least if isinstance(least, int) else 0)
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    if kind == "boolean":
        return False
    least = schema.get("minLength")
    return "scripted".ljust(least if isinstance(least, int) else 0, ".") if kind == "string" else None
