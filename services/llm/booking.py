"""What an endpoint is asked on behalf of a run: reserved on its purse, booked and written down whatever comes of it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.llm.budget import Price, Purse, Reservation, Spend, spend
from services.llm.clock import Clock
from services.llm.exchange import Outcome
from services.llm.port import Call, Fault, Journal


@dataclass(frozen=True, slots=True)
class Asking:
    """One exchange before it takes place; `prompt` is the JSON that is sent, `role` a Role or EMBED."""

    run: str
    candidate: str
    role: str
    model: str
    endpoint: str
    price: Price | None
    prompt: str
    prompt_version: str
    prompt_hash: str

    def call(self, outcome: Outcome, seconds: float) -> Call:
        """The exchange as it goes on record."""
        prompt_tokens, completion_tokens = outcome.prompt_tokens, outcome.completion_tokens
        if not outcome.billed:
            prompt_tokens = completion_tokens = 0
        price = None
        if prompt_tokens is not None and completion_tokens is not None:
            price = spend(self.price, prompt_tokens, completion_tokens).dollars
        return Call(
            role=self.role,
            model=self.model,
            endpoint=self.endpoint,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            seconds=seconds,
            price=price,
            prompt=self.prompt.encode("utf-8", "replace"),
            answer=outcome.text.encode("utf-8", "replace"),
            error=outcome.fault,
            prompt_version=self.prompt_version,
            prompt_hash=self.prompt_hash,
        )


@dataclass(frozen=True, slots=True)
class Payer:
    """The candidate for which a text is embedded: its run pays, and the call goes into its record."""

    run: str
    candidate: str
    purse: Purse
    journal: Journal


@dataclass(slots=True)
class Entry:
    """An exchange while it takes place: the asker sets what came of it."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Books:
    """A purse, and the journal of what was asked (None: nobody reads it)."""

    purse: Purse
    journal: Journal | None
    clock: Clock

    @asynccontextmanager
    async def entry(self, asking: Asking, worst: Spend, calls: list[Call]) -> AsyncIterator[Entry]:
        """Reserve `worst` for the exchange inside; then append it to `calls`, book what it took and write it down.

        Raises what the purse raises before anything is sent, and what the journal raises after the money is booked.
        """
        reservation = await self.purse.reserve(asking.run, worst)
        entry = Entry(Outcome(Fault.CANCELLED, message="the asker went away"))
        started = self.clock.monotonic()
        try:
            yield entry
        finally:
            call = asking.call(entry.outcome, self.clock.monotonic() - started)
            calls.append(call)
            await _unbroken(self._close(reservation, entry.outcome.spent(asking.price), asking, call))

    async def _close(self, reservation: Reservation, spent: Spend | None, asking: Asking, call: Call) -> None:
        await self.purse.settle(reservation, spent)
        if self.journal is not None:
            await self.journal.record(asking.run, asking.candidate, call)


async def _unbroken(work: Coroutine[None, None, None]) -> None:
    """Finish `work` although the asker is cancelled meanwhile: what was spent must be written down."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
