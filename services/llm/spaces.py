"""Which embedder a service uses, and which one a run's vectors were made by.

    ASI_EMBEDDER=openai   the [embedding] section of ASI_MIND_FILE, or ASI_EMBEDDING_MODEL at OPENAI_BASE_URL
    ASI_EMBEDDER=local    none but the service's own, whatever else is described
    unset                 the endpoint where one is described, else the service's own

What an endpoint embeds for a candidate is part of its run's budget; the cognition base belongs to no run.
"""

from collections.abc import Awaitable, Callable, Mapping

from services.chassis.errors import SettingsError, Transient
from services.chassis.worker import Job
from services.llm.embedder import Embedder, Vector
from services.llm.minds import Minds
from services.llm.openai_embedder import OpenAIEmbedder, space_of, vectors_of
from services.llm.settings import load_embedding

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
        return (await self._endpoint.embed([text], self._minds.payer(job)))[0]

    async def close(self) -> None:
        """Close the connections."""
        if self._endpoint is not None:
            await self._endpoint.close()


class Spaces:
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
