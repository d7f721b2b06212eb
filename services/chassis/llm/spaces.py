"""Which embedder a service uses, and which one a run's vectors were made by.

    ASI_EMBEDDER=openai   the [embedding] section of ASI_MIND_FILE, or ASI_EMBEDDING_MODEL at OPENAI_BASE_URL
    ASI_EMBEDDER=local    none but the service's own, whatever else is described
    unset                 the endpoint where one is described, else the service's own

What embedding costs is small and is not part of a run's budget.
"""

from collections.abc import Mapping

from services.chassis.errors import SettingsError, Transient
from services.chassis.llm.embedder import Embedder
from services.chassis.llm.openai_embedder import OpenAIEmbedder
from services.chassis.llm.settings import load_embedding

CHOICES = ("local", "openai")
NOT_HERE_SECONDS = 30.0


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


class Spaces:
    """The embedders at hand. Vectors of two embedders never meet: a run goes on in the space that it began in."""

    def __init__(self, first: Embedder, *others: Embedder) -> None:
        self._first = first
        self._known = {one.name: one for one in (*others, first)}

    def of(self, name: str) -> Embedder:
        """The embedder called `name`; the first one for a run that has no vectors yet (an empty name).

        Raises Transient where it is not at hand: another replica, or this one with other settings, may have it.
        """
        if not name:
            return self._first
        if name not in self._known:
            raise Transient(
                f"this run's motivations are embedded by {name}, and only {', '.join(self._known)} is at hand: "
                "set ASI_EMBEDDER and ASI_EMBEDDING_MODEL as they were when the run began",
                NOT_HERE_SECONDS,
            )
        return self._known[name]
