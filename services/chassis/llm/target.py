"""One model at one endpoint: asks once, books what it took, records it, whatever comes of it."""

import asyncio
import json
import math
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Generic

from services.chassis.llm.answers import JSON, Unreadable, read
from services.chassis.llm.budget import Purse, Reservation, Spend, spend
from services.chassis.llm.circuit import Circuit
from services.chassis.llm.clock import Clock
from services.chassis.llm.dialect import Dialect, body
from services.chassis.llm.exchange import Line, Outcome
from services.chassis.llm.port import A, Call, Fault, Journal, Message, MindUnavailable, Request
from services.chassis.llm.settings import Model, RoleSettings

DOWN = frozenset({Fault.SERVER_ERROR, Fault.TIMEOUT, Fault.DISCONNECTED, Fault.MALFORMED, Fault.UNAUTHORISED})
_TOKENS_AROUND = 128  # what a chat template wraps around the messages, generously


@dataclass(frozen=True, slots=True)
class Shared:
    """What all models of one mind share."""

    purse: Purse
    journal: Journal | None
    clock: Clock


@dataclass(frozen=True, slots=True)
class Try(Generic[A]):
    """One exchange seen from the conversation: the validated answer, or why there is none."""

    outcome: Outcome
    call: Call
    answer: A | None


class Target:
    """A model that can be asked; remembers what its endpoint understands and whether it is down."""

    def __init__(
        self,
        model: Model,
        line: Line,
        slots: asyncio.Semaphore,
        dialect: Dialect,
        bytes_per_token: float,
        circuit: Circuit,
        shared: Shared,
    ) -> None:
        self.model = model
        self.circuit = circuit
        self._line = line
        self._slots = slots
        self._dialect = dialect
        self._bytes_per_token = bytes_per_token
        self._shared = shared

    def body(self, request: Request[A], turns: tuple[Message, ...], settings: RoleSettings) -> dict[str, JSON]:
        """What would be sent now."""
        temperature = settings.temperature if request.temperature is None else request.temperature
        return body(self.model.name, request, turns, self._dialect, temperature, settings.max_tokens)

    async def ask(
        self, request: Request[A], turns: tuple[Message, ...], settings: RoleSettings, calls: list[Call]
    ) -> Try[A]:
        """One exchange, again for as long as the endpoint complains about optional features only.

        Appends every call to `calls`. Raises BudgetExhausted before anything is sent, MindUnavailable when the circuit
        is open, and what the journal raises.
        """
        while True:
            dialect, asked = self._dialect, self.body(request, turns, settings)
            tried = await self._once(request, asked, settings.max_tokens, dialect, calls)
            if tried.outcome.fault is not Fault.UNSUPPORTED:
                return tried
            if self._dialect == dialect and (next_dialect := dialect.after(tried.outcome.message)):
                self._dialect = next_dialect

    async def close(self) -> None:
        """Close the connections of its endpoint; doing so twice is harmless."""
        await self._line.close()

    async def _once(
        self, request: Request[A], asked: Mapping[str, JSON], max_tokens: int, dialect: Dialect, calls: list[Call]
    ) -> Try[A]:
        prompt = json.dumps(asked, ensure_ascii=False)
        async with self._slots:
            self._refuse_if_open()
            reservation = await self._shared.purse.reserve(request.run, self._worst(prompt, max_tokens))
            outcome, answer = Outcome(Fault.CANCELLED, message="the asker went away"), None
            started = self._shared.clock.monotonic()
            self.circuit.enter()
            try:
                outcome, answer = _understood(await self._line.exchange(asked), request, dialect)
            finally:
                call = self._call(request, prompt, outcome, self._shared.clock.monotonic() - started)
                calls.append(call)
                self._learn(outcome)
                await _unbroken(self._book(reservation, outcome, request, call))
        return Try(outcome, call, answer)

    def _refuse_if_open(self) -> None:
        wait = self.circuit.wait(self._shared.clock.monotonic())
        if wait > 0.0:
            raise MindUnavailable(
                f"{self.model.name} is left alone for {wait:.0f} s after failures in a row", delay=wait
            )

    def _worst(self, prompt: str, max_tokens: int) -> Spend:
        """The most that this call can take: no tokenizer makes more tokens than bytes."""
        size = len(prompt.encode("utf-8", "surrogatepass")) / self._bytes_per_token
        return spend(self.model.price, math.ceil(size) + _TOKENS_AROUND, max_tokens)

    def _learn(self, outcome: Outcome) -> None:
        if outcome.fault in DOWN:
            self.circuit.failed(self._shared.clock.monotonic())
        elif outcome.fault in (Fault.CANCELLED, Fault.RATE_LIMITED):
            self.circuit.abandoned()
        else:
            self.circuit.succeeded()

    async def _book(self, reservation: Reservation, outcome: Outcome, request: Request[A], call: Call) -> None:
        """Settle with the purse, then write the journal; the money is booked even if the journal fails."""
        if not outcome.billed:
            actual: Spend | None = Spend()
        elif outcome.prompt_tokens is None or outcome.completion_tokens is None:
            actual = None
        else:
            actual = spend(self.model.price, outcome.prompt_tokens, outcome.completion_tokens)
        await self._shared.purse.settle(reservation, actual)
        if self._shared.journal is not None:
            await self._shared.journal.record(request.run, request.candidate, call)

    def _call(self, request: Request[A], prompt: str, outcome: Outcome, seconds: float) -> Call:
        prompt_tokens, completion_tokens = outcome.prompt_tokens, outcome.completion_tokens
        if not outcome.billed:
            prompt_tokens = completion_tokens = 0
        price = None
        if prompt_tokens is not None and completion_tokens is not None:
            price = spend(self.model.price, prompt_tokens, completion_tokens).dollars
        return Call(
            role=request.role,
            model=self.model.name,
            endpoint=self.model.endpoint,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            seconds=seconds,
            price=price,
            prompt=prompt.encode("utf-8", "replace"),
            answer=outcome.text.encode("utf-8", "replace"),
            error=outcome.fault,
            prompt_version=request.prompt_version,
            prompt_hash=request.prompt_hash,
        )


def _understood(outcome: Outcome, request: Request[A], dialect: Dialect) -> tuple[Outcome, A | None]:
    """The validated answer; an outcome whose text does not validate, or a 400 that a weaker dialect avoids, says so."""
    if outcome.fault is Fault.BAD_REQUEST and dialect.after(outcome.message) is not None:
        return replace(outcome, fault=Fault.UNSUPPORTED), None
    if outcome.fault is not None:
        return outcome, None
    try:
        return outcome, read(outcome.text, request.answer)
    except Unreadable as unreadable:
        return replace(outcome, fault=Fault.INVALID, message=str(unreadable)), None


async def _unbroken(work: Coroutine[None, None, None]) -> None:
    """Finish `work` although the asker is cancelled meanwhile: what was spent must be written down."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
