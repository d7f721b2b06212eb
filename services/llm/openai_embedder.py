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
from services.llm.exchange import (
    BilledCandidate,
    CallAccounting,
    EndpointClient,
    Outcome,
    PlannedCall,
    Scrubber,
    connect,
)
from services.llm.minds import Minds
from services.llm.model_client import guard_logs, make_scrubber, release_logs
from services.llm.port import EMBED, Fault, embedding_hash
from services.llm.retry import BackOff, Clock
from services.llm.settings import MindSettings, load_embedding

_BATCH = 64
_WRONG = (Fault.UNAUTHORISED, Fault.BAD_REQUEST)  # the settings are wrong: a retry would not help


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
        self._scrubber: Scrubber = make_scrubber(settings)
        guard_logs(self._scrubber)
        client = connect(settings.addresses[self._settings.endpoint], settings.keys[self._settings.endpoint])
        self._client = EndpointClient(client, endpoint.timeout_seconds, self._scrubber, self._clock.now)
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
        await self._client.close()
        release_logs(self._scrubber)

    async def embed(self, texts: Sequence[str], billed: BilledCandidate | None = None) -> list[Vector]:
        """See the port. Batches are asked one after the other, each with retries.

        Every exchange is booked and recorded for `billed`; None: what belongs to no run, as the cognition base does.
        Raises BudgetExhausted before anything is sent that the billed's run does not cover.
        """
        validate_not_empty(texts)
        vectors: list[Vector] = []
        for start in range(0, len(texts), _BATCH):
            vectors += await self._retry(texts[start : start + _BATCH], billed)
        return vectors

    async def _retry(self, texts: Sequence[str], billed: BilledCandidate | None) -> list[Vector]:
        clean = [self._scrubber.text(text) for text in texts]
        for repetition in range(1, self._back_off.attempts + 1):
            async with self._slots:
                outcome = await (
                    self._ask(clean) if billed is None else self._paid(clean, embedding_hash(texts), billed)
                )
            if outcome.fault is None:
                return self._vectors(outcome.text)
            if outcome.fault in _WRONG:
                raise SettingsError(f"{self._settings.model}: {outcome.message}")
            if repetition < self._back_off.attempts:
                await self._clock.sleep(self._back_off.wait(repetition, self._rng, outcome.retry_after))
        raise Transient(f"the endpoint embeds nothing: {outcome.message}", outcome.retry_after)

    async def _paid(self, texts: list[str], prompt_hash: str, billed: BilledCandidate) -> Outcome:
        chosen = self._settings
        price = None if chosen.price is None else Price(chosen.price, 0.0)
        prompt = json.dumps({"model": chosen.model, "input": texts}, ensure_ascii=False)
        planned = PlannedCall(
            billed.run, billed.candidate, EMBED, chosen.model, chosen.endpoint, price, prompt, "", prompt_hash
        )
        worst = spend(price, math.ceil(len(prompt.encode("utf-8", "surrogatepass")) / self._bytes_per_token), 0)
        async with CallAccounting(billed.ledger, billed.journal, self._clock).account(planned, worst, []) as pending:
            pending.outcome = await self._ask(texts)
        return pending.outcome

    async def _ask(self, texts: list[str]) -> Outcome:
        outcome = await self._client.embed(self._settings.model, texts)
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


CHOICES = ("local", "openai")
NOT_HERE_SECONDS = 30.0
Embed = Callable[[str, str, Job], Awaitable[Vector | None]]
"""From a text and the mind of a run to the text's vector by an endpoint, None where none is to be asked."""


def endpoint_embedder(environment: Mapping[str, str]) -> OpenAIEmbedder | None:
    """The embedder behind an endpoint, or None where the service's own is wanted.

    Raises SettingsError for an unknown choice and for an endpoint that is asked for and not described.
    """
    choice = environment.get("ASI_EMBEDDER", "")
    if choice not in ("", *CHOICES):
        raise SettingsError(f"ASI_EMBEDDER={choice!r} is impossible: choose {' or '.join(CHOICES)}.")
    settings = None if choice == "local" else load_embedding(environment)
    if settings is None and choice == "openai":
        raise SettingsError(
            "ASI_EMBEDDER=openai needs a model: set ASI_EMBEDDING_MODEL, or an [embedding] section in ASI_MIND_FILE."
        )
    return None if settings is None else OpenAIEmbedder(settings)


class RunEmbedder:
    """Embeds for the candidates of runs: what an endpoint takes is paid by the run and goes into the record.

    A run that answers from a record takes its vectors from there.
    """

    def __init__(self, endpoint: OpenAIEmbedder | None, minds: Minds) -> None:
        self._endpoint = endpoint
        self._minds = minds

    async def vector(self, text: str, mind: str, job: Job, space: str = "") -> Vector | None:
        """The text in the endpoint's space, for the candidate of `job`, whose run's mind is called `mind`.

        None where no endpoint is at hand, where it embeds in another space than the one asked for, and where a run
        that answers from a record alone does not have the text in it. Raises BudgetExhausted as a mind does, and
        Transient when the endpoint does not answer.
        """
        record = await self._minds.record(mind, job)
        known = None if record is None else await record.embedded(job.event.candidate, text)
        if known is not None and space in ("", space_of(known.model)):
            return vectors_of(known.model, known.answer.decode())[0]
        if self._endpoint is None or space not in ("", self._endpoint.name) or (record is not None and record.strict):
            return None
        return (await self._endpoint.embed([text], self._minds.billed(job)))[0]

    async def close(self) -> None:
        """Close the connections."""
        if self._endpoint is not None:
            await self._endpoint.close()


class MotivationEmbedder:
    """Where motivations are compared. Vectors of two embedders never meet: a run goes on in the space it began in."""

    def __init__(self, local: Embedder, paid: RunEmbedder | None = None) -> None:
        self._local = local
        self._paid = paid

    async def motivation(self, text: str, space: str, mind: str, job: Job) -> Vector:
        """The text in the space called `space`; "" for a run that has no vectors yet: the endpoint's if there is one.

        Raises Transient where its embedder is not at hand (another replica, or this one with other settings, may have
        it) or does not answer, and BudgetExhausted as a mind does.
        """
        if self._paid is not None and space != self._local.name:
            vector = await self._paid.vector(text, mind, job, space)
            if vector is not None:
                return vector
        if space not in ("", self._local.name):
            raise Transient(
                f"this run's motivations are embedded by {space}, which is not at hand: "
                "set ASI_EMBEDDER and ASI_EMBEDDING_MODEL as they were when the run began",
                NOT_HERE_SECONDS,
            )
        return (await self._local.embed([text]))[0]
