"""Shared by the tests of language models: an answer type, settings for a scripted endpoint, an in-memory journal."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from pydantic import BaseModel, Field, JsonValue

from services.llm.budget import MemoryLedger
from services.llm.openai_mind import OpenAIMind
from services.llm.port import Block, Call, Message, Request, Role
from services.llm.scripted import Script, ScriptedEndpoint, Step
from services.llm.settings import Endpoint, MindSettings, Model, Retry, RoleSettings

KEY = "very-private-key-0123456789"


class Idea(BaseModel):
    name: str = Field(min_length=1)
    program: Annotated[str, Block("python")]


GOOD: dict[str, JsonValue] = {"name": "GatedThing", "program": "x = 1\n"}


class MemoryJournal:
    """Keeps every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Call]] = []

    async def record(self, run: str, candidate: str, call: Call) -> None:
        self.calls.append((run, candidate, call))


def question(text: str = "What next?", **changes: Any) -> Request[Idea]:
    defaults: dict[str, Any] = {
        "role": Role.PROPOSE,
        "run": "r1",
        "candidate": "c1",
        "messages": (Message("system", "You design mixers."), Message("user", text)),
        "answer": Idea,
        "prompt_version": "propose-1",
    }
    return Request(**{**defaults, **changes})


def settings(*urls: str, concurrency: int = 8, timeout: float = 2.0, attempts: int = 3, **changes: Any) -> MindSettings:
    """Settings with one endpoint and one model per address; prices are one dollar per million tokens."""
    names = [f"e{number}" for number in range(len(urls))]
    role: dict[str, Any] = {"models": tuple(names), "max_tokens": 200, "total_seconds": 10.0}
    role.update(changes)
    endpoint = Endpoint(concurrency=concurrency, timeout_seconds=timeout, structured=role.pop("structured", "auto"))
    mind_settings = MindSettings(
        endpoints=dict.fromkeys(names, endpoint),
        models={
            name: Model(endpoint=name, name=f"model-{name}", price_prompt=1.0, price_completion=1.0) for name in names
        },
        roles={each: RoleSettings(**role) for each in Role},
        retry=Retry(attempts=attempts, base_seconds=0.01, longest_seconds=0.02, circuit_failures=50),
    )
    addresses = dict(zip(names, urls, strict=True))
    return MindSettings.model_validate(
        {**mind_settings.model_dump(), "addresses": addresses, "keys": dict.fromkeys(names, KEY)}
    )


def mind(
    settings: MindSettings, ledger: MemoryLedger | None = None, journal: MemoryJournal | None = None
) -> OpenAIMind:
    return OpenAIMind(settings, ledger or MemoryLedger(), journal, rng=random.Random(0))


def script(*steps: Step, otherwise: Step | None = None) -> Script:
    return Script(steps=steps, otherwise=otherwise or Step(answer=GOOD))


@asynccontextmanager
async def scripted_mind(
    *steps: Step,
    otherwise: Step | None = None,
    ledger: MemoryLedger | None = None,
    journal: MemoryJournal | None = None,
) -> AsyncIterator[tuple[OpenAIMind, ScriptedEndpoint]]:
    """A mind as services open it from their environment, before a scripted endpoint."""
    async with ScriptedEndpoint(Script(steps=steps, otherwise=otherwise or Step())) as endpoint:
        environment = {"OPENAI_BASE_URL": endpoint.base_url, "OPENAI_API_KEY": KEY, "ASI_MODEL": "scripted-model"}
        async with OpenAIMind.from_environment(environment, ledger or MemoryLedger(), journal) as mind:
            yield mind, endpoint


@asynccontextmanager
async def served(
    script: Script, ledger: MemoryLedger | None = None, journal: MemoryJournal | None = None, **changes: Any
) -> AsyncIterator[tuple[ScriptedEndpoint, OpenAIMind]]:
    """A scripted endpoint and a mind that asks it."""
    async with ScriptedEndpoint(script) as server, mind(settings(server.base_url, **changes), ledger, journal) as model:
        yield server, model
