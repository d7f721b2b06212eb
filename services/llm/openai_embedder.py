"""Embeddings from any OpenAI-compatible endpoint, behind the port in `embedder`."""

import asyncio
import json
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from services.chassis.errors import SettingsError, Transient
from services.chassis.worker import Job
from services.llm.budget import Price, spend
from services.llm.embedder import Embedder, Vector, validate_not_empty
from services.llm.exchange import EndpointClient, Outcome, connect
from services.llm.minds import Minds
from services.llm.model_client import BilledCandidate, CallAccounting, PlannedCall, guard_logs, release_logs
from services.llm.port import EMBED, Call, Fault, embedding_hash
from services.llm.settings import MindSettings, embedder_settings

_BATCH = 64
_WRONG = (Fault.UNAUTHORISED, Fault.BAD_REQUEST)  # wrong settings: no retry


class OpenAIEmbedder:
    """Embeds by an endpoint in batches of 64 texts. Raises Transient if it is unreachable or violates the protocol.

    Raises SettingsError on construction without an [embedding] section, and if the endpoint refuses the request or
    returns another dimension than the settings name.
    """

    def __init__(self, settings: MindSettings, rng: random.Random | None = None) -> None:
        if settings.embedding is None:
            raise SettingsError("no [embedding] section in the mind file, and ASI_EMBEDDING_MODEL is not set.")
        self._settings = settings.embedding
        endpoint = settings.endpoints[self._settings.endpoint]
        self._dimension = self._settings.dimension
        self._bytes_per_token = endpoint.bytes_per_token
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._scrubber = guard_logs(settings)
        client = connect(settings.addresses[self._settings.endpoint], settings.keys[self._settings.endpoint])
        self._client = EndpointClient(client, endpoint.timeout_seconds, self._scrubber)
        self._retry = settings.retry
        self._rng = rng or random.Random()

    @property
    def name(self) -> str:
        return space_of(self._settings.model)

    async def close(self) -> None:
        await self._client.close()
        release_logs(self._scrubber)

    async def embed(self, texts: Sequence[str], billed: BilledCandidate | None = None) -> list[Vector]:
        """See the port. Batches are sent one after another, each with retries.

        Every exchange is booked and recorded for `billed`, or not at all for None, as for the cognition base, which
        belongs to no run. Raises BudgetExhausted before sending what the run's budget does not cover.
        """
        validate_not_empty(texts)
        vectors: list[Vector] = []
        for start in range(0, len(texts), _BATCH):
            vectors += await self._embed(texts[start : start + _BATCH], billed)
        return vectors

    async def _embed(self, texts: Sequence[str], billed: BilledCandidate | None) -> list[Vector]:
        clean = [self._scrubber.text(text) for text in texts]
        for repetition in range(1, self._retry.attempts + 1):
            async with self._slots:
                if billed is None:
                    outcome, vectors = await self._send(clean)
                else:
                    outcome, vectors = await self._send_billed(clean, embedding_hash(texts), billed)
            if outcome.fault is None:
                self._require_dimension(vectors)
                return vectors
            if outcome.fault in _WRONG:
                raise SettingsError(f"{self._settings.model}: {outcome.message}")
            if repetition < self._retry.attempts:
                await asyncio.sleep(self._retry.wait(repetition, self._rng, outcome.retry_after))
        raise Transient(f"the endpoint returned no embeddings: {outcome.message}", outcome.retry_after)

    async def _send_billed(
        self, texts: list[str], prompt_hash: str, billed: BilledCandidate
    ) -> tuple[Outcome, list[Vector]]:
        settings = self._settings
        price = None if settings.price is None else Price(settings.price, 0.0)
        prompt = json.dumps({"model": settings.model, "input": texts}, ensure_ascii=False)
        sent = prompt.encode("utf-8", "replace")
        call = Call(EMBED, settings.model, settings.endpoint, sent, "", prompt_hash)
        planned = PlannedCall(billed.run, billed.candidate, price, call)
        worst = spend(price, math.ceil(len(prompt.encode("utf-8", "surrogatepass")) / self._bytes_per_token), 0)
        async with CallAccounting(billed.ledger, billed.journal).account(planned, worst, []) as pending:
            pending.outcome, vectors = await self._send(texts)
        return pending.outcome, vectors

    async def _send(self, texts: list[str]) -> tuple[Outcome, list[Vector]]:
        outcome = await self._client.embed(self._settings.model, texts)
        try:
            return outcome, vectors_of(self._settings.model, outcome.text) if outcome.fault is None else []
        except ValueError as error:
            return replace(outcome, fault=Fault.MALFORMED, message=self._scrubber.text(str(error))), []

    def _require_dimension(self, vectors: Sequence[Vector]) -> None:
        for vector in vectors:
            self._dimension = self._dimension or vector.values.size
            if vector.values.size != self._dimension:
                raise SettingsError(
                    f"{self._settings.model} gives vectors of {vector.values.size} numbers, not {self._dimension}: "
                    "correct embedding.dimension in the mind file."
                )


