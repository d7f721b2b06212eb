"""Embeddings from any OpenAI-compatible endpoint, behind the port in `embedder`."""

import asyncio
import random
from collections.abc import Sequence

import numpy as np
import openai

from services.chassis.errors import SettingsError, Transient
from services.chassis.llm.backoff import BackOff, retry_after
from services.chassis.llm.clock import Clock
from services.chassis.llm.embedder import Vector, refuse_empty
from services.chassis.llm.exchange import connect
from services.chassis.llm.scrub import Scrubber
from services.chassis.llm.settings import MindSettings
from services.chassis.llm.wiring import guard_logs, release_logs, scrubber_of

_BATCH = 64
_AGAIN = (408, 409, 429)


class OpenAIEmbedder:
    """Asks an endpoint in batches of 64 texts. Raises Transient when it is out of reach or breaks the protocol.

    Raises SettingsError on construction without an [embedding] section, and when the endpoint refuses the request
    (a wrong key or model, or another dimension than the settings promise).
    """

    def __init__(self, settings: MindSettings, clock: Clock | None = None, rng: random.Random | None = None) -> None:
        if settings.embedding is None:
            raise SettingsError("no [embedding] section in the mind file, and ASI_EMBEDDING_MODEL is not set.")
        chosen = settings.embedding
        self._model = chosen.model
        self._dimension = chosen.dimension
        self._timeout = settings.endpoints[chosen.endpoint].timeout_seconds
        self._slots = asyncio.Semaphore(settings.endpoints[chosen.endpoint].concurrency)
        self._client = connect(settings.addresses[chosen.endpoint], settings.keys[chosen.endpoint])
        self._scrubber: Scrubber = scrubber_of(settings)
        guard_logs(self._scrubber)
        self._back_off: BackOff = settings.retry.back_off
        self._clock = clock or Clock()
        self._rng = rng or random.Random()

    @property
    def name(self) -> str:
        return f"openai:{self._model}"

    @property
    def dimension(self) -> int | None:
        return self._dimension

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
        release_logs(self._scrubber)

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """See the port. Batches are asked one after the other, each with retries."""
        refuse_empty(texts)
        vectors: list[Vector] = []
        for start in range(0, len(texts), _BATCH):
            vectors += await self._insist([self._scrubber.text(text) for text in texts[start : start + _BATCH]])
        return vectors

    async def _insist(self, texts: list[str]) -> list[Vector]:
        for repetition in range(1, self._back_off.attempts + 1):
            try:
                return await self._once(texts)
            except Transient as transient:
                if repetition == self._back_off.attempts:
                    raise
                await self._clock.sleep(self._back_off.wait(repetition, self._rng, transient.delay))
        raise Transient("the embedding was not asked for")  # attempts is at least 1

    async def _once(self, texts: list[str]) -> list[Vector]:
        try:
            async with self._slots, asyncio.timeout(self._timeout):
                reply = await self._client.embeddings.create(model=self._model, input=texts, encoding_format="float")
            return self._vectors([row.embedding for row in sorted(reply.data, key=lambda row: row.index)], len(texts))
        except (TimeoutError, openai.APIConnectionError) as error:
            raise Transient(f"the embedding endpoint is out of reach ({type(error).__name__})") from None
        except openai.APIStatusError as error:
            raise self._refused(error) from None
        except (openai.APIError, ValueError, TypeError, AttributeError) as error:
            # A 200 that is no embedding reply: the client hands over whatever was in the body.
            raise Transient(self._scrubber.text(f"the embedding reply is malformed: {error}")) from None

    def _refused(self, error: openai.APIStatusError) -> Exception:
        message = self._scrubber.text(f"{self._model}: HTTP {error.status_code}: {error.message}")[:500]
        if error.status_code >= 500 or error.status_code in _AGAIN:
            return Transient(message, retry_after(error.response.headers, self._clock.now()))
        return SettingsError(message)

    def _vectors(self, rows: list[list[float]], count: int) -> list[Vector]:
        if len(rows) != count:
            raise ValueError(f"{count} texts were sent and {len(rows)} vectors came back")
        vectors = [Vector(self.name, np.array(row, dtype=np.float32)) for row in rows]
        for vector in vectors:
            self._dimension = self._dimension or vector.values.size
            if vector.values.size != self._dimension:
                raise SettingsError(
                    f"{self._model} gives vectors of {vector.values.size} numbers, not {self._dimension}: "
                    "correct embedding.dimension in the mind file."
                )
        return vectors
