"""The overhead of the mind over the endpoint, with a scripted endpoint on this machine.

    python -m bench.llm [--asks 400]

Prints one JSON object: the median and 99th percentile of one question and of the same request by the bare client,
questions per second at high concurrency, the concurrency relative to its limit, and the cost of faults (every question
must be answered, every exchange recorded, and the budget kept).
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable

import openai
from pydantic import BaseModel, SecretStr

from services.llm.budget import Limits, MemoryLedger
from services.llm.exchange import forbid_outside_calls
from services.llm.openai_mind import OpenAIMind
from services.llm.port import Message, MindError, Request, Role
from services.llm.scripted import FaultName, Script, ScriptedEndpoint, Step
from services.llm.settings import Endpoint, MindSettings, Model, Retry, RoleSettings

PROMPT = "A parent's program of some length.\n" * 800  # about 28 kB, like the context of a proposal
FAULTS: tuple[FaultName, ...] = ("rate_limit", "server_error", "malformed", "disconnect", "empty")
Numbers = dict[str, float]


class Idea(BaseModel):
    """A short answer."""

    name: str
    program: str


def request(number: int) -> Request[Idea]:
    """A question of usual size."""
    return Request(Role.PROPOSE, "bench", f"c{number}", (Message("user", PROMPT),), Idea, "bench-1")


def settings(url: str, concurrency: int) -> MindSettings:
    """One endpoint, one model, quick retries."""
    role = RoleSettings(models=("m",), max_tokens=1000)
    retry = Retry(attempts=12, base_seconds=0.01, longest_seconds=0.1, circuit_failures=1000)
    return MindSettings(
        endpoints={"main": Endpoint(concurrency=concurrency)},
        models={"m": Model(name="scripted", price_prompt=1.0, price_completion=1.0)},
        roles=dict.fromkeys(Role, role),
        retry=retry,
        addresses={"main": url},
        keys={"main": SecretStr("none")},
    )


async def timed(ask: Callable[[int], Awaitable[object]], count: int) -> Numbers:
    """Milliseconds of `count` questions, one after the other."""
    taken = []
    for number in range(count):
        started = time.perf_counter()
        await ask(number)
        taken.append(1e3 * (time.perf_counter() - started))
    return {"p50_ms": statistics.median(taken), "p99_ms": statistics.quantiles(taken, n=100)[98]}


async def overhead(count: int) -> dict[str, Numbers]:
    """One question at a time, through the mind and through the bare client."""
    async with ScriptedEndpoint(Script()) as server:
        client = openai.AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0)

        async def bare(_: int) -> object:
            return await client.chat.completions.create(model="m", messages=[{"role": "user", "content": PROMPT}])

        bare_numbers = await timed(bare, count)
        await client.close()
        async with OpenAIMind(settings(server.base_url, 8), MemoryLedger()) as mind:
            return {"bare client": bare_numbers, "mind": await timed(lambda n: mind.ask(request(n)), count)}


async def many(count: int, concurrency: int, latency: float) -> Numbers:
    """Many questions at once to an endpoint that takes `latency` seconds."""
    async with (
        ScriptedEndpoint(Script(otherwise=Step(latency=latency))) as server,
        OpenAIMind(settings(server.base_url, concurrency), MemoryLedger()) as mind,
    ):
        started = time.perf_counter()
        await asyncio.gather(*(mind.ask(request(number)) for number in range(count)))
        seconds = time.perf_counter() - started
    numbers: Numbers = {"asks_per_s": count / seconds, "most_at_once": server.most_at_once}
    if latency:
        numbers["of_ideal"] = latency * count / concurrency / seconds
    return numbers


async def faulty(count: int, share: float) -> Numbers:
    """A `share` of all exchanges fails; the budget is never exceeded."""
    rng = random.Random(0)
    steps = tuple(Step(fault=rng.choice(FAULTS) if rng.random() < share else None) for _ in range(3 * count))
    ledger = MemoryLedger(Limits(tokens=100_000_000))
    async with (
        ScriptedEndpoint(Script(steps=steps)) as server,
        OpenAIMind(settings(server.base_url, 32), ledger) as mind,
    ):
        started = time.perf_counter()
        results = await asyncio.gather(*(mind.ask(request(n)) for n in range(count)), return_exceptions=True)
        seconds = time.perf_counter() - started
    lost = sum(isinstance(result, BaseException) for result in results)
    recorded = sum(
        len(result.calls)
        for result in results
        if not isinstance(result, BaseException) or isinstance(result, MindError)
    )
    return {"asked": count, "lost": lost, "exchanges": len(server.received), "recorded": recorded, "seconds": seconds}


async def measure(asks: int) -> dict[str, object]:
    """All measurements."""
    return {
        "one at a time": await overhead(asks),
        "64 at once, instant": await many(asks, 64, 0.0),
        "64 at once, 0.5 s": await many(256, 64, 0.5),
        "30 % faults, 32 at once": await faulty(asks, 0.3),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The overhead of the mind over the endpoint.")
    parser.add_argument("--asks", type=int, default=400)
    forbid_outside_calls()
    print(json.dumps(asyncio.run(measure(parser.parse_args().asks)), indent=2))


if __name__ == "__main__":
    main()