def space_of(model: str) -> str:
    """The name of the space of an endpoint's model."""
    return f"openai:{model}"


def vectors_of(model: str, answer: str) -> list[Vector]:
    """The vectors of a recorded answer. Raises ValueError if one is zero or not finite."""
    return [Vector(space_of(model), np.array(row, dtype=np.float32)) for row in json.loads(answer)]


UNAVAILABLE_SECONDS = 30.0
Embed = Callable[[str, str, Job], Awaitable[Vector | None]]
"""From a text and the mind of a run to the text's vector by an endpoint; None if no endpoint is used."""


def endpoint_embedder(environment: Mapping[str, str]) -> OpenAIEmbedder | None:
    """The embedder of the configured endpoint; None for the local one. Raises the errors of `embedder_settings`."""
    settings = embedder_settings(environment)
    return None if settings is None else OpenAIEmbedder(settings)


class RunEmbedder:
    """Embeds by an endpoint for candidates, whose runs pay; a run with a recorded mind takes recorded vectors."""

    def __init__(self, endpoint: OpenAIEmbedder | None, minds: Minds) -> None:
        self._endpoint = endpoint
        self._minds = minds

    async def vector(self, text: str, mind: str, job: Job, space: str = "") -> Vector | None:
        """The vector of a text for the candidate of `job`, whose run has this mind.

        None without an endpoint, if the endpoint has another space than the required one, and if a strictly recorded
        run lacks the text. Raises BudgetExhausted, and Transient if the endpoint is unreachable.
        """
        record = await self._minds.record(mind, job)
        recorded = None if record is None else await record.embedded(job.event.candidate, text)
        if recorded is not None and space in ("", space_of(recorded.model)):
            return vectors_of(recorded.model, recorded.answer.decode())[0]
        if self._endpoint is None or space not in ("", self._endpoint.name) or (record is not None and record.strict):
            return None
        return (await self._endpoint.embed([text], self._minds.billed(job)))[0]

    async def close(self) -> None:
        if self._endpoint is not None:
            await self._endpoint.close()


class MotivationEmbedder:
    """Embeds motivations. A run keeps the space of its first vector, since vectors of two embedders do not compare."""

    def __init__(self, local: Embedder, paid: RunEmbedder | None = None) -> None:
        self._local = local
        self._paid = paid

    async def motivation(self, text: str, space: str, mind: str, job: Job) -> Vector:
        """The vector of a text in `space`; "" for a run without vectors, which prefers the endpoint.

        Raises Transient if the embedder of the space is unreachable or not configured here (another replica may have
        it), and BudgetExhausted.
        """
        if self._paid is not None and space != self._local.name:
            vector = await self._paid.vector(text, mind, job, space)
            if vector is not None:
                return vector
        if space not in ("", self._local.name):
            raise Transient(
                f"this run's motivations are embedded by {space}, which is not configured: "
                "set ASI_EMBEDDER and ASI_EMBEDDING_MODEL as they were when the run began",
                UNAVAILABLE_SECONDS,
            )
        return (await self._local.embed([text]))[0]
