"""Embeddings from any OpenAI-compatible endpoint, behind the port in `embedder`."""

import asyncio
import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from services.chassis.errors import SettingsError, Transient
from services.llm.backoff import BackOff
from services.llm.booking import Asking, Books, Payer
from services.llm.budget import Price, spend
from services.llm.clock import Clock
from services.llm.embedder import Vector, refuse_empty
from services.llm.exchange import Line, Outcome, connect
from services.llm.port import EMBED, Fault, embedding_hash
from services.llm.scrub import Scrubber
from services.llm.settings import MindSettings
from services.llm.wiring import guard_logs, release_logs, scrubber_of

_BATCH = 64
_WRONG = (Fault.UNAUTHORISED, Fault.BAD_REQUEST)  # the settings are: asking again would not help


class OpenAIEmbedder:
    """Asks an endpoint in batches of 64 texts. Raises Transient when it is out of reach or breaks the protocol.

    Raises SettingsError on construction without an [embedding] section, and when the endpoint refuses the request
    (a wrong key or model, or another dimension than the settings promise).
    """

    def __init__(self, settings: MindSettings, clock: Clock | None = None, rng: random.Random | None = None) -> None:
        if settings.embedding is None:
            raise SettingsError("no [embedding] section in the mind file, and ASI_EMBEDDING_MODEL is not set.")
        self._settings = settings.embedding
        endpoint = settings.endpoints[self._settings.endpoint]
        self._dimension = self._settings.dimension
        self._bytes_per_token = endpoint.bytes_per_token
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._clock = clock or Clock()
        self._scrubber: Scrubber = scrubber_of(settings)
        guard_logs(self._scrubber)
        client = connect(settings.addresses[self._settings.endpoint], settings.keys[self._settings.endpoint])
        self._line = Line(client, endpoint.timeout_seconds, self._scrubber, self._clock.now)
        self._back_off: BackOff = settings.retry.back_off
        self._rng = rng or random.Random()

    @property
    def name(self) -> str:
        return space_of(self._settings.model)

    @property
    def dimension(self) -> int | None:
        return self._dimension

    async def close(self) -> None:
        """Close the connections."""
        await self._line.close()
        release_logs(self._scrubber)

    async def embed(self, texts: Sequence[str], payer: Payer | None = None) -> list[Vector]:
        """See the port. Batches are asked one after the other, each with retries.

        Every exchange is booked and recorded for `payer`; None: what belongs to no run, as the cognition base does.
        Raises BudgetExhausted before anything is sent that the payer's run does not cover.
        """
        refuse_empty(texts)
        vectors: list[Vector] = []
        for start in range(0, len(texts), _BATCH):
            vectors += await self._insist(texts[start : start + _BATCH], payer)
        return vectors

    async def _insist(self, texts: Sequence[str], payer: Payer | None) -> list[Vector]:
        clean = [self._scrubber.text(text) for text in texts]
        for repetition in range(1, self._back_off.attempts + 1):
            async with self._slots:
                outcome = await (self._ask(clean) if payer is None else self._paid(clean, embedding_hash(texts), payer))
            if outcome.fault is None:
                return self._vectors(outcome.text)
            if outcome.fault in _WRONG:
                raise SettingsError(f"{self._settings.model}: {outcome.message}")
            if repetition < self._back_off.attempts:
                await self._clock.sleep(self._back_off.wait(repetition, self._rng, outcome.retry_after))
        raise Transient(f"the endpoint embeds nothing: {outcome.message}", outcome.retry_after)

    async def _paid(self, texts: list[str], prompt_hash: str, payer: Payer) -> Outcome:
        chosen = self._settings
        price = None if chosen.price is None else Price(chosen.price, 0.0)
        prompt = json.dumps({"model": chosen.model, "input": texts}, ensure_ascii=False)
        asking = Asking(
            payer.run, payer.candidate, EMBED, chosen.model, chosen.endpoint, price, prompt, "", prompt_hash
        )
        worst = spend(price, math.ceil(len(prompt.encode("utf-8", "surrogatepass")) / self._bytes_per_token), 0)
        async with Books(payer.purse, payer.journal, self._clock).entry(asking, worst, []) as entry:
            entry.outcome = await self._ask(texts)
        return entry.outcome

    async def _ask(self, texts: list[str]) -> Outcome:
        outcome = await self._line.embed(self._settings.model, texts)
        try:
            if outcome.fault is None:
                vectors_of(self._settings.model, outcome.text)
        except ValueError as error:
            return replace(outcome, fault=Fault.MALFORMED, message=self._scrubber.text(str(error)))
        return outcome

    def _vectors(self, text: str) -> list[Vector]:
        vectors = vectors_of(self._settings.model, text)
        for vector in vectors:
            self._dimension = self._dimension or vector.values.size
            if vector.values.size != self._dimension:
                raise SettingsError(
                    f"{self._settings.model} gives vectors of {vector.values.size} numbers, not {self._dimension}: "
                    "correct embedding.dimension in the mind file."
                )
        return vectors


def space_of(model: str) -> str:
    """What the space of an endpoint's model is called."""
    return f"openai:{model}"


def vectors_of(model: str, answer: str) -> list[Vector]:
    """The vectors of an answer as it is recorded. Raises ValueError where one has no direction."""
    return [Vector(space_of(model), np.array(row, dtype=np.float32)) for row in json.loads(answer)]
