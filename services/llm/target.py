"""One model at one endpoint: asks once, books what it took, records it, whatever comes of it."""

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic

from services.llm.answers import JSON, Unreadable, read
from services.llm.booking import Asking, Books
from services.llm.budget import Spend, spend
from services.llm.circuit import Circuit
from services.llm.dialect import Dialect, body
from services.llm.exchange import Line, Outcome
from services.llm.port import A, Call, Fault, Message, MindUnavailable, Request
from services.llm.settings import Model, RoleSettings

DOWN = frozenset({Fault.SERVER_ERROR, Fault.TIMEOUT, Fault.DISCONNECTED, Fault.MALFORMED, Fault.UNAUTHORISED})
_TOKENS_AROUND = 128  # what a chat template wraps around the messages, generously


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
        books: Books,
    ) -> None:
        self.model = model
        self.circuit = circuit
        self._line = line
        self._slots = slots
        self._dialect = dialect
        self._bytes_per_token = bytes_per_token
        self._books = books

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
        asking = self._asking(request, json.dumps(asked, ensure_ascii=False))
        answer = None
        async with self._slots:
            self._refuse_if_open()
            async with self._books.entry(asking, self._worst(asking.prompt, max_tokens), calls) as entry:
                self.circuit.enter()
                try:
                    entry.outcome, answer = _understood(await self._line.exchange(asked), request, dialect)
                finally:
                    self._learn(entry.outcome)
        return Try(entry.outcome, calls[-1], answer)

    def _refuse_if_open(self) -> None:
        wait = self.circuit.wait(self._books.clock.monotonic())
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
            self.circuit.failed(self._books.clock.monotonic())
        elif outcome.fault in (Fault.CANCELLED, Fault.RATE_LIMITED):
            self.circuit.abandoned()
        else:
            self.circuit.succeeded()

    def _asking(self, request: Request[A], prompt: str) -> Asking:
        return Asking(
            run=request.run,
            candidate=request.candidate,
            role=request.role,
            model=self.model.name,
            endpoint=self.model.endpoint,
            price=self.model.price,
            prompt=prompt,
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
